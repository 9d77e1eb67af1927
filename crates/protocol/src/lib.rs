//! The Darda wire protocol, version 1: ids, events, frames, error and close codes, limits.
//!
//! Types and their JSON only. No sockets, no clocks, no async: everything here can be tested with plain values.
//! `docs/protocol.md` describes the same protocol for people who write clients.

mod code;
mod event;
mod frame;
mod id;
mod limits;
mod timestamp;

pub use code::{CloseCode, ErrorCode};
pub use event::{Event, EventBody, MemberChange, Meta, Role, RoomChange, Seq, SeqError};
pub use frame::{
    BadFrame, ClientFrame, Delete, Edit, ErrorFrame, Fetch, GoawayReason, Hello, NoticeKind,
    Position, React, Send, ServerFrame, Status, Subscribe, SubscribeRoom, Subscribed, Typing,
    Unsubscribe, Welcome, encode_event,
};
pub use id::{IdError, MessageId, RoomId, SessionId, UserId};
pub use limits::{Limits, check_emoji, check_meta, check_text};
pub use timestamp::{Timestamp, TimestampError};
