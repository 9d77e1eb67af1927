//! The directory on MongoDB: changes in transactions, reads through a cache of a second and one in Redis behind it.
//!
//! | question | answer |
//! | --- | --- |
//! | who decides | the primary of the replica set: every change is one transaction that writes the room's document too, so that changes of a room happen one after the other, whichever processes make them |
//! | when is it durable | a majority has it in its journal before a change is answered |
//! | who sees it | this process at once, the others within a second, and at once when the change's event has passed [`MongoDirectory::forget_cached`] |
//! | what if MongoDB is away | nothing changes; rooms and memberships that were used in the last quarter of an hour are still known, as long as Redis vouches for them; the rest is `Unavailable` |
//! | what if Redis is away | nothing changes; everything is read from MongoDB |
//! | what if both are away | a process believes for a minute what it knew |
//!
//! Not here: users, sessions, the log.

mod announcements;
mod cache;
mod changes;
mod cursors;
mod documents;
mod emptying;
mod grams;
mod indexes;
mod lookups;
mod orphans;
mod queries;
mod sessions;
mod shared;
mod transaction;
mod work;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use protocol::{Role, RoomId, Timestamp, UserId};
use tokio::sync::Notify;

use super::{Mongo, Redis};
use crate::directory::{
    Changed, Cursor, Invite, Member, NewRoom, Room, RoomFilter, RoomKind, RoomPatch,
};
use crate::log::Append;
use crate::{Directory, Error, Result};
use cache::{Cache, Held};
use changes::Changes;
use documents::{MemberDocument, Pair, RoomDocument};
pub(super) use indexes::indexes;
use lookups::Sources;
use orphans::Orphans;
use sessions::Sessions;
use shared::Shared;
use transaction::Transactions;
use work::{Needs, Work};

/// Rooms and memberships that are kept in memory, each.
const CACHED_MAX: usize = 100_000;

/// A handle on the directory; cheap to clone.
#[derive(Clone)]
pub struct MongoDirectory {
    inner: Arc<Inner>,
}

struct Inner {
    sessions: Arc<Sessions>,
    shared: Arc<Shared>,
    sources: Arc<Sources>,
    transactions: Transactions,
    changes: Changes,
    rooms: Arc<Cache<RoomId, Option<Room>>>,
    /// Memberships, also of rooms that are gone: ask for the room too.
    members: Arc<Cache<(RoomId, UserId), Option<Member>>>,
    /// Told when a large room was deleted.
    emptying: Arc<Notify>,
    begun: Instant,
}

