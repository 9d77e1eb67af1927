//! Members of deleted rooms. A large room is gone at once and its members follow, a thousand at a time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bson::doc;
use mongodb::bson;
use mongodb::options::FindOptions;
use protocol::RoomId;

use super::Inner;
use super::documents::{Id, Key, MEMBERS, MemberDocument, MemberKey, ROOMS, RoomDocument};
use super::queries::{by_id, everyone_in};
use super::sessions::in_time;
use crate::Result;

/// How often a process looks for rooms that another one did not empty.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const ROOMS_AT_ONCE: i64 = 10;
const MEMBERS_AT_ONCE: i64 = 1000;

/// Looks now and then, and whenever it is asked to, until the directory is dropped.
pub(super) async fn run(inner: Weak<Inner>) {
    loop {
        let Some(asked) = inner.upgrade().map(|inner| Arc::clone(&inner.emptying)) else {
            return;
        };
        let wait = LOOK_EVERY.mul_f64(rand::random_range(0.5..1.0));
        let _ = tokio::time::timeout(wait, asked.notified()).await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        if let Err(error) = inner.empty().await {
            tracing::debug!(%error, "members of deleted rooms stay for now");
        }
    }
}

impl Inner {
    /// Empties the rooms that were deleted.
    pub async fn empty(&self) -> Result<()> {
        let options = FindOptions::builder()
            .projection(doc! { "_id": 1 })
            .limit(ROOMS_AT_ONCE)
            .build();
        let found = self
            .sessions
            .all::<Id>(ROOMS, doc! { "emptying": true }, options);
        for room in found.await? {
            let id = room.id;
            while self.empty_some(&id).await? {}
            let rooms = self.sessions.mongo.collection::<RoomDocument>(ROOMS);
            let emptied = rooms.update_one(by_id(&id), doc! { "$unset": { "emptying": "" } });
            in_time(self.sessions.mongo.run(emptied)).await?;
        }
        Ok(())
    }

    /// `false` when nobody is left.
    async fn empty_some(&self, room: &RoomId) -> Result<bool> {
        let options = FindOptions::builder()
            .projection(doc! { "_id": 1 })
            .sort(doc! { "_id": 1 })
            .limit(MEMBERS_AT_ONCE)
            .build();
        let found = self
            .sessions
            .all::<Key>(MEMBERS, everyone_in(room), options);
        let keys: Vec<MemberKey> = found.await?.into_iter().map(|key| key.key).collect();
        if keys.is_empty() {
            return Ok(false);
        }
        let ids = keys.iter().map(super::queries::document);
        let ids = ids.collect::<Result<Vec<_>>>()?;
        let members = self.sessions.mongo.collection::<MemberDocument>(MEMBERS);
        let deleted = members.delete_many(doc! { "_id": { "$in": ids } });
        in_time(self.sessions.mongo.run(deleted)).await?;
        Ok(true)
    }
}
