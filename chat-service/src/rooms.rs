//! Rooms: who may see, enter and change them.
//!
//! Sockets and REST come through here, so a rule is written once. What a user may not see looks as if it did not
//! exist: "no such room" is the answer for an unknown room, a deleted one, and another's private or direct one. Acts in
//! a room that the user can see but may not do are `forbidden`.
//!
//! | act | who may |
//! | --- | --- |
//! | see the room, its members and what was written | members; anyone for a public one |
//! | write | members |
//! | join | anyone, a public room; by invitation, a private one |
//! | rename, change the topic, add members, invite | admins and owners |
//! | give and take roles | owners; an admin may step down |
//! | remove members | owners; admins, plain members only |
//! | leave | everybody, but the last owner while others remain and the last member of a private room |
//! | delete the room | owners |
//!
//! A direct room is its two members' for ever: nobody joins, leaves, renames, invites to or deletes it.
//!
//! Messages and cursors are not made here.

mod announce;
mod change;
mod members;

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use backend::Backends;
use backend::directory::{Member, NewRoom, Room, RoomKind};
use backend::relay::Signal;
use protocol::{ErrorCode, NoticeKind, Role, RoomId, Timestamp, UserId};
use rest::Refusal;

use crate::rates::Rates;
use announce::Announcer;
pub use change::Draft;
pub use members::InviteTerms;

/// The rooms, for one process. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    backends: Backends,
    open_mode: bool,
    /// How often a user may join and found rooms.
    rates: Option<Arc<Rates>>,
    announcer: Arc<Announcer>,
}

/// Something that was asked for, and whether it had to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made<T> {
    pub value: T,
    pub new: bool,
}

impl Rooms {
    /// The rooms of a family. In `open_mode` public rooms come into being, and are joined, on first use.
    #[must_use]
    pub fn new(backends: Backends, open_mode: bool) -> Self {
        Self {
            announcer: Arc::new(Announcer::new(backends.clone())),
            backends,
            open_mode,
            rates: None,
        }
    }

    /// The same, with a limit on how often a user may join and found rooms.
    #[must_use]
    pub fn limited(self, rates: Arc<Rates>) -> Self {
        Self {
            rates: Some(rates),
            ..self
        }
    }

    /// The room and the user's membership. In open mode a public room that does not exist is created (the user owns
    /// it), and one that does is joined.
    ///
    /// # Errors
    /// `not_found` when the user is no member and cannot become one this way; `rate_limited`.
    pub async fn enter(&self, user: &UserId, room: &RoomId) -> Result<(Room, Member), Refusal> {
        match self.look(user, room).await? {
            Some((room, Some(member))) => Ok((room, member)),
            Some((room, None)) if self.open_mode && room.kind == RoomKind::Public => {
                self.spend(user)?;
                self.join(user, &room.id).await
            }
            None if self.open_mode && !room.is_generated() => {
                self.spend(user)?;
                self.found(user, room).await
            }
            _ => Err(Refusal::no_room()),
        }
    }

    /// The room and the user's membership, without side effects.
    ///
    /// # Errors
    /// `not_found` when the user is no member.
    pub async fn member(&self, user: &UserId, room: &RoomId) -> Result<(Room, Member), Refusal> {
        match self.look(user, room).await? {
            Some((room, Some(member))) => Ok((room, member)),
            _ => Err(Refusal::no_room()),
        }
    }

    /// The room as the user may see it, with the membership if there is one.
    ///
    /// # Errors
    /// `not_found` when the room is not public and the user is no member.
    pub async fn visible(
        &self,
        user: &UserId,
        room: &RoomId,
    ) -> Result<(Room, Option<Member>), Refusal> {
        rest::access::visible(&*self.backends.directory, user, room).await
    }

    /// The direct room of two users, made on first use.
    ///
    /// # Errors
    /// `bad_request` when both are the same.
    pub async fn direct(&self, user: &UserId, with: &UserId) -> Result<Room, Refusal> {
        Ok(self.between(user, with).await?.value)
    }

    async fn look(
        &self,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Option<(Room, Option<Member>)>, Refusal> {
        Ok(rest::access::look(&*self.backends.directory, user, room).await?)
    }

    /// Creates the public room that was named, or joins it when somebody else was faster.
    async fn found(&self, user: &UserId, id: &RoomId) -> Result<(Room, Member), Refusal> {
        let new = NewRoom {
            id: id.clone(),
            kind: RoomKind::Public,
            name: String::new(),
            topic: String::new(),
            by: user.clone(),
            at: Timestamp::now(),
        };
        match self.make(new, None).await {
            Ok(made) => self.member(user, &made.value.id).await,
            // Taken a moment ago, or deleted once. Only public rooms have names that somebody chose.
            Err(refusal) if refusal.code == ErrorCode::Conflict => self.join(user, id).await,
            Err(refusal) => Err(refusal),
        }
    }

    /// Joins a public room. What was joined is told by the directory's change: a look may be a moment old.
    async fn join(&self, user: &UserId, id: &RoomId) -> Result<(Room, Member), Refusal> {
        let joined = self.add(user, id.clone(), user).await?;
        match self.look(user, id).await? {
            Some((room, _)) => Ok((room, joined.value)),
            None => Err(backend::Error::unavailable("the room was made a moment ago").into()),
        }
    }

    /// The room, if the user is at least a `least` in it and it is not a direct one.
    async fn led_by(
        &self,
        user: &UserId,
        room: &RoomId,
        least: Role,
    ) -> Result<(Room, Member), Refusal> {
        let (room, member) = self.visible(user, room).await?;
        if room.kind == RoomKind::Direct {
            return Err(forbidden("a direct room belongs to its two members alike"));
        }
        match member {
            None => Err(forbidden("only members may do this")),
            Some(member) if member.role < least => Err(forbidden(match least {
                Role::Owner => "only owners may do this",
                _ => "only admins and owners may do this",
            })),
            Some(member) => Ok((room, member)),
        }
    }

    /// Counts a room that the user joins or founds.
    fn spend(&self, user: &UserId) -> Result<(), Refusal> {
        let Some(rates) = &self.rates else {
            return Ok(());
        };
        rates.joins.take(user, Instant::now()).map_err(|wait| {
            let reason = "too many rooms joined or made at once";
            Refusal::new(ErrorCode::RateLimited, reason).after(wait)
        })
    }

    fn notice(&self, user: &UserId, kind: NoticeKind, room: &RoomId) {
        self.backends.relay.signal(Signal::Notice {
            user: user.clone(),
            kind,
            room: Some(room.clone()),
        });
    }
}

fn forbidden(message: &str) -> Refusal {
    Refusal::new(ErrorCode::Forbidden, message)
}

/// A port's error about a room: one that is gone meanwhile reads like one that never was.
fn about_room(error: backend::Error) -> Refusal {
    match error {
        backend::Error::NotFound(_) => Refusal::no_room(),
        error => error.into(),
    }
}

/// Runs a change to its end even when the caller's connection goes away: a change that is stored is also announced.
async fn detached<T: Send + 'static>(
    change: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    use tracing::Instrument as _;

    let change = tokio::spawn(change.in_current_span());
    change.await.unwrap_or_else(|error| {
        if error.is_panic() {
            tracing::error!(%error, "a change of a room failed");
            Err(Refusal::new(ErrorCode::Internal, "the change failed"))
        } else {
            Err(backend::Error::unavailable("the server is shutting down").into())
        }
    })
}
