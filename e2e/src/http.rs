//! The little of the HTTP API that the checker uses: sending, and reading the log.

use std::sync::Arc;
use std::time::Duration;

use client::Address;
use protocol::{ErrorCode, Event, MessageId, RoomId, Seq, Timestamp, UserId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use ureq::Agent;

use crate::history::Said;

/// Longer than any answer may take, also while a process is stopped for some seconds.
const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// An HTTP client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http {
    agent: Agent,
}

/// A piece of a room's log.
#[derive(Debug, Deserialize)]
pub struct EventPage {
    pub items: Vec<Arc<Event>>,
    pub next: Option<String>,
    pub head: Seq,
}

/// There was no good answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HttpError {
    /// A refusal as the API gives them.
    #[error("{}: {message}", code.as_str())]
    Refused { code: ErrorCode, message: String },
    /// No answer, half an answer, or not one of this API.
    #[error("{0}")]
    Broken(String),
}

impl HttpError {
    /// Whether it is worth asking again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.is_retryable(),
            Self::Broken(_) => true,
        }
    }
}

#[derive(Deserialize)]
struct Problem {
    code: ErrorCode,
    #[serde(default)]
    detail: String,
}

#[derive(Deserialize)]
struct Ack {
    room: RoomId,
    seq: Seq,
    at: Timestamp,
    #[serde(default)]
    duplicate: bool,
}

impl Default for Http {
    fn default() -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .proxy(None)
            .build();
        Self {
            agent: config.into(),
        }
    }
}

impl Http {
    /// `GET /v1/rooms/{room}/events?{query}`.
    ///
    /// # Errors
    /// When there is no page.
    pub async fn events(
        &self,
        server: &Address,
        user: &UserId,
        room: &RoomId,
        query: &str,
    ) -> Result<EventPage, HttpError> {
        let url = server.http(&format!("/v1/rooms/{room}/events?{query}"));
        let request = self.agent.get(url).header("x-darda-user", user.as_str());
        blocking(move || read(request.call())).await
    }

    /// `POST /v1/rooms/{room}/messages`.
    ///
    /// # Errors
    /// When it was not answered, or not by this API.
    pub async fn send(
        &self,
        server: &Address,
        user: &UserId,
        room: &RoomId,
        send: &protocol::Send,
    ) -> Result<Said, HttpError> {
        let url = server.http(&format!("/v1/rooms/{room}/messages"));
        let request = self.agent.post(url).header("x-darda-user", user.as_str());
        let mut body = json!({"id": send.id, "text": send.text});
        if let Some(reply_to) = send.reply_to {
            body["reply_to"] = json!(reply_to);
        }
        if let Some(meta) = &send.meta {
            body["meta"] = json!(meta);
        }
        let body = body.to_string();
        let answer = blocking(move || {
            let request = request.header("content-type", "application/json");
            read::<Ack>(request.send(body))
        });
        match answer.await {
            Ok(ack) => Ok(Said::Ack {
                room: ack.room,
                seq: ack.seq,
                at: ack.at,
                duplicate: ack.duplicate,
            }),
            Err(HttpError::Refused { code, message }) => Ok(Said::Refused { code, message }),
            Err(error) => Err(error),
        }
    }

    /// `GET /readyz`.
    ///
    /// # Errors
    /// When it is not, or does not answer.
    pub async fn ready(&self, server: &Address) -> Result<(), HttpError> {
        let request = self.agent.get(server.http("/readyz"));
        blocking(move || read::<serde_json::Value>(request.call()))
            .await
            .map(drop)
    }

    /// Reads a room's whole log, page by page. What comes while it reads may be part of it or not.
    ///
    /// # Errors
    /// When a page cannot be had, or is empty though the log goes on.
    pub async fn log(
        &self,
        server: &Address,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Vec<Arc<Event>>, HttpError> {
        let mut events: Vec<Arc<Event>> = Vec::new();
        loop {
            let after = events.last().map_or(Seq::ZERO, |event| event.seq);
            let query = format!("after={after}&limit=200");
            let page = self.events(server, user, room, &query).await?;
            let Some(last) = page.items.last() else {
                if page.head > after {
                    let gap = format!("nothing follows {after}, and the head is {}", page.head);
                    return Err(HttpError::Broken(gap));
                }
                return Ok(events);
            };
            if last.seq <= after {
                let back = format!("asked for what follows {after}, got {}", last.seq);
                return Err(HttpError::Broken(back));
            }
            events.extend(page.items);
        }
    }
}

/// The same act with other content, to see that a used id is not taken again.
#[must_use]
pub fn forged(room: &RoomId, id: MessageId) -> protocol::Send {
    protocol::Send {
        id,
        room: Some(room.clone()),
        to: None,
        text: "something else under a used id".to_owned(),
        reply_to: None,
        meta: None,
    }
}

async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
) -> Result<T, HttpError> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(answer) => answer,
        Err(error) => Err(HttpError::Broken(error.to_string())),
    }
}

fn read<T: DeserializeOwned>(
    result: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<T, HttpError> {
    let broken = |error: &dyn std::fmt::Display| HttpError::Broken(error.to_string());
    let mut response = result.map_err(|error| broken(&error))?;
    let status = response.status();
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    let body = body.read_to_vec().map_err(|error| broken(&error))?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| broken(&error));
    }
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(HttpError::Refused {
            code: problem.code,
            message: problem.detail,
        }),
        // A proxy in between, for example.
        Err(_) => Err(HttpError::Broken(format!("HTTP {status}"))),
    }
}
