//! What the engine asks for, and what may be in its outbox.

use std::sync::Arc;

use protocol::{
    ClientFrame, Delete, Edit, ErrorCode, Event, MessageId, React, RoomId, Send, Seq, ServerFrame,
    Timestamp,
};
use serde::{Deserialize, Serialize};

use super::Conn;

/// Something to do, or to tell the application.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Open socket `conn`, then say `opened` or `closed`.
    Connect { conn: Conn },
    /// Close socket `conn`. The engine has forgotten it already.
    Close { conn: Conn },
    /// Put a frame on socket `conn`.
    SendFrame { conn: Conn, frame: ClientFrame },
    /// The state of the connection changed.
    Status(State),
    /// The next event of a room: each once, in order, without a hole.
    Deliver { event: Arc<Event> },
    /// A frame of the server that is not part of a room's log.
    Signal { frame: ServerFrame },
    /// The room's log is not the one that was known: forget its events. Those after `position` follow.
    ResetRoom {
        room: RoomId,
        position: Seq,
        head: Seq,
    },
    /// The room is no longer subscribed, and will not be by itself.
    RoomClosed {
        room: RoomId,
        reason: ClosedReason,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// What became of something submitted.
    Outbox {
        id: MessageId,
        #[serde(flatten)]
        state: OutboxState,
    },
}

/// The state of the connection as a person would say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Connecting,
    Online,
    Waiting {
        retry_in_ms: u64,
    },
    /// Nothing more will be tried until `start`.
    Stopped {
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<ErrorCode>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

/// Why a room was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ClosedReason {
    Gone(Gone),
    Refused(ErrorCode),
}

/// What a notice said of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gone {
    Removed,
    Deleted,
}

/// The way of something submitted: queued, sending, perhaps waiting, and at last sent or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OutboxState {
    /// Kept until it can be sent.
    Queued,
    /// On its way, not yet acknowledged.
    Sending,
    /// Refused for now.
    Waiting { code: ErrorCode, retry_in_ms: u64 },
    /// Kept by the server for good. No longer in the outbox.
    Sent {
        room: RoomId,
        seq: Seq,
        at: Timestamp,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        duplicate: bool,
    },
    /// Refused for good. No longer in the outbox.
    Failed { code: FailureCode, message: String },
}

/// Why something cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum FailureCode {
    Server(ErrorCode),
    Local(LocalCode),
}

/// Refusals of the engine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalCode {
    OutboxFull,
}

impl std::fmt::Display for FailureCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server(code) => code.as_str(),
            Self::Local(LocalCode::OutboxFull) => "outbox_full",
        })
    }
}

/// What has an id of the sender, and is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Act {
    Send(Send),
    Edit(Edit),
    Delete(Delete),
    React(React),
}

impl Act {
    /// The sender's id.
    #[must_use]
    pub fn id(&self) -> MessageId {
        match self {
            Self::Send(act) => act.id,
            Self::Edit(act) => act.id,
            Self::Delete(act) => act.id,
            Self::React(act) => act.id,
        }
    }

    /// The room it goes to; `None` when it is addressed to a user.
    #[must_use]
    pub fn room(&self) -> Option<&RoomId> {
        match self {
            Self::Send(act) => act.room.as_ref(),
            Self::Edit(act) => Some(&act.room),
            Self::Delete(act) => Some(&act.room),
            Self::React(act) => Some(&act.room),
        }
    }
}

impl From<Act> for ClientFrame {
    fn from(act: Act) -> Self {
        match act {
            Act::Send(act) => Self::Send(act),
            Act::Edit(act) => Self::Edit(act),
            Act::Delete(act) => Self::Delete(act),
            Act::React(act) => Self::React(act),
        }
    }
}
