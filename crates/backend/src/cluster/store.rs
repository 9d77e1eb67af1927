//! The log in MongoDB: what the persistence worker has written, for good.
//!
//! Events of a room may arrive in any order; what stands in the collection is a beginning of the room's log only as far
//! as the chain of `prev` goes. Callers check the chain, [`Store::contiguous`] walks it.

mod document;
mod forget;
pub(super) mod indexes;
mod insert;
mod parked;
mod present;
mod related;
#[cfg(test)]
mod tests;
mod ways;
mod words;

use ::mongodb as driver;
use driver::Collection;
use driver::bson::{Document as Bson, doc};
use driver::options::ReadConcern;
use futures_util::TryStreamExt as _;
use protocol::{Event, MessageId, RoomId, Seq, Timestamp, UserId};
use serde::Deserialize;
use std::time::Duration;

use super::Mongo;
use super::search::index::Index;
use crate::Result;
use document::{Document, kind, number, seq, uuid};
use forget::Forgotten;
pub use insert::{Arrival, Delivered, Inserted};
pub(super) use ways::Stored;
pub use words::{Cover, Indexed};

/// The collection of all events.
pub(super) const EVENTS: &str = "events";
/// The collection of rooms whose logs are closed for ever.
pub(super) const FORGOTTEN: &str = "forgotten";

/// How long the server works on one question.
const WORK_MAX: Duration = Duration::from_millis(1500);

/// The stored log; cheap to clone.
#[derive(Clone)]
pub struct Store {
    mongo: Mongo,
    events: Collection<Document<'static>>,
    links: Collection<Link>,
    forgotten: Collection<Forgotten>,
    search: Index,
}

/// The end of what is stored of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    pub seq: Seq,
    pub at: Timestamp,
}

/// The part of an event that the chain is made of.
#[derive(Deserialize)]
struct Link {
    #[serde(rename = "_id")]
    place: document::Place<'static>,
    prev: Option<i64>,
    at: i64,
}

impl Link {
    /// What is read of an event to make one.
    fn fields() -> Bson {
        doc! { "prev": 1, "at": 1 }
    }
}

impl Store {
    #[must_use]
    pub fn new(mongo: Mongo) -> Self {
        Self {
            events: mongo.collection(EVENTS),
            links: mongo.collection(EVENTS),
            forgotten: mongo.collection(FORGOTTEN),
            search: Index::new(mongo.clone()),
            mongo,
        }
    }

