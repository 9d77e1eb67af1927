//! Things that more than one service shows.

use backend::directory;
use protocol::{Role, RoomId, Seq, Timestamp, UserId};
use serde::Serialize;
use utoipa::ToSchema;

/// Who may enter a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoomKind {
    /// Anyone signed in may join.
    Public,
    /// By invitation.
    Private,
    /// Exactly two, one room per pair.
    Direct,
}

impl From<directory::RoomKind> for RoomKind {
    fn from(kind: directory::RoomKind) -> Self {
        match kind {
            directory::RoomKind::Public => Self::Public,
            directory::RoomKind::Private => Self::Private,
            directory::RoomKind::Direct => Self::Direct,
        }
    }
}

impl From<RoomKind> for directory::RoomKind {
    fn from(kind: RoomKind) -> Self {
        match kind {
            RoomKind::Public => Self::Public,
            RoomKind::Private => Self::Private,
            RoomKind::Direct => Self::Direct,
        }
    }
}

/// A room as the caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Room {
    pub id: RoomId,
    pub kind: RoomKind,
    /// What people call it: the id where nobody gave a name, the other user in a direct room.
    pub name: String,
    pub topic: String,
    pub created_at: Timestamp,
    /// How many members there are.
    #[schema(minimum = 0)]
    pub members: u64,
    /// The last seq of the room's log.
    pub head: Seq,
    /// The caller's role; null for those who are no members.
    #[schema(required = true)]
    pub role: Option<Role>,
    /// The other user of a direct room.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub with: Option<UserId>,
}

impl Room {
    /// A room of the directory, for `caller` with `role` in it.
    #[must_use]
    pub fn of(room: &directory::Room, role: Option<Role>, head: Seq, caller: &UserId) -> Self {
        let with = room.pair.as_ref().map(|(one, other)| {
            if one == caller {
                other.clone()
            } else {
                one.clone()
            }
        });
        let name = match &with {
            Some(other) => other.as_str(),
            None if room.name.is_empty() => room.id.as_str(),
            None => &room.name,
        };
        Self {
            name: name.to_owned(),
            id: room.id.clone(),
            kind: room.kind.into(),
            topic: room.topic.clone(),
            created_at: room.created_at,
            members: room.members,
            head,
            role,
            with,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_always_has_a_name() {
        let user = |name: &str| UserId::parse(name).unwrap();
        let mut room = directory::Room {
            id: RoomId::parse("general").unwrap(),
            kind: directory::RoomKind::Public,
            name: String::new(),
            topic: String::new(),
            created_at: Timestamp::from_millis(0),
            members: 2,
            pair: None,
        };
        let name = |room: &directory::Room| Room::of(room, None, Seq::ZERO, &user("bob")).name;
        assert_eq!(name(&room), "general");
        room.name = "General".to_owned();
        assert_eq!(name(&room), "General");
        room.pair = Some((user("alice"), user("bob")));
        assert_eq!(name(&room), "alice");
        room.pair = Some((user("bob"), user("carol")));
        assert_eq!(name(&room), "carol");
    }
}
