//! One WebSocket with typed frames.

use futures_util::{SinkExt, StreamExt};
use protocol::{ClientFrame, ServerFrame};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// The largest message that is taken from a server: a page of 200 of the longest messages fits.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

pub(crate) type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection that does nothing by itself but answer pings.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
}

/// What came in.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    Frame(ServerFrame),
    /// A sign of life: a ping or pong, or a text that this version does not know.
    Other,
    /// The end. `code` is absent when the connection broke.
    Closed {
        code: Option<u16>,
        reason: String,
    },
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The server answered the upgrade with another HTTP status.
    #[error("the server answered with HTTP {0}")]
    Refused(u16),
    #[error("{0}")]
    Broken(#[source] Box<Error>),
}

impl From<Error> for SocketError {
    fn from(error: Error) -> Self {
        match error {
            Error::Http(response) => Self::Refused(response.status().as_u16()),
            other => Self::Broken(Box::new(other)),
        }
    }
}

impl Socket {
    /// Opens a socket to a URL such as [`crate::Address::socket`] gives.
    ///
    /// # Errors
    /// When the server cannot be reached or does not want to.
    pub async fn open(url: &str) -> Result<Self, SocketError> {
        let stream = open(url).await?;
        Ok(Self { stream })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn send(&mut self, frame: &ClientFrame) -> Result<(), SocketError> {
        self.send_text(frame.encode()).await
    }

    /// Sends any text, also one that is no frame.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn send_text(&mut self, text: String) -> Result<(), SocketError> {
        Ok(self.stream.send(Message::text(text)).await?)
    }

    /// The next thing that comes in. After [`Incoming::Closed`] nothing else does.
    pub async fn next(&mut self) -> Incoming {
        incoming(self.stream.next().await)
    }

    /// The next frame; pings and unknown texts are passed over. `None` at the end.
    pub async fn next_frame(&mut self) -> Option<ServerFrame> {
        loop {
            match self.next().await {
                Incoming::Frame(frame) => return Some(frame),
                Incoming::Other => {}
                Incoming::Closed { .. } => return None,
            }
        }
    }

    /// Says good-bye and waits for the answer.
    pub async fn close(mut self) {
        let ended = async {
            if self.stream.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        };
        // A server that is gone does not answer, and that is all the same here.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), ended).await;
    }
}

pub(crate) async fn open(url: &str) -> Result<Stream, SocketError> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    // Chat frames are small and wanted at once: do not wait to fill a packet.
    let (stream, _) = connect_async_with_config(url, Some(config), true).await?;
    Ok(stream)
}

pub(crate) fn incoming(message: Option<Result<Message, Error>>) -> Incoming {
    match message {
        Some(Ok(Message::Text(text))) => {
            decode(text.as_bytes()).map_or(Incoming::Other, Incoming::Frame)
        }
        Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => Incoming::Closed {
            code: Some(code.into()),
            reason: reason.to_string(),
        },
        Some(Ok(Message::Close(None))) | None => Incoming::Closed {
            code: None,
            reason: "the server closed the connection".to_owned(),
        },
        Some(Ok(_)) => Incoming::Other,
        Some(Err(error)) => Incoming::Closed {
            code: None,
            reason: error.to_string(),
        },
    }
}

/// Reads a frame. Words that are newer than this client must not hide what the frame means: an event of an unknown kind
/// is read as a void, so that it keeps its place in the chain and the room goes on; an unknown error code as a final
/// refusal; an unknown reason to leave as any other.
fn decode(json: &[u8]) -> Option<ServerFrame> {
    if let Ok(frame) = ServerFrame::decode(json) {
        return Some(frame);
    }
    let mut value: Value = serde_json::from_slice(json).ok()?;
    match value.get("type")?.as_str()? {
        "event" => without_unknown_kind(&mut value),
        "events" => value
            .get_mut("events")?
            .as_array_mut()?
            .iter_mut()
            .for_each(without_unknown_kind),
        "error" => without_unknown::<protocol::ErrorCode>(&mut value, "code", "bad_request"),
        "goaway" => without_unknown::<protocol::GoawayReason>(&mut value, "reason", "rollout"),
        "presence" => without_unknown::<protocol::Status>(&mut value, "status", "unknown"),
        _ => return None,
    }
    serde_json::from_value(value).ok()
}

fn without_unknown_kind(event: &mut Value) {
    if serde_json::from_value::<protocol::Event>(event.clone()).is_err()
        && let Some(kind) = event.get_mut("kind")
    {
        *kind = Value::from("void");
    }
}

/// Puts `known` where a word stands that is no `T` of this version.
fn without_unknown<T: DeserializeOwned>(frame: &mut Value, field: &str, known: &str) {
    if let Some(word) = frame.get_mut(field)
        && word.is_string()
        && T::deserialize(&*word).is_err()
    {
        *word = Value::from(known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_a_later_version_keeps_its_place() {
        let json = br#"{"type":"event","room":"a","seq":2,"prev":1,"at":"2026-11-21T11:00:00.000Z","from":"bob","kind":"dance","style":"waltz"}"#;
        let Some(ServerFrame::Event(event)) = decode(json) else {
            panic!("not an event");
        };
        assert_eq!(event.seq.get(), 2);
        assert_eq!(event.body, protocol::EventBody::Void {});
        assert_eq!(decode(br#"{"type":"dance"}"#), None);
    }

    #[test]
    fn a_refusal_with_a_later_code_is_final() {
        let json = br#"{"type":"error","id":"0198c0de-0000-7000-8000-000000000001","code":"on_strike","message":"no","retry_after_ms":5}"#;
        let Some(ServerFrame::Error(error)) = decode(json) else {
            panic!("not an error");
        };
        assert!(!error.code.is_retryable());
        assert_eq!(error.message, "no");
        assert!(error.id.is_some());
        assert_eq!(decode(br#"{"type":"error","code":7,"message":"no"}"#), None);
    }

    #[test]
    fn a_server_leaves_for_whatever_reason() {
        let json = br#"{"type":"goaway","reconnect_in_ms":1500,"reason":"holidays"}"#;
        let Some(ServerFrame::Goaway {
            reconnect_in_ms, ..
        }) = decode(json)
        else {
            panic!("not a goaway");
        };
        assert_eq!(reconnect_in_ms, 1500);
    }
}
