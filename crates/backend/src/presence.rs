//! Presence: who is there.

use async_trait::async_trait;
use protocol::{RoomId, SessionId, Status, Timestamp, UserId};

use crate::Result;

/// A user's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserStatus {
    pub user: UserId,
    pub status: Status,
    /// When the user was last online, when that is known and they are not now.
    pub last_seen: Option<Timestamp>,
}

/// Who is in a room right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Some of them, in order of name, up to the limit asked for.
    pub users: Vec<UserId>,
    /// How many there are.
    pub count: u64,
}

/// Which users are online and in which rooms they are present.
///
/// A user is online while at least one session is, and away while all of them are idle. A dead process's sessions end
/// by lease within 10 s. Changes are announced to the room as [`Signal::Presence`](crate::relay::Signal) through the
/// relay: once when a user's first session enters a room, once when the last leaves, once when they go away or return.
#[async_trait]
pub trait Presence: Send + Sync {
    /// A session has begun. Refused when the user already has `most` of them.
    async fn connect(&self, session: SessionId, user: &UserId, most: usize) -> Result<()>;

    /// A session has ended and left all its rooms. Unknown sessions are no error.
    async fn disconnect(&self, session: SessionId) -> Result<()>;

    /// The session now shows in the room.
    async fn enter(&self, session: SessionId, room: &RoomId) -> Result<()>;

    /// The session no longer shows in the room.
    async fn leave(&self, session: SessionId, room: &RoomId) -> Result<()>;

    /// The person at this session went quiet, or came back.
    async fn set_idle(&self, session: SessionId, idle: bool) -> Result<()>;

    /// The state of users, in the order asked for.
    async fn status(&self, users: &[UserId]) -> Result<Vec<UserStatus>>;

    /// Who is in the room.
    async fn present(&self, room: &RoomId, most: usize) -> Result<Present>;
}
