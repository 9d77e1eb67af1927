//! What the judge finds.

use std::collections::BTreeMap;
use std::fmt;

use protocol::{ErrorCode, MessageId, RoomId, Seq};
use serde::{Deserialize, Serialize};

use super::outage::Outage;
use crate::history::Micros;

/// What can be wrong, named by what it means for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// P1. It was acked, and it is not in the log, or not where the ack said.
    Lost,
    /// P3. It was shown, and it is not in the log.
    TakenBack,
    /// P2, P4. The same act is in the log twice, or an event was shown twice.
    Doubled,
    /// P4. Two acks of the same id name different places, or an ack confirmed other content under a used id.
    Moved,
    /// P2. Events stand or were shown in another order than the log's, or an act stands before one that had been acked
    /// before it was sent.
    Disordered,
    /// P2, P5. A reader was not shown an event between two others.
    Hole,
    /// P2. An event of the log does not follow the one before it.
    BrokenChain,
    /// P3. It was shown or acked otherwise than it stands in the log.
    Altered,
    /// Nobody sent what is in the log, or not so.
    Foreign,
    /// P5. A reader that stayed to the end was not shown the end, or it heard of events that never came.
    Behind,
    /// P7. An act was never answered, though everything was whole again; or a subscription was not, on a connection that
    /// was alive.
    Unanswered,
    /// P7. It was refused for good, or by a defect, though it was right.
    Refused,
    /// P2. Two places that hold the log do not hold the same.
    Diverged,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Lost,
        Self::TakenBack,
        Self::Doubled,
        Self::Moved,
        Self::Disordered,
        Self::Hole,
        Self::BrokenChain,
        Self::Altered,
        Self::Foreign,
        Self::Behind,
        Self::Unanswered,
        Self::Refused,
        Self::Diverged,
    ];

    /// The column of the table it counts in.
    #[must_use]
    pub fn column(self) -> Column {
        match self {
            Self::Lost | Self::TakenBack => Column::Lost,
            Self::Doubled | Self::Moved => Column::Doubled,
            Self::Disordered => Column::Disordered,
            Self::Hole | Self::BrokenChain | Self::Behind => Column::Holes,
            Self::Altered | Self::Foreign | Self::Unanswered | Self::Refused | Self::Diverged => {
                Column::Other
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::TakenBack => "taken back",
            Self::Doubled => "doubled",
            Self::Moved => "moved",
            Self::Disordered => "disordered",
            Self::Hole => "hole",
            Self::BrokenChain => "broken chain",
            Self::Altered => "altered",
            Self::Foreign => "foreign",
            Self::Behind => "behind",
            Self::Unanswered => "unanswered",
            Self::Refused => "refused",
            Self::Diverged => "diverged",
        })
    }
}

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    Lost,
    Doubled,
    Disordered,
    Holes,
    Other,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Violation {
    pub kind: Kind,
    pub room: Option<RoomId>,
    pub seq: Option<Seq>,
    pub id: Option<MessageId>,
    /// The sender, or the reader that saw it.
    pub who: Option<String>,
    /// When the clients could first know the thing that then turned out wrong. Tells which fault was near.
    pub at: Option<Micros>,
    /// What was expected and what was found, for people.
    pub detail: String,
}

impl Violation {
    /// A violation that says what; more is added by the functions below.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            room: None,
            seq: None,
            id: None,
            who: None,
            at: None,
            detail: detail.into(),
        }
    }

    #[must_use]
    pub fn in_room(mut self, room: &RoomId, seq: impl Into<Option<Seq>>) -> Self {
        self.room = Some(room.clone());
        self.seq = seq.into();
        self
    }

    #[must_use]
    pub fn of(mut self, who: impl ToString, id: impl Into<Option<MessageId>>) -> Self {
        self.who = Some(who.to_string());
        self.id = id.into();
        self
    }

    #[must_use]
    pub fn at(mut self, at: impl Into<Option<Micros>>) -> Self {
        self.at = at.into();
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(room) = &self.room {
            write!(f, " in {room}")?;
        }
        if let Some(seq) = self.seq {
            write!(f, " at {seq}")?;
        }
        if let Some(who) = &self.who {
            write!(f, ", {who}")?;
        }
        if let Some(id) = self.id {
            write!(f, ", id {id}")?;
        }
        if let Some(at) = self.at {
            write!(f, ", {:.3} s", at as f64 / 1e6)?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// How many violations of a kind are kept with all they say; the others are only counted.
pub const KEPT_MAX: usize = 50;

/// Everything the judge has to say about a session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Of each kind the first [`KEPT_MAX`].
    pub violations: Vec<Violation>,
    /// All of them.
    pub counts: BTreeMap<Kind, u64>,
    pub messages: Messages,
    pub outage: Outage,
}

/// What there was to judge.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Messages {
    /// Acts that were handed to a server at least once.
    pub sent: u64,
    pub acked: u64,
    /// Attempts beyond the first of an act.
    pub repeated: u64,
    /// Events in the logs, fences and voids among them.
    pub logged: u64,
    pub fences: u64,
    pub voids: u64,
    /// Events shown to readers, all together.
    pub shown: u64,
    /// Times that a reader resumed from a position.
    pub resumed: u64,
    /// Refusals that invite to try again, by code.
    pub refusals: BTreeMap<String, u64>,
}

impl Messages {
    pub(super) fn refused(&mut self, code: ErrorCode) {
        *self.refusals.entry(code.as_str().to_owned()).or_default() += 1;
    }
}

impl Verdict {
    /// Whether every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many violations a column of the table has.
    #[must_use]
    pub fn column(&self, column: Column) -> u64 {
        let of = |(kind, count): (&Kind, &u64)| (kind.column() == column).then_some(*count);
        self.counts.iter().filter_map(of).sum()
    }

    /// How many of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, violation: Violation) {
        let count = self.counts.entry(violation.kind).or_default();
        *count += 1;
        if *count <= KEPT_MAX as u64 {
            self.violations.push(violation);
        }
    }
}
