//! Frames: what clients and servers say to each other over a socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{ErrorCode, Event, Limits, MessageId, Meta, RoomId, Seq, SessionId, Timestamp, UserId};

/// A frame of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientFrame {
    Hello(Hello),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    Send(Send),
    Edit(Edit),
    Delete(Delete),
    React(React),
    Received(Position),
    Read(Position),
    Typing(Typing),
    Fetch(Fetch),
}

/// Signs in; the first frame, unless the upgrade request did so. In `open` mode a name is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Name and version of the client program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// Asks for the events of rooms. Answered by one `subscribed` (or `error`) per room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub rooms: Vec<SubscribeRoom>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeRoom {
    pub room: RoomId,
    /// The client's position: every event after it follows. Absent: only what comes from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Seq>,
}

/// Ends subscriptions. Answered by `unsubscribed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribe {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub rooms: Vec<RoomId>,
}

/// Writes a message into `room`, or into the direct room with user `to`. Answered by `ack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    pub id: MessageId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<RoomId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<UserId>,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
}

/// Replaces the text of one's own message `seq`. Answered by `ack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    pub id: MessageId,
    pub room: RoomId,
    pub seq: Seq,
    pub text: String,
}

/// Takes message `seq` back. Answered by `ack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    pub id: MessageId,
    pub room: RoomId,
    pub seq: Seq,
}

/// Puts an emoji on message `seq`, or takes it off. Answered by `ack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct React {
    pub id: MessageId,
    pub room: RoomId,
    pub seq: Seq,
    pub emoji: String,
    pub on: bool,
}

/// Moves one's own `received` or `read` cursor up to `seq`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub room: RoomId,
    pub seq: Seq,
}

/// Says that one has begun or stopped typing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Typing {
    pub room: RoomId,
    pub on: bool,
}

/// Reads a piece of a room's log. Answered by `events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub room: RoomId,
    pub after: Seq,
    pub limit: u32,
}

/// A frame that was not understood, with what is needed to answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFrame {
    /// What was wrong and what would be right.
    pub message: String,
    /// The `ref` of the frame, when it could be read.
    pub reference: Option<String>,
    /// The `id` of the frame, when it could be read.
    pub id: Option<MessageId>,
}

impl BadFrame {
    /// The answer to the client.
    #[must_use]
    pub fn into_error(self) -> ErrorFrame {
        ErrorFrame {
            reference: self.reference,
            id: self.id,
            ..ErrorFrame::new(ErrorCode::BadRequest, self.message)
        }
    }
}

/// What is looked at before the type of a frame is known.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "ref")]
    reference: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

/// The longest `ref` a client may use, in characters.
const REF_CHARS_MAX: usize = 64;

impl ClientFrame {
    /// Reads one text frame.
    ///
    /// # Errors
    /// With a sentence that says what was wrong: JSON that cannot be read, an unknown `type`, a field that is missing
    /// or has another form than the protocol gives it. Unknown fields are ignored.
    pub fn decode(json: &[u8]) -> Result<Self, BadFrame> {
        let bad = |message: String| BadFrame {
            message,
            reference: None,
            id: None,
        };
        if json.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
            return Err(bad("a frame is one JSON object".to_owned()));
        }
        let head: Head<'_> = serde_json::from_slice(json)
            .map_err(|error| bad(format!("the frame is not valid JSON: {error}")))?;
        let reference = head
            .reference
            .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
            .filter(|text| text.chars().count() <= REF_CHARS_MAX);
        let id = head
            .id
            .and_then(|raw| serde_json::from_str::<MessageId>(raw.get()).ok());
        let bad = |message: String| BadFrame {
            message,
            reference: reference.clone(),
            id,
        };
        let Some(kind) = head.kind else {
            return Err(bad("type: is missing".to_owned()));
        };
        if reference.is_none() && head.reference.is_some_and(|raw| raw.get() != "null") {
            return Err(bad(format!(
                "ref: must be a string of at most {REF_CHARS_MAX} characters"
            )));
        }
        let frame = match kind.get() {
            "\"hello\"" => read(json).map(Self::Hello),
            "\"subscribe\"" => read(json).map(Self::Subscribe),
            "\"unsubscribe\"" => read(json).map(Self::Unsubscribe),
            "\"send\"" => read(json).map(Self::Send),
            "\"edit\"" => read(json).map(Self::Edit),
            "\"delete\"" => read(json).map(Self::Delete),
            "\"react\"" => read(json).map(Self::React),
            "\"received\"" => read(json).map(Self::Received),
            "\"read\"" => read(json).map(Self::Read),
            "\"typing\"" => read(json).map(Self::Typing),
            "\"fetch\"" => read(json).map(Self::Fetch),
            other => Err(match serde_json::from_str::<String>(other) {
                Ok(word) => {
                    let word: String = word.chars().take(32).collect();
                    format!("type: '{word}' is unknown")
                }
                Err(_) => "type: must be a string".to_owned(),
            }),
        };
        frame.map_err(bad)
    }

    /// Writes the frame as JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("frames have string keys and no failing parts")
    }
}

fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(json).or_else(|_| {
        // Only a frame already known to be bad pays for finding out where.
        let mut reader = serde_json::Deserializer::from_slice(json);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.into_inner().to_string();
            // A missing field is named by the reason itself.
            if path == "." {
                reason
            } else {
                format!("{path}: {reason}")
            }
        })
    })
}

