//! The little of the HTTP API that a terminal needs.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use protocol::{MessageId, RoomId, Seq};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::Agent;

use crate::args::{Account, Target};

const TIMEOUT: Duration = Duration::from_secs(15);

/// Requests of one user to one server.
#[derive(Clone, Debug)]
pub struct Rest {
    agent: Agent,
    account: Account,
}

/// One page of a list. Items keep fields this program does not know, for `--json`.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub items: Vec<Value>,
    pub next: Option<String>,
}

/// What is shown of a message.
#[derive(Debug, Deserialize, Serialize)]
pub struct Message {
    pub seq: Seq,
    pub from: String,
    pub at: String,
    pub text: Option<String>,
    #[serde(default)]
    pub edited_at: Option<String>,
    #[serde(default)]
    pub reactions: Vec<Reaction>,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct Reaction {
    pub emoji: String,
    pub users: Vec<String>,
}

/// What is shown of a room.
#[derive(Debug, Deserialize)]
pub struct Room {
    pub id: RoomId,
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub topic: Option<String>,
    pub members: u64,
    pub head: u64,
    #[serde(default)]
    pub role: Option<String>,
}

/// A refusal, `application/problem+json`.
#[derive(Debug, Deserialize)]
struct Problem {
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    code: String,
}

impl Rest {
    #[must_use]
    pub fn new(account: Account) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            // The socket takes no detour either; what cannot chat should not seem to work.
            .proxy(None)
            .user_agent(concat!("darda/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.into(),
            account,
        }
    }

    /// # Errors
    /// When the server is away, refuses, or answers with something else.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = self.agent.get(self.account.server.http(path));
        let request = request.header("x-darda-user", self.account.user.as_str());
        self.answer(request.call())
    }

    fn put<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = self.agent.put(self.account.server.http(path));
        let request = request.header("x-darda-user", self.account.user.as_str());
        self.answer(request.send_empty())
    }

    fn answer<T: DeserializeOwned>(
        &self,
        result: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<T> {
        let server = &self.account.server;
        let mut response = result.map_err(|error| {
            anyhow!("cannot reach {server}: {error}. Is it running, and is --url right?")
        })?;
        let status = response.status();
        let body = response
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_vec()
            .with_context(|| format!("the answer of {server} broke off"))?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .with_context(|| format!("{server} does not answer like a Darda server"));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if !problem.code.is_empty() => {
                let what = if problem.detail.is_empty() {
                    problem.title
                } else {
                    problem.detail
                };
                bail!("{what} ({})", problem.code)
            }
            _ => bail!("{server} answered with HTTP {status}"),
        }
    }

    /// The id of the room that a person named.
    ///
    /// # Errors
    /// When the direct room with a user cannot be had.
    pub fn room(&self, target: &Target) -> anyhow::Result<RoomId> {
        match target {
            Target::Room(room) => Ok(room.clone()),
            Target::User(user) => {
                let room: Room = self.put(&format!("/v1/direct/{user}"))?;
                Ok(room.id)
            }
        }
    }

    /// The last `limit` messages before `before`, oldest first.
    ///
    /// # Errors
    /// When the server is away or refuses.
    pub fn history(
        &self,
        room: &RoomId,
        limit: u32,
        before: Option<Seq>,
    ) -> anyhow::Result<Vec<Value>> {
        let mut pages: Vec<Vec<Value>> = Vec::new();
        let mut left = limit as usize;
        let mut cursor: Option<String> = None;
        while left > 0 {
            let count = left.min(200);
            let mut path = format!("/v1/rooms/{room}/messages?limit={count}");
            if let Some(seq) = before {
                path.push_str(&format!("&before={seq}"));
            }
            if let Some(cursor) = &cursor {
                path.push_str("&cursor=");
                path.push_str(&encode(cursor));
            }
            let page: Page = self.get(&path)?;
            left -= page.items.len().min(left);
            pages.push(page.items);
            match further(page.next, cursor) {
                // A page can be short, even empty, before the end.
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        Ok(pages.into_iter().rev().flatten().collect())
    }

    /// The ways of what has this id.
    ///
    /// # Errors
    /// When the server is away or refuses, also because there is no such message.
    pub fn trace(&self, id: MessageId, room: Option<&RoomId>) -> anyhow::Result<Vec<Value>> {
        #[derive(Deserialize)]
        struct Trace {
            items: Vec<Value>,
        }
        let query = room.map_or(String::new(), |room| format!("?room={room}"));
        let trace: Trace = self.get(&format!("/v1/trace/{id}{query}"))?;
        Ok(trace.items)
    }

    /// All rooms the user can see.
    ///
    /// # Errors
    /// When the server is away or refuses.
    pub fn rooms(&self, mine: bool) -> anyhow::Result<Vec<Value>> {
        let mut rooms = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut path = format!("/v1/rooms?mine={mine}&limit=200");
            if let Some(cursor) = &cursor {
                path.push_str("&cursor=");
                path.push_str(&encode(cursor));
            }
            let page: Page = self.get(&path)?;
            rooms.extend(page.items);
            match further(page.next, cursor) {
                Some(next) => cursor = Some(next),
                None => return Ok(rooms),
            }
        }
    }
}

/// Where the next page begins; a server that does not get any further has ended.
fn further(next: Option<String>, cursor: Option<String>) -> Option<String> {
    next.filter(|next| Some(next) != cursor.as_ref())
}

/// What is shown of an item.
///
/// # Errors
/// When the server sent something else.
pub fn shown<T: DeserializeOwned>(item: &Value) -> anyhow::Result<T> {
    T::deserialize(item).context("the server sent something that is not understood")
}

/// Makes a text safe to stand in a query.
fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