    /// The event with the highest seq of a room. Linearizable: everything that was acknowledged before the call counts.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn last(&self, room: &RoomId) -> Result<Option<Last>> {
        let find = self
            .links
            .find_one(whole(room))
            .sort(doc! { "_id": -1 })
            .projection(Link::fields())
            .read_concern(ReadConcern::linearizable())
            .max_time(WORK_MAX);
        let found = self.mongo.run(find).await?;
        found
            .map(|link| {
                Ok(Last {
                    seq: seq(link.place.seq)?,
                    at: Timestamp::from_millis(link.at),
                })
            })
            .transpose()
    }

    /// The event of an act.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn by_id(
        &self,
        room: &RoomId,
        from: &UserId,
        id: MessageId,
    ) -> Result<Option<Event>> {
        let act = doc! { "id": uuid(id), "_id.room": room.as_str(), "from": from.as_str() };
        let find = self.events.find_one(act).max_time(WORK_MAX);
        let found = self.mongo.run(find).await?;
        found.map(Document::event).transpose()
    }

    /// The first `limit` events after `after` that are stored, ascending; there may be holes.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn after(&self, room: &RoomId, after: Seq, limit: usize) -> Result<Vec<Event>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let find = self
            .events
            .find(behind(room, after))
            .sort(doc! { "_id": 1 })
            .limit(count(limit))
            .max_time(WORK_MAX);
        self.gather(find).await
    }

    /// The last `limit` events before `before` that are stored, ascending; there may be holes.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn before(&self, room: &RoomId, before: Seq, limit: usize) -> Result<Vec<Event>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let find = self
            .events
            .find(ahead_of(room, before))
            .sort(doc! { "_id": -1 })
            .limit(count(limit))
            .max_time(WORK_MAX);
        let mut events = self.gather(find).await?;
        events.reverse();
        Ok(events)
    }

    /// Whether there is an event at a place.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn is_stored(&self, room: &RoomId, seq: Seq) -> Result<bool> {
        let find = self
            .links
            .find_one(doc! { "_id": place(room, seq) })
            .projection(Link::fields())
            .max_time(WORK_MAX);
        Ok(self.mongo.run(find).await?.is_some())
    }

    /// How far the log of a room is stored without a hole, walking from `from`, which is taken to be stored with all
    /// before it. At most `limit` events are walked, and everything before a stored fence counts as stored.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn contiguous(&self, room: &RoomId, from: Seq, limit: usize) -> Result<Seq> {
        let mut mark = number(from).max(number(self.last_fence(room).await?));
        if limit == 0 {
            return seq(mark);
        }
        let find = self
            .links
            .find(behind(room, seq(mark)?))
            .sort(doc! { "_id": 1 })
            .projection(Link::fields())
            .limit(count(limit))
            .max_time(WORK_MAX);
        let links = async { find.await?.try_collect::<Vec<_>>().await };
        for link in self.mongo.run(links).await? {
            if link.prev.is_some_and(|prev| prev != mark) {
                break;
            }
            mark = link.place.seq;
        }
        seq(mark)
    }

    /// The seq of the newest fence of a room; zero when there is none.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn last_fence(&self, room: &RoomId) -> Result<Seq> {
        let fences = doc! { "_id.room": room.as_str(), "body.kind": kind::FENCE };
        let find = self
            .links
            .find_one(fences)
            .sort(doc! { "_id.seq": -1 })
            .projection(Link::fields())
            .max_time(WORK_MAX);
        let fence = self.mongo.run(find).await?;
        seq(fence.map_or(0, |link| link.place.seq))
    }

    /// The first stored event at or after a time. Times do not fall within a room.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn first_at(&self, room: &RoomId, at: Timestamp) -> Result<Option<Seq>> {
        let at = at.as_millis();
        let Some(last) = self.neighbour(ahead_of(room, Seq::MAX), -1).await? else {
            return Ok(None);
        };
        if last.at < at {
            return Ok(None);
        }
        // The first event whose time is known to do is `found`; all before `low` are too early.
        let (mut low, mut found) = (1, last.place.seq);
        while low < found {
            let middle = low + (found - low) / 2;
            // Seqs jump at fences: both neighbours of the middle are looked at, so that a jump costs one step.
            let (before, behind) = tokio::try_join!(
                self.neighbour(ahead_of(room, seq(middle)?), -1),
                self.neighbour(behind(room, seq(middle - 1)?), 1),
            )?;
            let Some(behind) = behind else { break };
            if behind.at < at {
                low = behind.place.seq + 1;
                continue;
            }
            found = behind.place.seq;
            match before {
                Some(before) if before.at >= at => found = before.place.seq,
                _ => break,
            }
        }
        seq(found).map(Some)
    }

    async fn neighbour(&self, range: Bson, direction: i32) -> Result<Option<Link>> {
        let find = self
            .links
            .find_one(range)
            .sort(doc! { "_id": direction })
            .projection(Link::fields())
            .max_time(WORK_MAX);
        self.mongo.run(find).await
    }

    /// How many messages of others are stored in (after, upto], counted up to `most`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn unread(
        &self,
        room: &RoomId,
        user: &UserId,
        after: Seq,
        upto: Seq,
        most: u64,
    ) -> Result<u64> {
        if most == 0 {
            return Ok(0);
        }
        let mut messages = between(room, after, upto);
        messages.insert("body.kind", kind::MESSAGE);
        messages.insert("from", doc! { "$ne": user.as_str() });
        let count = self
            .events
            .count_documents(messages)
            .limit(most)
            .max_time(WORK_MAX);
        self.mongo.run(count).await
    }

    /// Whether a message was taken back.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn is_deleted(&self, room: &RoomId, target: Seq) -> Result<bool> {
        let deletes = doc! {
            "_id.room": room.as_str(), "body.target": number(target), "body.kind": kind::DELETE,
        };
        let find = self
            .links
            .find_one(deletes)
            .projection(Link::fields())
            .max_time(WORK_MAX);
        Ok(self.mongo.run(find).await?.is_some())
    }

    /// Reads all that a query finds.
    async fn gather(
        &self,
        find: impl IntoFuture<Output = driver::error::Result<driver::Cursor<Document<'static>>>>,
    ) -> Result<Vec<Event>> {
        let found = async {
            let cursor = find.into_future().await?;
            cursor.try_collect::<Vec<_>>().await
        };
        let found = self.mongo.run(found).await?;
        found.into_iter().map(Document::event).collect()
    }
}

// Whole keys in a fixed order of fields, so that MongoDB finds and sorts by the index of `_id`.

fn place(room: &RoomId, seq: Seq) -> Bson {
    doc! { "room": room.as_str(), "seq": number(seq) }
}

fn whole(room: &RoomId) -> Bson {
    behind(room, Seq::ZERO)
}

fn behind(room: &RoomId, after: Seq) -> Bson {
    between(room, after, Seq::MAX)
}

fn between(room: &RoomId, after: Seq, upto: Seq) -> Bson {
    doc! { "_id": { "$gt": place(room, after), "$lte": place(room, upto) } }
}

fn ahead_of(room: &RoomId, before: Seq) -> Bson {
    doc! { "_id": { "$gt": place(room, Seq::ZERO), "$lt": place(room, before) } }
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
