//! Events: everything durable that happens in a room.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use crate::{MessageId, RoomId, Timestamp, UserId};

/// The place of an event in its room's log: 1 for the first, below 2^53 so that every JSON reader keeps it exactly.
/// `Seq::ZERO` is the place before the first event.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema,
)]
#[serde(transparent)]
#[schema(value_type = i64, minimum = 0, maximum = 9_007_199_254_740_991_i64)]
pub struct Seq(u64);

/// A number that cannot be a place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a seq is an integer from 0 to 9007199254740991")]
pub struct SeqError;

impl Seq {
    /// Before the first event.
    pub const ZERO: Self = Self(0);
    /// The last number that JSON readers keep exactly (2^53 - 1).
    pub const MAX: Self = Self((1 << 53) - 1);

    /// # Errors
    /// When `number` is 2^53 or more.
    pub fn new(number: u64) -> Result<Self, SeqError> {
        if number <= Self::MAX.0 {
            Ok(Self(number))
        } else {
            Err(SeqError)
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The place after this one (`MAX` stays).
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 + 1).min(Self::MAX.0))
    }

    /// The place before this one (`ZERO` stays).
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Seq {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Small facts a sender adds to a message, a flat map of strings.
pub type Meta = BTreeMap<String, String>;

/// What a member may do in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Member,
    Admin,
    Owner,
}

/// What happened to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberChange {
    Joined,
    Left,
    Removed,
    Role,
}

/// What happened to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoomChange {
    Created,
    Renamed,
    Topic,
    Deleted,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventBody {
    /// Somebody wrote.
    Message {
        text: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        reply_to: Option<Seq>,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        meta: Option<Meta>,
    },
    /// The author replaced the text of message `target`.
    Edit { target: Seq, text: String },
    /// Message `target` was taken back.
    Delete { target: Seq },
    /// `from` put an emoji on message `target`, or took it off.
    Reaction {
        target: Seq,
        emoji: String,
        on: bool,
    },
    /// The members changed.
    Member {
        user: UserId,
        change: MemberChange,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        role: Option<Role>,
    },
    /// The room itself changed.
    Room {
        change: RoomChange,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        name: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        topic: Option<String>,
    },
    /// Numbers jump here; what lies between was never acknowledged.
    Fence {},
    /// A number that holds nothing.
    Void {},
}

impl EventBody {
    /// The word of the `kind` field.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Message { .. } => "message",
            Self::Edit { .. } => "edit",
            Self::Delete { .. } => "delete",
            Self::Reaction { .. } => "reaction",
            Self::Member { .. } => "member",
            Self::Room { .. } => "room",
            Self::Fence {} => "fence",
            Self::Void {} => "void",
        }
    }

    /// The message that an edit, delete or reaction is about.
    #[must_use]
    pub fn target(&self) -> Option<Seq> {
        match self {
            Self::Edit { target, .. } | Self::Delete { target } | Self::Reaction { target, .. } => {
                Some(*target)
            }
            _ => None,
        }
    }
}

/// One entry of a room's log.
///
/// A reader at position L that gets an event with `prev == L` has missed nothing; `seq <= L` is a duplicate;
/// `prev > L` (or no `prev`, at a fence) means that it must read (L, prev] from the log first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Event {
    pub room: RoomId,
    pub seq: Seq,
    /// The seq of the event before, 0 for the first; null at a fence.
    #[schema(required = true)]
    pub prev: Option<Seq>,
    pub at: Timestamp,
    /// Who did it; absent where the server itself did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub from: Option<UserId>,
    /// The sender's id of the act; absent on fences and voids.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub id: Option<MessageId>,
    #[serde(flatten)]
    pub body: EventBody,
}

/// All fields an event can have, for reading: a flat struct reads several times faster than a flattened tagged enum.
#[derive(Deserialize)]
struct Flat {
    room: RoomId,
    seq: Seq,
    prev: Option<Seq>,
    at: Timestamp,
    from: Option<UserId>,
    id: Option<MessageId>,
    kind: String,
    text: Option<String>,
    reply_to: Option<Seq>,
    meta: Option<Meta>,
    target: Option<Seq>,
    emoji: Option<String>,
    on: Option<bool>,
    user: Option<UserId>,
    change: Option<String>,
    role: Option<Role>,
    name: Option<String>,
    topic: Option<String>,
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn need<T, E: de::Error>(value: Option<T>, field: &'static str) -> Result<T, E> {
            value.ok_or_else(|| E::missing_field(field))
        }
        fn change<T: for<'a> Deserialize<'a>, E: de::Error>(word: Option<String>) -> Result<T, E> {
            let word = need(word, "change")?;
            T::deserialize(de::value::StrDeserializer::<E>::new(&word))
        }

        let flat = Flat::deserialize(deserializer)?;
        let body = match flat.kind.as_str() {
            "message" => EventBody::Message {
                text: need(flat.text, "text")?,
                reply_to: flat.reply_to,
                meta: flat.meta,
            },
            "edit" => EventBody::Edit {
                target: need(flat.target, "target")?,
                text: need(flat.text, "text")?,
            },
            "delete" => EventBody::Delete {
                target: need(flat.target, "target")?,
            },
            "reaction" => EventBody::Reaction {
                target: need(flat.target, "target")?,
                emoji: need(flat.emoji, "emoji")?,
                on: need(flat.on, "on")?,
            },
            "member" => EventBody::Member {
                user: need(flat.user, "user")?,
                change: change(flat.change)?,
                role: flat.role,
            },
            "room" => EventBody::Room {
                change: change(flat.change)?,
                name: flat.name,
                topic: flat.topic,
            },
            "fence" => EventBody::Fence {},
            "void" => EventBody::Void {},
            other => {
                return Err(de::Error::unknown_variant(
                    other,
                    &[
                        "message", "edit", "delete", "reaction", "member", "room", "fence", "void",
                    ],
                ));
            }
        };
        Ok(Self {
            room: flat.room,
            seq: flat.seq,
            prev: flat.prev,
            at: flat.at,
            from: flat.from,
            id: flat.id,
            body,
        })
    }
}
