//! What happened in a session, as its clients saw it: every attempt to send, every answer, every event that anybody was
//! shown, and the logs in the end. The [judge](crate::judge) needs nothing else, so a history that was written to a
//! file can be judged again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::engine::Act;
use protocol::{ErrorCode, Event, EventBody, MessageId, RoomId, Seq, Timestamp, UserId};
use serde::{Deserialize, Serialize};

/// Microseconds since the session began, on a clock that does not go back.
pub type Micros = u64;

/// The clock of a session. All clients are in one process, so their times can be compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Micros {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Microseconds as a duration.
#[must_use]
pub fn micros(time: Micros) -> Duration {
    Duration::from_micros(time)
}

/// A whole session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// Every act of every sender.
    pub sent: Vec<Sent>,
    /// Every view of every reader.
    pub views: Vec<View>,
    /// The logs when all was over: what is kept.
    pub logs: BTreeMap<RoomId, Vec<Arc<Event>>>,
    /// The same logs as other places have them, such as the database: by place.
    pub copies: BTreeMap<String, BTreeMap<RoomId, Vec<Arc<Event>>>>,
    /// How far readers that stay have to come in each room.
    pub ends: BTreeMap<RoomId, Seq>,
    /// What was broken when, in order.
    pub faults: Vec<Injection>,
    /// When senders began and when they made their last new act.
    pub sending: (Micros, Micros),
    /// The connections that a crowd left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<Leave>,
}

/// A client of a crowd left a connection that it would have kept.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Leave {
    pub at: Micros,
    pub why: Why,
    /// Since when it had none: who is asked to move keeps the old one, and may lose it before there is another.
    pub without: Option<Micros>,
    /// When it was subscribed again.
    pub back: Option<Micros>,
}

/// Why a connection was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The server was about to leave and said so. The connection goes on until there is another.
    Asked,
    /// The server closed it with this code.
    Closed(u16),
    /// It broke, or nothing came over it any more.
    Broken,
}

/// An act of a sender: one id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sent {
    pub from: UserId,
    pub act: Act,
    /// Every time it was handed to a server, the first one first.
    pub tries: Vec<Try>,
    /// Every answer that came.
    pub answers: Vec<Answer>,
    /// What was answered when the id was used again for something else, after an ack. An ack would be a lie.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgeries: Vec<Answer>,
}

/// An attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Try {
    pub at: Micros,
    /// The pod that it went to.
    pub via: Arc<str>,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub at: Micros,
    pub via: Arc<str>,
    pub said: Said,
}

/// What an answer said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    Ack {
        room: RoomId,
        seq: Seq,
        at: Timestamp,
        duplicate: bool,
    },
    Refused {
        code: ErrorCode,
        message: String,
    },
}

impl Sent {
    /// The sender's id of the act.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.act.id()
    }

    /// The room it went to. Acts of the workload name their room.
    #[must_use]
    pub fn room(&self) -> Option<&RoomId> {
        self.act.room()
    }

    /// When it was first handed to a server.
    #[must_use]
    pub fn first_try(&self) -> Option<Micros> {
        self.tries.first().map(|one| one.at)
    }

    /// The acks in the order they came: when, and which place they named.
    pub fn acks(&self) -> impl Iterator<Item = (&Answer, &RoomId, Seq, Timestamp)> {
        self.answers.iter().filter_map(|answer| match &answer.said {
            Said::Ack { room, seq, at, .. } => Some((answer, room, *seq, *at)),
            Said::Refused { .. } => None,
        })
    }

    /// When the first ack came.
    #[must_use]
    pub fn first_ack(&self) -> Option<Micros> {
        self.acks().map(|(answer, ..)| answer.at).min()
    }
}

/// What an act becomes in the log.
#[must_use]
pub fn body_of(act: &Act) -> EventBody {
    match act.clone() {
        Act::Send(send) => EventBody::Message {
            text: send.text,
            reply_to: send.reply_to,
            meta: send.meta,
        },
        Act::Edit(edit) => EventBody::Edit {
            target: edit.seq,
            text: edit.text,
        },
        Act::Delete(delete) => EventBody::Delete { target: delete.seq },
        Act::React(react) => EventBody::Reaction {
            target: react.seq,
            emoji: react.emoji,
            on: react.on,
        },
    }
}

/// What one reader saw of one room, from one position on. A reader that begins anew elsewhere has another view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    pub reader: String,
    pub source: Source,
    pub room: RoomId,
    /// The position it began from.
    pub after: Seq,
    pub steps: Vec<Step>,
    /// Whether the reader stayed to the end, and so has to know all of the log.
    pub to_the_end: bool,
}

/// How a view came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The bare frames of sockets: nothing mends what a server leaves out.
    Socket,
    /// What the client library delivers.
    Library,
    /// Pages of the log over HTTP.
    Pages,
}

/// A step of a view.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A subscription was confirmed. `asked` is the position of the reader.
    Resumed {
        at: Micros,
        via: Arc<str>,
        asked: Seq,
        after: Seq,
        head: Seq,
    },
    Shown {
        at: Micros,
        event: Arc<Event>,
    },
    /// The server named a head, and for too long nothing came although the reader was listening.
    Stuck {
        at: Micros,
        head: Seq,
    },
    /// For too long the server neither confirmed nor refused a subscription, on a connection that was alive.
    Unanswered {
        at: Micros,
    },
    /// The reader was told that the room is not there (any more), or starts anew.
    Closed {
        at: Micros,
        reason: String,
    },
}

/// A fault that was injected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Injection {
    /// The fault's name.
    pub fault: String,
    /// Which one of this session it is, from 0.
    pub run: u32,
    /// What exactly was done, such as the process that was hit.
    pub what: String,
    pub at: Micros,
    /// When everything was whole again from the outside; recovery begins here.
    pub healed: Micros,
}
