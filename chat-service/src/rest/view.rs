//! Rooms and members as the API shows them.

use backend::Backends;
use backend::directory::{self, Member};
use futures_util::future::try_join_all;
use protocol::{Role, Seq, Timestamp, UserId};
use rest::{Refusal, Room};
use serde::Serialize;
use utoipa::ToSchema;

/// A room with its head, for a user with `role` in it.
pub async fn room(
    backends: &Backends,
    user: &UserId,
    room: &directory::Room,
    role: Option<Role>,
) -> Result<Room, Refusal> {
    let head = backends.log.head(&room.id).await?;
    Ok(Room::of(room, role, head, user))
}

/// Several rooms, in the same order.
pub async fn rooms(
    backends: &Backends,
    user: &UserId,
    rooms: &[(directory::Room, Option<Member>)],
) -> Result<Vec<Room>, Refusal> {
    let views = rooms
        .iter()
        .map(|(known, mine)| room(backends, user, known, mine.as_ref().map(|mine| mine.role)));
    try_join_all(views).await
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