impl MongoDirectory {
    /// The directory of this installation. To be called in a runtime, where tasks of its own ask Redis and remove
    /// what large deleted rooms have left.
    #[must_use]
    pub fn new(mongo: Mongo, redis: Redis) -> Self {
        let sessions = Arc::new(Sessions::new(mongo));
        let shared = Shared::new(redis);
        let transactions = Transactions {
            sessions: Arc::clone(&sessions),
            shared: Arc::clone(&shared),
            maker: format!("{:016x}", rand::random::<u64>()).into(),
            orphans: Orphans::default(),
        };
        let inner = Arc::new(Inner {
            sources: Sources::new(Arc::clone(&sessions), Arc::clone(&shared)),
            sessions,
            shared,
            transactions,
            changes: Changes::default(),
            rooms: Arc::new(Cache::new(CACHED_MAX)),
            members: Arc::new(Cache::new(CACHED_MAX)),
            emptying: Arc::default(),
            begun: Instant::now(),
        });
        tokio::spawn(emptying::run(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// What is known of the room, and of the user's membership in it, may have changed: it is read again. To be called
    /// when an event says so, before anybody else is told of the event.
    pub fn forget_cached(&self, room: &RoomId, user: Option<&UserId>) {
        self.inner.rooms.forget(room);
        if let Some(user) = user {
            let key = (room.clone(), user.clone());
            self.inner.members.forget(&key);
        }
    }
}

impl Inner {
    /// The moments of a room and of the members that a transaction is about to look at.
    fn moments(&self, room: &RoomId, needs: &Needs) -> (u64, Vec<u64>) {
        let member = |user: &UserId| self.members.moment(&(room.clone(), user.clone()));
        let members = needs.users.iter().map(member).collect();
        (self.rooms.moment(room), members)
    }

    /// Keeps what a transaction has found since these moments, and left as it is. Redis may still say what was true before:
    /// whoever made it so may not have told Redis yet.
    fn learn(
        &self,
        room: &RoomId,
        needs: &Needs,
        (since, since_of): &(u64, Vec<u64>),
        work: &Work,
        read_at: Instant,
    ) -> Result<()> {
        let found = work.room.clone().and_then(RoomDocument::room);
        self.rooms.put(room, Held::read(found, read_at), *since);
        for (user, since) in needs.users.iter().zip(since_of) {
            let member = work.members.get(user).cloned();
            let member = member.map(MemberDocument::member).transpose()?;
            let key = (room.clone(), user.clone());
            self.members.put(&key, Held::read(member, read_at), *since);
        }
        Ok(())
    }

    /// Drops what is known of a room and of the members that a transaction has looked at.
    fn forget(&self, room: &RoomId, needs: &Needs, work: &Work) {
        self.rooms.forget(room);
        for user in needs.users.iter().chain(work.members.keys()) {
            self.members.forget(&(room.clone(), user.clone()));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.emptying.notify_one();
    }
}

#[async_trait]
impl Directory for MongoDirectory {
    async fn room(&self, room: &RoomId) -> Result<Option<Room>> {
        self.inner.room(room).await
    }

    async fn create_room(&self, new: NewRoom, with: Option<&UserId>) -> Result<Changed<Room>> {
        let pair = pair(&new, with)?;
        let needs = Needs {
            pair: pair.clone(),
            users: vec![new.by.clone()],
            ..Needs::default()
        };
        let room = new.id.clone();
        let rule = move |work: &mut Work| work.create(&new, pair.as_ref());
        self.inner.change(&room, needs, rule).await
    }

    async fn patch_room(
        &self,
        room: &RoomId,
        patch: RoomPatch,
        by: &UserId,
    ) -> Result<Changed<Room>> {
        let by = by.clone();
        let rule = move |work: &mut Work| work.patch(&patch, &by);
        self.inner.change(room, Needs::default(), rule).await
    }

    async fn delete_room(&self, room: &RoomId, by: &UserId) -> Result<Vec<UserId>> {
        let by = by.clone();
        let needs = Needs {
            everyone: true,
            ..Needs::default()
        };
        let rule = move |work: &mut Work| work.delete(&by);
        let members = self.inner.change(room, needs, rule).await?;
        self.inner.emptying.notify_one();
        Ok(members)
    }

    async fn rooms(
        &self,
        user: &UserId,
        filter: &RoomFilter,
    ) -> Result<Vec<(Room, Option<Member>)>> {
        self.inner.sessions.read_rooms(user, filter).await
    }

    async fn room_ids(
        &self,
        user: &UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>> {
        self.inner.sessions.read_room_ids(user, after, limit).await
    }

    async fn member(&self, room: &RoomId, user: &UserId) -> Result<Option<Member>> {
        self.inner.member(room, user).await
    }

    async fn members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>> {
        if limit == 0 || self.inner.room(room).await?.is_none() {
            return Ok(Vec::new());
        }
        self.inner.sessions.read_members(room, after, limit).await
    }

    async fn put_member(
        &self,
        room: &RoomId,
        user: &UserId,
        role: Role,
        by: &UserId,
    ) -> Result<Changed<Member>> {
        let (needs, user, by) = (about(user), user.clone(), by.clone());
        let rule = move |work: &mut Work| work.put_member(&user, role, &by);
        self.inner.change(room, needs, rule).await
    }

    async fn set_role(
        &self,
        room: &RoomId,
        user: &UserId,
        role: Role,
        by: &UserId,
    ) -> Result<Changed<Member>> {
        let (needs, user, by) = (about(user), user.clone(), by.clone());
        let rule = move |work: &mut Work| work.set_role(&user, role, &by);
        self.inner.change(room, needs, rule).await
    }

    async fn remove_member(
        &self,
        room: &RoomId,
        user: &UserId,
        by: &UserId,
    ) -> Result<Changed<()>> {
        let (needs, user, by) = (about(user), user.clone(), by.clone());
        let rule = move |work: &mut Work| work.remove_member(&user, &by);
        self.inner.change(room, needs, rule).await
    }

    async fn advance(&self, cursors: Vec<Cursor>) -> Result<()> {
        self.inner.advance(cursors).await
    }

    async fn put_invite(&self, invite: Invite, at: Timestamp) -> Result<()> {
        let needs = Needs {
            invites: true,
            codes: vec![invite.code.clone()],
            ..about(&invite.by)
        };
        let room = invite.room.clone();
        let rule = move |work: &mut Work| work.put_invite(&invite, at);
        self.inner.change(&room, needs, rule).await
    }

    async fn redeem_invite(
        &self,
        code: &str,
        user: &UserId,
        at: Timestamp,
    ) -> Result<Changed<Room>> {
        let invite = self.inner.sessions.read_invite(code).await?;
        let invite = invite.ok_or_else(|| Error::NotFound("invite".to_owned()))?;
        let needs = Needs {
            codes: vec![invite.code.clone()],
            ..about(user)
        };
        let user = user.clone();
        let rule = move |work: &mut Work| work.redeem(&invite.code, &user, at);
        self.inner.change(&invite.room, needs, rule).await
    }

    async fn unannounced(&self, limit: usize) -> Result<Vec<Append>> {
        self.inner.unannounced(limit).await
    }

    async fn announced(&self, done: &[Append]) -> Result<()> {
        self.inner.announced(done).await
    }
}

/// What has to be known about somebody's membership.
fn about(user: &UserId) -> Needs {
    Needs {
        users: vec![user.clone()],
        ..Needs::default()
    }
}

/// The two of a direct room, in order of name.
fn pair(new: &NewRoom, with: Option<&UserId>) -> Result<Option<Pair>> {
    match (new.kind, with) {
        (RoomKind::Direct, Some(with)) if *with != new.by => {
            let (by, with) = (new.by.clone(), with.clone());
            Ok(Some(if by < with {
                Pair { a: by, b: with }
            } else {
                Pair { a: with, b: by }
            }))
        }
        (RoomKind::Direct, _) => Err(Error::Refused("a direct room has two users".to_owned())),
        (_, None) => Ok(None),
        (_, Some(_)) => Err(Error::Refused(
            "only a direct room is made with somebody".to_owned(),
        )),
    }
}
