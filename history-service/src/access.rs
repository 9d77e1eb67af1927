//! Who may read a room.

use backend::Backends;
use backend::directory::{Member, Room, RoomKind};
use protocol::{RoomId, UserId};
use rest::Refusal;

/// The room, and the caller's membership, if the caller may read it: members may, and of a public room everybody.
///
/// # Errors
/// `no such room` in the same words whether there is none or it is not the caller's to see. Both questions are asked
/// either way, so that the time does not tell either.
pub async fn readable(
    backends: &Backends,
    caller: &UserId,
    room: &RoomId,
) -> Result<(Room, Option<Member>), Refusal> {
    let member = backends.directory.member(room, caller).await?;
    let found = backends.directory.room(room).await?;
    found
        .filter(|room| member.is_some() || room.kind == RoomKind::Public)
        .map(|room| (room, member))
        .ok_or_else(Refusal::no_room)
}
