//! What the engine is given: bounds, what an earlier one left, and what happened.

use std::collections::BTreeMap;

use protocol::{Hello, Position, RoomId, Seq, ServerFrame, SubscribeRoom, Typing};
use serde::{Deserialize, Serialize};

use super::Conn;
use super::effect::Act;

/// Bounds and times. The defaults are right for people and programs; tests make them small.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The first frame on a new socket. `None` when the URL or a header signs in.
    pub hello: Option<Hello>,
    /// Acts that may wait for their ack; another one is refused with `outbox_full`.
    pub outbox_max: usize,
    /// Events per room that are kept while a hole before them is being filled. What does not fit is fetched again.
    pub hold_max: usize,
    /// From asking for a socket until its `welcome`.
    pub connect_timeout_ms: u64,
    /// From a request until its answer; then it is sent again.
    pub request_timeout_ms: u64,
    pub backoff_base_ms: u64,
    pub backoff_cap_ms: u64,
    /// A connection that lived this long starts the backoff anew when it is lost.
    pub stable_ms: u64,
    /// How long the server may take for the events that a `heads` frame announced.
    pub heads_grace_ms: u64,
    /// How long a `received` cursor waits for more events to confirm with it.
    pub received_delay_ms: u64,
    /// Events in one `fetch`; fewer if the server allows fewer.
    pub fetch_limit: u32,
    /// An act that was refused this often with `internal` is given back.
    pub internal_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hello: None,
            outbox_max: 1000,
            hold_max: 256,
            connect_timeout_ms: 10_000,
            request_timeout_ms: 10_000,
            backoff_base_ms: 250,
            backoff_cap_ms: 30_000,
            stable_ms: 10_000,
            heads_grace_ms: 1000,
            received_delay_ms: 250,
            fetch_limit: 200,
            internal_max: 10,
        }
    }
}

/// What survives the process: where each room was left, and what was not acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Saved {
    pub positions: BTreeMap<RoomId, Seq>,
    pub outbox: Vec<Act>,
}

/// When an input is handled, and a number in [0, 1) for the waits that are chosen in it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Milliseconds on any clock that does not go back.
    pub now_ms: u64,
    pub random: f64,
}

/// What happened.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Begin to connect, or begin again after `stopped`, with another `hello` if one is given.
    Start {
        #[serde(default)]
        hello: Option<Hello>,
    },
    /// Close everything. Positions and the outbox stay.
    Stop {},
    /// The network is said to be back: do not wait for the backoff.
    RetryNow {},
    /// The socket is open.
    Opened { conn: Conn },
    /// A frame came in.
    Frame { conn: Conn, frame: ServerFrame },
    /// Something came in that is no frame: a ping, or a frame of a type this version does not know.
    Heard { conn: Conn },
    /// The socket is gone, or could not be opened.
    Closed {
        conn: Conn,
        #[serde(default)]
        code: Option<u16>,
        #[serde(default)]
        reason: Option<String>,
    },
    /// The time that [`super::Engine::wake_at`] named has come.
    Tick {},
    /// Want the events of rooms: those after `after`, or without it those that happen from now on.
    Subscribe { rooms: Vec<SubscribeRoom> },
    /// No longer want them.
    Unsubscribe { rooms: Vec<RoomId> },
    /// Send something that has an id.
    Submit { act: Act },
    /// The person has seen everything up to `seq`.
    Read(Position),
    /// The person has begun or stopped typing. Dropped while offline.
    Typing(Typing),
}
