//! The relay: tells every process that has a room or user what happened there.

use std::sync::Arc;

use protocol::{Event, NoticeKind, RoomId, Seq, Status, Timestamp, UserId};
use serde::{Deserialize, Serialize};

/// Something that is worth showing but not worth keeping. Its JSON is what processes tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "snake_case")]
pub enum Signal {
    /// To the room: a member types, or stopped.
    Typing {
        room: RoomId,
        user: UserId,
        on: bool,
    },
    /// To the room: a member's cursors moved.
    Receipt {
        room: RoomId,
        user: UserId,
        received: Seq,
        read: Seq,
    },
    /// To the room: a member came, went, or went quiet.
    Presence {
        room: RoomId,
        user: UserId,
        status: Status,
        last_seen: Option<Timestamp>,
    },
    /// To all sessions of a user.
    Notice {
        user: UserId,
        kind: NoticeKind,
        room: Option<RoomId>,
    },
}

/// Where relayed things arrive in a process.
pub trait Sink: Send + Sync {
    /// Durable events, those of one room in chain order. Called from the adapter's own threads; must not block.
    fn events(&self, events: &[Arc<Event>]);

    /// A signal. Must not block.
    fn signal(&self, signal: &Signal);
}

/// Hands events and signals to every attached sink of every process that may have their room or user.
///
/// **At most once, a hint**: a sink can miss anything and finds out by the chain of `prev`, by the heads it reads, or
/// not at all (signals). Never blocks: what cannot be queued is dropped and counted.
pub trait Relay: Send + Sync {
    /// Adds a receiver for the rest of the process's life.
    fn attach(&self, sink: Arc<dyn Sink>);

    /// Relays events that are durable. Called by the log's adapter.
    fn events(&self, events: &[Arc<Event>]);

    /// Relays a signal.
    fn signal(&self, signal: Signal);

    /// This process wants what happens in the room, until [`Relay::unwatch`]. Must not block.
    fn watch(&self, _room: &RoomId) {}

    /// Nobody in this process is in the room any more. Must not block.
    fn unwatch(&self, _room: &RoomId) {}
}
