//! What the collections of the directory hold. Nothing that a user sent is ever a field name or an operator.
//!
//! | collection | a document | found by |
//! | --- | --- | --- |
//! | `rooms` | [`RoomDocument`], for ever: a deleted room keeps its id taken | id, kind, pair, parts of a public room's words |
//! | `members` | [`MemberDocument`], with the member's cursors | room and user, user and room |
//! | `invites` | [`InviteDocument`], at most a hundred of a room | code, room |
//! | `announcements` | [`AnnouncementDocument`], until it is known to be in the log | age, maker, room |

use bson::{Binary, spec::BinarySubtype};
use mongodb::bson;
use protocol::{EventBody, MessageId, Role, RoomId, Seq, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use crate::directory::{Member, Room, RoomKind};
use crate::log::Append;
use crate::{Error, Result};

pub(super) const ROOMS: &str = "rooms";
pub(super) const MEMBERS: &str = "members";
pub(super) const INVITES: &str = "invites";
pub(super) const ANNOUNCEMENTS: &str = "announcements";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Public,
    Private,
    Direct,
    /// The room is gone and its id taken for ever.
    Deleted,
}

impl From<RoomKind> for Kind {
    fn from(kind: RoomKind) -> Self {
        match kind {
            RoomKind::Public => Self::Public,
            RoomKind::Private => Self::Private,
            RoomKind::Direct => Self::Direct,
        }
    }
}

/// The two of a direct room, in order of name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Pair {
    pub a: UserId,
    pub b: UserId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RoomDocument {
    #[serde(rename = "_id")]
    pub id: RoomId,
    pub kind: Kind,
    pub name: String,
    pub topic: String,
    /// Id, name and topic in lower case.
    pub folded: String,
    /// Milliseconds, as all times here.
    pub created_at: i64,
    pub members: i64,
    /// How many of the members are owners.
    pub owners: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<Pair>,
    /// Rises with every change of the room, its members and its invites. Every transaction about the room writes it, so
    /// that of two at the same time one meets a write conflict.
    pub changes: i64,
    /// The number of the room's last announcement, and its time.
    pub announced: i64,
    pub announced_at: i64,
}

impl RoomDocument {
    /// The room, unless it was deleted.
    pub fn room(self) -> Option<Room> {
        let kind = match self.kind {
            Kind::Public => RoomKind::Public,
            Kind::Private => RoomKind::Private,
            Kind::Direct => RoomKind::Direct,
            Kind::Deleted => return None,
        };
        Some(Room {
            id: self.id,
            kind,
            name: self.name,
            topic: self.topic,
            created_at: Timestamp::from_millis(self.created_at),
            members: self.members.unsigned_abs(),
            pair: self.pair.map(|pair| (pair.a, pair.b)),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct MemberKey {
    pub room: RoomId,
    pub user: UserId,
}

/// What is read of a room where its id is enough,
#[derive(Deserialize)]
pub(super) struct Id {
    #[serde(rename = "_id")]
    pub id: RoomId,
}

/// and of a membership.
#[derive(Deserialize)]
pub(super) struct Key {
    #[serde(rename = "_id")]
    pub key: MemberKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberDocument {
    #[serde(rename = "_id")]
    pub key: MemberKey,
    pub role: Role,
    pub joined_at: i64,
    pub received: i64,
    pub read: i64,
}

impl MemberDocument {
    pub fn member(self) -> Result<Member> {
        Ok(Member {
            user: self.key.user,
            role: self.role,
            joined_at: Timestamp::from_millis(self.joined_at),
            received: seq(self.received)?,
            read: seq(self.read)?,
        })
    }
}

fn seq(number: i64) -> Result<Seq> {
    u64::try_from(number)
        .ok()
        .and_then(|number| Seq::new(number).ok())
        .ok_or_else(|| Error::Corrupt(format!("a cursor at {number}")))
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InviteDocument {
    #[serde(rename = "_id")]
    pub code: String,
    pub room: RoomId,
    pub by: UserId,
    /// At least 1: an invite that is used up goes.
    pub uses_left: i64,
    pub expires_at: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AnnouncementDocument {
    /// The id of the event, as binary.
    #[serde(rename = "_id")]
    pub id: Binary,
    pub room: RoomId,
    pub from: UserId,
    /// Never lower than that of the room's announcement before.
    pub at: i64,
    /// Counts the room's announcements.
    pub n: i64,
    /// The process that made it.
    pub maker: String,
    pub body: EventBody,
}

impl AnnouncementDocument {
    pub fn append(self) -> Result<Append> {
        let id = <[u8; 16]>::try_from(self.id.bytes)
            .map_err(|_| Error::Corrupt("the id of an announcement is no UUID".to_owned()))?;
        Ok(Append {
            room: self.room,
            from: self.from,
            id: MessageId::from_bytes(id),
            body: self.body,
        })
    }
}

/// An id as MongoDB keeps it.
pub(super) fn binary(id: MessageId) -> Binary {
    Binary {
        subtype: BinarySubtype::Uuid,
        bytes: id.as_uuid().as_bytes().to_vec(),
    }
}
