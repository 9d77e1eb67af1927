//! Rooms and members as the API shows them.

use backend::Backends;
use backend::directory::{Member, Room, RoomKind};
use futures_util::future::try_join_all;
use protocol::{Role, RoomId, Seq, Timestamp, UserId};
use rest::Refusal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who may enter a room: anyone, the invited, or exactly two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RoomKind)]
pub enum KindView {
    Public,
    Private,
    Direct,
}

impl From<RoomKind> for KindView {
    fn from(kind: RoomKind) -> Self {
        match kind {
            RoomKind::Public => Self::Public,
            RoomKind::Private => Self::Private,
            RoomKind::Direct => Self::Direct,
        }
    }
}

impl From<KindView> for RoomKind {
    fn from(kind: KindView) -> Self {
        match kind {
            KindView::Public => Self::Public,
            KindView::Private => Self::Private,
            KindView::Direct => Self::Direct,
        }
    }
}

/// A room as one user sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Room)]
pub struct RoomView {
    pub id: RoomId,
    pub kind: KindView,
    /// Shown to people: the name given, else the id; in a direct room the other user.
    pub name: String,
    pub topic: String,
    pub created_at: Timestamp,
    /// How many members there are.
    pub members: u64,
    /// The last seq of the room's log.
    pub head: Seq,
    /// What the caller is in the room; null for somebody who has not joined.
    #[schema(required = true)]
    pub role: Option<Role>,
    /// The other user of a direct room.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub with: Option<UserId>,
}

impl RoomView {
    pub async fn of(
        backends: &Backends,
        caller: &UserId,
        room: Room,
        role: Option<Role>,
    ) -> Result<Self, Refusal> {
        let head = backends.log.head(&room.id).await?;
        let with = room.pair.map(|(one, other)| match one == *caller {
            true => other,
            false => one,
        });
        let name = match &with {
            Some(user) => user.to_string(),
            None if room.name.is_empty() => room.id.to_string(),
            None => room.name,
        };
        Ok(Self {
            id: room.id,
            kind: room.kind.into(),
            name,
            topic: room.topic,
            created_at: room.created_at,
            members: room.members,
            head,
            role,
            with,
        })
    }

    pub async fn all(
        backends: &Backends,
        caller: &UserId,
        rooms: Vec<(Room, Option<Member>)>,
    ) -> Result<Vec<Self>, Refusal> {
        let views = rooms
            .into_iter()
            .map(|(room, member)| Self::of(backends, caller, room, member.map(|mine| mine.role)));
        try_join_all(views).await
    }
}

/// Somebody in a room, and how far they have got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Member)]
pub struct MemberView {
    pub user: UserId,
    pub role: Role,
    pub joined_at: Timestamp,
    /// Every event up to here has reached a client of the user.
    pub received: Seq,
    /// Every event up to here has been seen.
    pub read: Seq,
}

impl From<Member> for MemberView {
    fn from(member: Member) -> Self {
        Self {
            user: member.user,
            role: member.role,
            joined_at: member.joined_at,
            received: member.received,
            read: member.read,
        }
    }
}
