//! The directory: rooms, members, cursors, invites.

use async_trait::async_trait;
use protocol::{Role, RoomId, Seq, Timestamp, UserId};

use crate::Result;
use crate::log::Append;

/// Who may enter a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomKind {
    /// Anyone signed in may join.
    Public,
    /// By invitation.
    Private,
    /// Exactly two, one room per pair.
    Direct,
}

/// A room as the directory keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub id: RoomId,
    pub kind: RoomKind,
    /// Shown to people. Empty where nobody gave one.
    pub name: String,
    pub topic: String,
    pub created_at: Timestamp,
    pub members: u64,
    /// The two of a direct room.
    pub pair: Option<(UserId, UserId)>,
}

/// A room to be made. `by` becomes the owner (of a direct room, both become members).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoom {
    pub id: RoomId,
    pub kind: RoomKind,
    pub name: String,
    pub topic: String,
    pub by: UserId,
    pub at: Timestamp,
}

/// New words for a room; `None` leaves what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomPatch {
    pub name: Option<String>,
    pub topic: Option<String>,
}

/// Which rooms to list, in order of id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomFilter {
    pub kind: Option<RoomKind>,
    /// Part of the id, name or topic, without regard to case.
    pub text: Option<String>,
    /// Only rooms the user is a member of; otherwise public rooms too.
    pub mine: bool,
    /// Only ids after this one.
    pub after: Option<RoomId>,
    pub limit: usize,
}

/// Somebody in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub user: UserId,
    pub role: Role,
    pub joined_at: Timestamp,
    /// The highest seq a client of the user confirmed to have.
    pub received: Seq,
    /// The highest seq the user has seen. Never above `received`.
    pub read: Seq,
}

/// A cursor that moved. Cursors only go up; lower values change nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub room: RoomId,
    pub user: UserId,
    pub received: Seq,
    pub read: Seq,
}

/// A code that lets its bearers into a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    pub code: String,
    pub room: RoomId,
    pub by: UserId,
    pub uses_left: u32,
    pub expires_at: Timestamp,
}

/// What a change did, and the events that tell the room about it.
///
/// The announcements are stored in the same transaction as the change. The caller appends each to the log and then
/// calls [`Directory::announced`]; whoever starts up appends those that a crash left behind. Appending one twice is
/// harmless because its id is fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed<T> {
    pub value: T,
    /// Empty when nothing changed.
    pub announce: Vec<Append>,
}

/// Rooms, members, cursors and invites. Every change is atomic and durable when it returns, and reads made after it
/// see it. Adapters may cache; a stale answer lives for at most a second.
#[async_trait]
pub trait Directory: Send + Sync {
    /// The room, unless there is none or it was deleted.
    async fn room(&self, room: &RoomId) -> Result<Option<Room>>;

    /// Makes a room with `by` as its owner. `Conflict` when the id is or ever was in use. With kind `Direct` the
    /// room of the pair (`by`, `with`) is made or, if it exists already, returned unchanged whatever `id` says.
    async fn create_room(&self, new: NewRoom, with: Option<&UserId>) -> Result<Changed<Room>>;

    /// Changes name and topic. `by` is named in the announcement; rights are the caller's concern, here and below.
    async fn patch_room(
        &self,
        room: &RoomId,
        patch: RoomPatch,
        by: &UserId,
    ) -> Result<Changed<Room>>;

    /// Removes the room, its members and invites. Returns who the members were (at most 100,000). What waits to be
    /// announced of it gives way to its last event: whoever announces that has the log forget the room before it calls
    /// [`Directory::announced`].
    async fn delete_room(&self, room: &RoomId, by: &UserId) -> Result<Vec<UserId>>;

    /// Rooms visible to `user`, with the user's membership.
    async fn rooms(
        &self,
        user: &UserId,
        filter: &RoomFilter,
    ) -> Result<Vec<(Room, Option<Member>)>>;

    /// The ids of the rooms that `user` is in, ascending, after one of them; at most `limit`.
    async fn room_ids(
        &self,
        user: &UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>>;

    /// One membership.
    async fn member(&self, room: &RoomId, user: &UserId) -> Result<Option<Member>>;

    /// Members in order of name, after one.
    async fn members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>>;

    /// Makes `user` a member with this role. Whoever comes first into a room that everybody left becomes its owner,
    /// for otherwise nobody could look after it again; whoever is a member already stays as they are. `Refused` when
    /// the room is full (100,000) or a direct one.
    async fn put_member(
        &self,
        room: &RoomId,
        user: &UserId,
        role: Role,
        by: &UserId,
    ) -> Result<Changed<Member>>;

    /// Gives a member another role. `NotFound` when there is no such member; `Refused` when the room would be left
    /// without an owner, or is a direct one. The invites of somebody who becomes a plain member end.
    async fn set_role(
        &self,
        room: &RoomId,
        user: &UserId,
        role: Role,
        by: &UserId,
    ) -> Result<Changed<Member>>;

    /// Ends a membership, and the invites that the member made. `NotFound` when there is none; `Refused` for the last
    /// owner while others remain, for the last member of a private room, whom nobody could follow, and in a direct
    /// room.
    async fn remove_member(&self, room: &RoomId, user: &UserId, by: &UserId)
    -> Result<Changed<()>>;

    /// Moves cursors up. Those of people who are no members are ignored.
    async fn advance(&self, cursors: Vec<Cursor>) -> Result<()>;

    /// Keeps a new invite, and none any longer that is used up or expired at `at`. `Refused` when the room has a
    /// hundred others, when `by` is neither admin nor owner of the room, and in a direct room.
    async fn put_invite(&self, invite: Invite, at: Timestamp) -> Result<()>;

    /// Uses an invite once and makes `user` a member. `NotFound` when it is unknown, used up or expired at `at`; no
    /// use is taken from somebody who is a member already.
    async fn redeem_invite(
        &self,
        code: &str,
        user: &UserId,
        at: Timestamp,
    ) -> Result<Changed<Room>>;

    /// Announcements not yet known to be in the log, oldest first, at most `limit`.
    async fn unannounced(&self, limit: usize) -> Result<Vec<Append>>;

    /// These announcements are in the log.
    async fn announced(&self, done: &[Append]) -> Result<()>;
}
