//! Logs that are closed for ever.

use std::collections::BTreeSet;
use std::time::Duration;

use ::mongodb as driver;
use driver::bson::{Document as Bson, Uuid, doc};
use futures_util::TryStreamExt as _;
use protocol::{RoomId, Seq};
use serde::{Deserialize, Serialize};

use super::{Link, Store, WORK_MAX, count, document, place, whole};
use crate::Result;
use document::seq;

fn mark() -> Uuid {
    Uuid::from_bytes(*uuid::Uuid::now_v7().as_bytes())
}

/// Events removed at once.
const STEP: usize = 1000;
/// How long one step may take.
const STEP_WITHIN: Duration = Duration::from_secs(10);

/// A log that is closed. Stays as a tombstone.
#[derive(Serialize, Deserialize)]
pub(super) struct Forgotten {
    #[serde(rename = "_id")]
    room: String,
    /// Whether its events are gone.
    purged: bool,
    /// Its words may be in the index of search. Another one whenever they may have got there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    indexed: Option<Uuid>,
}

/// A closed log whose words may be in the index of search.
pub(super) struct Closed {
    pub room: String,
    indexed: Uuid,
}

impl Store {
    /// Closes the log of a room for ever and removes its events. What is inserted later is removed as well.
    ///
    /// # Errors
    /// `Unavailable`; then the log may be closed and some events may be left, for [`Store::purge`] or another call.
    pub async fn forget(&self, room: &RoomId) -> Result<()> {
        let of_room = doc! { "_id": room.as_str() };
        let mark = self
            .forgotten
            .update_one(of_room, doc! { "$setOnInsert": { "purged": false } })
            .upsert(true);
        self.mongo.run(mark).await?;
        self.remove(room).await
    }

    /// Whether the log of a room is closed.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn is_forgotten(&self, room: &RoomId) -> Result<bool> {
        let find = self
            .forgotten
            .find_one(doc! { "_id": room.as_str() })
            .max_time(WORK_MAX);
        Ok(self.mongo.run(find).await?.is_some())
    }

    /// Finishes what broken-off calls of [`Store::forget`] have left, at most `limit` rooms. Answers how many there were.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn purge(&self, limit: usize) -> Result<usize> {
        let find = self
            .forgotten
            .find(doc! { "purged": false })
            .limit(count(limit))
            .max_time(WORK_MAX);
        let left = async { find.await?.try_collect::<Vec<_>>().await };
        let left = self.mongo.run(left).await?;
        for Forgotten { room, .. } in &left {
            self.remove(&document::room(room)?).await?;
        }
        Ok(left.len())
    }

    /// Removes what was just inserted into closed logs.
    pub(super) async fn purge_rooms(&self, rooms: BTreeSet<&str>) -> Result<()> {
        let rooms: Vec<&str> = rooms.into_iter().collect();
        let find = self
            .forgotten
            .find(doc! { "_id": { "$in": rooms } })
            .max_time(WORK_MAX);
        let closed = async { find.await?.try_collect::<Vec<_>>().await };
        for Forgotten { room, .. } in self.mongo.run(closed).await? {
            self.remove(&document::room(&room)?).await?;
        }
        Ok(())
    }

    /// Removes the events of a closed log, step by step.
    async fn remove(&self, room: &RoomId) -> Result<()> {
        loop {
            let nth = self
                .links
                .find_one(whole(room))
                .sort(doc! { "_id": 1 })
                .projection(Link::fields())
                .skip(STEP as u64 - 1)
                .max_time(WORK_MAX);
            let nth = self.mongo.run(nth).await?;
            let end = nth.as_ref().map_or(Ok(Seq::MAX), |n| seq(n.place.seq))?;
            let step = doc! { "_id": { "$gt": place(room, Seq::ZERO), "$lte": place(room, end) } };
            self.mongo
                .run_within(STEP_WITHIN, self.links.delete_many(step))
                .await?;
            if nth.is_none() {
                break;
            }
        }
        let done = self.forgotten.update_one(
            doc! { "_id": room.as_str() },
            doc! { "$set": { "purged": true, "indexed": mark() } },
        );
        self.mongo.run(done).await?;
        Ok(())
    }

    /// Closed logs whose words may be in the index of search.
    pub(super) async fn to_leave_out(&self, limit: usize) -> Result<Vec<Closed>> {
        let find = self
            .forgotten
            .find(doc! { "indexed": { "$exists": true } })
            .limit(count(limit))
            .max_time(WORK_MAX);
        let found = async { find.await?.try_collect::<Vec<_>>().await };
        let found = self.mongo.run(found).await?;
        let closed = found.into_iter().filter_map(|forgotten| {
            let indexed = forgotten.indexed?;
            Some(Closed {
                room: forgotten.room,
                indexed,
            })
        });
        Ok(closed.collect())
    }

    /// The words of these are not in the index any more, unless some got there meanwhile.
    pub(super) async fn left_out(&self, closed: Vec<Closed>) -> Result<()> {
        let which: Vec<Bson> = closed
            .into_iter()
            .map(|closed| doc! { "_id": closed.room, "indexed": closed.indexed })
            .collect();
        let done = self
            .forgotten
            .update_many(doc! { "$or": which }, doc! { "$unset": { "indexed": 1 } });
        self.mongo.run_within(STEP_WITHIN, done).await.map(drop)
    }
}
