//! The directory on SQLite: changes through the writer, reads through cache and readers.

mod changes;
mod queries;

use std::sync::Arc;

use async_trait::async_trait;
use protocol::{Role, RoomId, Timestamp, UserId};
use rusqlite::Connection;

use super::Shared;
use super::cache::Touched;
use super::readers::Readers;
use super::writer::Writer;
use crate::directory::{Changed, Cursor, Invite, Member, NewRoom, Room, RoomFilter, RoomPatch};
use crate::log::Append;
use crate::{Directory, Result};

pub(super) struct SqliteDirectory {
    pub writer: Writer,
    pub readers: Readers,
    pub shared: Arc<Shared>,
    /// Ends the threads when the last port is dropped.
    pub _guard: Arc<super::Guard>,
}

/// What a change answers, and what it means for the cache.
struct Done<T> {
    value: T,
    touched: Vec<Touched>,
}

impl SqliteDirectory {
    /// A change whose effects are in the cache before it is answered.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<Done<T>> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let done = self
            .writer
            .change(work, move |done: &Done<T>| {
                shared.cache.apply(&done.touched)
            })
            .await?;
        Ok(done.value)
    }
}

#[async_trait]
impl Directory for SqliteDirectory {
    async fn room(&self, room: &RoomId) -> Result<Option<Room>> {
        self.shared.check_open()?;
        let ticket = match self.shared.cache.room(room) {
            Ok(room) => return Ok(room),
            Err(ticket) => ticket,
        };
        let id = room.clone();
        let found = self
            .readers
            .read(move |reader| Ok(queries::room(&reader.connection, &id)?.map(|(_, room)| room)))
            .await?;
        self.shared.cache.learn_room(room, found.clone(), ticket);
        Ok(found)
    }

    async fn create_room(&self, new: NewRoom, with: Option<&UserId>) -> Result<Changed<Room>> {
        let with = with.cloned();
        self.change(move |connection| changes::create_room(connection, new, with))
            .await
    }

    async fn patch_room(
        &self,
        room: &RoomId,
        patch: RoomPatch,
        by: &UserId,
    ) -> Result<Changed<Room>> {
        let (room, by) = (room.clone(), by.clone());
        self.change(move |connection| changes::patch_room(connection, &room, patch, &by))
            .await
    }

    async fn delete_room(&self, room: &RoomId, by: &UserId) -> Result<Vec<UserId>> {
        let (room, by) = (room.clone(), by.clone());
        self.change(move |connection| changes::delete_room(connection, &room, &by))
            .await
    }

    async fn rooms(
        &self,
        user: &UserId,
        filter: &RoomFilter,
    ) -> Result<Vec<(Room, Option<Member>)>> {
        let (user, filter) = (user.clone(), filter.clone());
        self.readers
            .read(move |reader| queries::rooms(&reader.connection, &user, &filter))
            .await
    }

    async fn room_ids(
        &self,
        user: &UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>> {
        let (user, after) = (user.clone(), after.cloned());
        self.readers
            .read(move |reader| queries::room_ids(&reader.connection, &user, after.as_ref(), limit))
            .await
    }

    async fn member(&self, room: &RoomId, user: &UserId) -> Result<Option<Member>> {
        self.shared.check_open()?;
        let ticket = match self.shared.cache.member(room, user) {
            Ok(member) => return Ok(member),
            Err(ticket) => ticket,
        };
        let (id, name) = (room.clone(), user.clone());
        let found = self
            .readers
            .read(
                move |reader| match queries::room(&reader.connection, &id)? {
                    Some((no, _)) => queries::member(&reader.connection, no, &name),
                    None => Ok(None),
                },
            )
            .await?;
        self.shared
            .cache
            .learn_member(room, user, found.clone(), ticket);
        Ok(found)
    }

    async fn members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>> {
        let (room, after) = (room.clone(), after.cloned());
        self.readers
            .read(
                move |reader| match queries::room(&reader.connection, &room)? {
                    Some((no, _)) => {
                        queries::members(&reader.connection, no, after.as_ref(), limit)
                    }
                    None => Ok(Vec::new()),
                },
            )
            .await
    }

    async fn put_member(
        &self,
        room: &RoomId,
        user: &UserId,
        role: Role,
        by: &UserId,
    ) -> Result<Changed<Member>> {
        let (room, user, by) = (room.clone(), user.clone(), by.clone());
        self.change(move |connection| changes::put_member(connection, &room, &user, role, &by))
            .await
    }

    async fn set_role(
        &self,
        room: &RoomId,
        user: &UserId,
        role: Role,
        by: &UserId,
    ) -> Result<Changed<Member>> {
        let (room, user, by) = (room.clone(), user.clone(), by.clone());
        self.change(move |connection| changes::set_role(connection, &room, &user, role, &by))
            .await
    }

    async fn remove_member(
        &self,
        room: &RoomId,
        user: &UserId,
        by: &UserId,
    ) -> Result<Changed<()>> {
        let (room, user, by) = (room.clone(), user.clone(), by.clone());
        self.change(move |connection| changes::remove_member(connection, &room, &user, &by))
            .await
    }

    async fn advance(&self, cursors: Vec<Cursor>) -> Result<()> {
        if cursors.is_empty() {
            return self.shared.check_open();
        }
        self.change(move |connection| changes::advance(connection, &cursors))
            .await
    }

    async fn put_invite(&self, invite: Invite, at: Timestamp) -> Result<()> {
        self.change(move |connection| changes::put_invite(connection, &invite, at))
            .await
    }

    async fn redeem_invite(
        &self,
        code: &str,
        user: &UserId,
        at: Timestamp,
    ) -> Result<Changed<Room>> {
        let (code, user) = (code.to_owned(), user.clone());
        self.change(move |connection| changes::redeem_invite(connection, &code, &user, at))
            .await
    }

    async fn unannounced(&self, limit: usize) -> Result<Vec<Append>> {
        self.readers
            .read(move |reader| queries::unannounced(&reader.connection, limit))
            .await
    }

    async fn announced(&self, done: &[Append]) -> Result<()> {
        if done.is_empty() {
            return self.shared.check_open();
        }
        let ids: Vec<_> = done.iter().map(|append| append.id).collect();
        self.change(move |connection| changes::announced(connection, &ids))
            .await
    }
}
