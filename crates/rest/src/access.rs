//! Who may see a room. Every read comes through here, so that what is somebody else's looks as if it did not exist.

use backend::Directory;
use backend::directory::{Member, Room, RoomKind};
use protocol::{RoomId, UserId};

use crate::Refusal;

/// The room, if there is one, and the user's membership.
///
/// # Errors
/// When the directory is away.
pub async fn look(
    directory: &dyn Directory,
    user: &UserId,
    room: &RoomId,
) -> backend::Result<Option<(Room, Option<Member>)>> {
    // Both questions are asked either way, so that the time tells nothing about rooms that are not the user's. In this
    // order, whoever makes a room at this moment is not taken for somebody who has yet to join it.
    let found = directory.room(room).await?;
    let member = directory.member(room, user).await?;
    Ok(found.map(|room| (room, member)))
}

/// The room as the user may see it: members may, and of a public room everybody.
///
/// # Errors
/// `not_found` in the same words whether there is none or it is not the user's to see.
pub async fn visible(
    directory: &dyn Directory,
    user: &UserId,
    room: &RoomId,
) -> Result<(Room, Option<Member>), Refusal> {
    look(directory, user, room)
        .await?
        .filter(|(room, member)| member.is_some() || room.kind == RoomKind::Public)
        .ok_or_else(Refusal::no_room)
}