/// A frame of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    Welcome(Welcome),
    Subscribed(Subscribed),
    Unsubscribed {
        #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
        rooms: Vec<RoomId>,
    },
    Event(Arc<Event>),
    Events {
        #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
        room: RoomId,
        events: Vec<Arc<Event>>,
        head: Seq,
        more: bool,
    },
    Ack {
        id: MessageId,
        room: RoomId,
        seq: Seq,
        at: Timestamp,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        duplicate: bool,
    },
    Error(ErrorFrame),
    Receipt {
        room: RoomId,
        user: UserId,
        received: Seq,
        read: Seq,
    },
    Typing {
        room: RoomId,
        user: UserId,
        on: bool,
    },
    Presence {
        user: UserId,
        status: Status,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_seen: Option<Timestamp>,
    },
    Notice {
        kind: NoticeKind,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        room: Option<RoomId>,
    },
    Heads {
        rooms: BTreeMap<RoomId, Seq>,
    },
    Goaway {
        reconnect_in_ms: u64,
        reason: GoawayReason,
    },
}

impl ServerFrame {
    /// Reads one text frame of a server.
    ///
    /// # Errors
    /// When it is not a frame this version knows. A client ignores it.
    pub fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Writes the frame as JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("frames have string keys and no failing parts")
    }
}

/// Writes the `event` frame of an event without building a `ServerFrame` first.
#[must_use]
pub fn encode_event(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"type\":\"event\",");
    let brace = out.len() - 1;
    serde_json::to_writer(&mut out, event).expect("writing to memory does not fail");
    // The object of the event goes on where the type ended: `,{` becomes `,`.
    out.copy_within(brace + 2.., brace + 1);
    out.pop();
    out
}

/// The first frame of the server, once somebody is signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub session: SessionId,
    pub user: UserId,
    pub time: Timestamp,
    /// The server pings this often; a client that hears nothing for three times as long has lost its connection.
    pub heartbeat_secs: u64,
    pub limits: Limits,
}

/// A subscription has begun: the events after `after` follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub room: RoomId,
    /// The last seq of the room.
    pub head: Seq,
    /// Where the events that follow start. Lower than asked for when the room ends before that.
    pub after: Seq,
    /// The user's own read cursor.
    pub read: Seq,
    /// How many members the room has.
    pub members: u64,
    /// Who of them is online, at most 200.
    pub online: Vec<UserId>,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorFrame {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
    /// The room that the refused part of a `subscribe` named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<RoomId>,
    pub code: ErrorCode,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl ErrorFrame {
    /// A refusal that names nothing but the reason.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            reference: None,
            id: None,
            room: None,
            code,
            message: message.into(),
            retry_after_ms: None,
        }
    }
}

/// Whether a user is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Online,
    /// Connected, but without a sign of life from the person for some minutes.
    Away,
    Offline,
    /// The presence store is away.
    Unknown,
}

/// What happened to the user outside the rooms' logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    RoomAdded,
    RoomRemoved,
    RoomDeleted,
    SessionRevoked,
}

/// Why the server asks a client to connect again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoawayReason {
    Rollout,
    Overload,
    TokenExpired,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_field_is_named_and_the_frame_can_be_answered() {
        let id = "0198c0de-0000-7000-8000-000000000001";
        let json = format!(r#"{{"type":"send","id":"{id}","room":{{"$ne":1}},"text":"x"}}"#);
        let bad = ClientFrame::decode(json.as_bytes()).unwrap_err();
        assert!(bad.message.starts_with("room: "), "{}", bad.message);
        assert_eq!(bad.id.unwrap().to_string(), id);

        let bad =
            ClientFrame::decode(br#"{"type":"fetch","ref":"7","room":"a","after":-1,"limit":1}"#)
                .unwrap_err();
        assert!(bad.message.starts_with("after: "), "{}", bad.message);
        assert_eq!(bad.reference.as_deref(), Some("7"));
    }

    #[test]
    fn unknown_fields_are_ignored_and_unknown_types_are_not() {
        let frame = ClientFrame::decode(br#"{"type":"hello","user":"a","new":[[[1]]]}"#).unwrap();
        assert!(matches!(frame, ClientFrame::Hello(_)));
        let bad = ClientFrame::decode(br#"{"type":"dance"}"#).unwrap_err();
        assert_eq!(bad.message, "type: 'dance' is unknown");
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for bad in [
            &b""[..],
            b"[]",
            b"1",
            b"null",
            b"\"hello\"",
            b"{",
            b"{}",
            b"{\"type\":1}",
        ] {
            assert!(ClientFrame::decode(bad).is_err(), "{bad:?}");
        }
        let lone = br#"{"type":"typing","room":"a","on":true,"ref":"\ud800"}"#;
        assert!(ClientFrame::decode(lone).is_err());
        let lone = br#"{"type":"send","id":"0198c0de-0000-7000-8000-000000000001","room":"a","text":"\ud800"}"#;
        assert!(ClientFrame::decode(lone).is_err());
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let mut json = br#"{"type":"hello","user":"a","x":"#.to_vec();
        json.extend(std::iter::repeat_n(b'[', 30_000));
        json.extend(std::iter::repeat_n(b']', 30_000));
        json.push(b'}');
        // Whether it is ignored or refused does not matter; the server must survive it.
        let _ = ClientFrame::decode(&json);
    }
}
