//! Search on MongoDB: an index over the present words of messages, room by room, newest first.
//!
//! The words are those of [`tokens`], so that the same messages are found as in the embedded family. They are stored with
//! the message by the worker; a search waits a moment for what its rooms have that is not stored yet.

use std::collections::BTreeSet;
use std::time::Duration;

use ::mongodb as driver;
use ::redis::Pipeline;
use async_trait::async_trait;
use driver::Collection;
use driver::bson::{Document as Fields, doc};
use futures_util::TryStreamExt as _;
use protocol::{MessageId, RoomId, Seq, Timestamp, UserId};
use serde::Deserialize;
use tokio::time::Instant;

use super::store::{EVENTS, FORGOTTEN};
use super::{Mongo, Redis};
use crate::search::{Cursor, Hit, Query, is_unspaced, tokens};
use crate::{Error, Result, Search};

/// How long a search waits for what was appended before it to be stored, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Different words of a query; more are not looked at. As many as 256 characters give.
const QUERY_WORDS_MAX: usize = 512;
/// Rooms asked for at once: each is a place in the index of its own, and MongoDB merges as many in order.
const ROOMS_AT_ONCE: usize = 100;
/// More messages than asked for are read, in case that many have the same time and number in different rooms.
const TIES: usize = 64;
/// How long the server works on one question.
const WORK_MAX: Duration = Duration::from_millis(1500);

/// See the module.
pub struct MongoSearch {
    mongo: Mongo,
    redis: Redis,
}

#[derive(Deserialize)]
struct Place {
    room: String,
    seq: i64,
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

/// A message with the words.
#[derive(Deserialize)]
struct Found {
    #[serde(rename = "_id")]
    place: Place,
    at: i64,
    from: String,
    id: driver::bson::Uuid,
    body: Text,
    /// Its newest edit.
    now: Option<Text>,
}

#[derive(Deserialize)]
struct Forgotten {
    #[serde(rename = "_id")]
    room: String,
}

impl MongoSearch {
    #[must_use]
    pub fn new(mongo: Mongo, redis: Redis) -> Self {
        Self { mongo, redis }
    }

    /// Waits until what the rooms have now is stored. Whatever is stored in the end is the answer.
    async fn catch_up(&self, rooms: &[RoomId]) {
        let until = Instant::now() + PATIENCE;
        let mut waiting: Vec<(&RoomId, Option<u64>)> =
            rooms.iter().map(|room| (room, None)).collect();
        loop {
            let mut pipeline = Pipeline::with_capacity(waiting.len());
            for (room, _) in &waiting {
                pipeline
                    .cmd("HMGET")
                    .arg(self.redis.room_key(room, "head"))
                    .arg(&["safe", "persisted"]);
            }
            let marks: Result<Vec<(Option<u64>, Option<u64>)>> =
                self.redis.pipeline(&pipeline).await;
            // Without Redis nothing new is appended either.
            let Ok(marks) = marks else { return };
            waiting = waiting
                .into_iter()
                .zip(marks)
                .filter_map(|((room, wanted), (safe, persisted))| {
                    let wanted = wanted.or(safe)?;
                    (persisted? < wanted).then_some((room, Some(wanted)))
                })
                .collect();
            if waiting.is_empty() || Instant::now() > until {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Those of the rooms whose logs are not closed.
    async fn open_rooms(&self, rooms: &[RoomId]) -> Result<Vec<String>> {
        let mut open: BTreeSet<String> = rooms.iter().map(|room| room.as_str().into()).collect();
        let names: Vec<&str> = rooms.iter().map(RoomId::as_str).collect();
        let forgotten: Collection<Forgotten> = self.mongo.collection(FORGOTTEN);
        let find = forgotten.find(doc! { "_id": { "$in": names } });
        let closed = async { find.await?.try_collect::<Vec<_>>().await };
        for Forgotten { room } in self.mongo.run(closed).await? {
            open.remove(&room);
        }
        Ok(open.into_iter().collect())
    }

    async fn in_rooms(&self, rooms: &[String], query: &Query, words: &Fields) -> Result<Vec<Hit>> {
        let messages: Collection<Found> = self.mongo.collection(EVENTS);
        let find = messages
            .find(filter(rooms, query, words))
            .sort(doc! { "at": -1, "_id.seq": -1 })
            .projection(doc! { "at": 1, "from": 1, "id": 1, "body.text": 1, "now.text": 1 })
            .limit(i64::try_from(query.limit + TIES).unwrap_or(i64::MAX))
            .max_time(WORK_MAX);
        let found = async { find.await?.try_collect::<Vec<_>>().await };
        let found = self.mongo.run(found).await?;
        found.into_iter().map(Found::hit).collect()
    }
}

#[async_trait]
impl Search for MongoSearch {
    async fn search(&self, query: &Query) -> Result<Vec<Hit>> {
        let Some(words) = words(&query.text) else {
            return Ok(Vec::new());
        };
        if query.rooms.is_empty() || query.limit == 0 {
            return Ok(Vec::new());
        }
        self.catch_up(&query.rooms).await;
        let rooms = self.open_rooms(&query.rooms).await?;
        let mut hits = Vec::new();
        for rooms in rooms.chunks(ROOMS_AT_ONCE) {
            hits.extend(self.in_rooms(rooms, query, &words).await?);
        }
        hits.sort_by(|a: &Hit, b: &Hit| {
            (b.at, b.seq)
                .cmp(&(a.at, a.seq))
                .then_with(|| a.room.as_str().cmp(b.room.as_str()))
        });
        if let Some(cursor) = &query.cursor {
            hits.retain(|hit| is_after(hit, cursor));
        }
        hits.truncate(query.limit);
        Ok(hits)
    }
}

fn is_after(hit: &Hit, cursor: &Cursor) -> bool {
    (hit.at, hit.seq) < (cursor.at, cursor.seq)
        || ((hit.at, hit.seq) == (cursor.at, cursor.seq)
            && hit.room.as_str() > cursor.room.as_str())
}

/// The condition on the words, or nothing when there are none. The longest whole word comes first: it is the one by
/// which the index is walked, and the rarest as a rule.
fn words(text: &str) -> Option<Fields> {
    let words = tokens(text);
    let last = words.last()?;
    let mut seen = BTreeSet::from([last]);
    let mut exact: Vec<&str> = words
        .iter()
        .filter(|word| seen.insert(word))
        .take(QUERY_WORDS_MAX - 1)
        .map(String::as_str)
        .collect();
    let is_beginning = last.chars().count() >= 2 && !last.chars().any(is_unspaced);
    if !is_beginning {
        exact.push(last);
    }
    exact.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let mut all: Vec<Fields> = exact.iter().map(|word| doc! { "tokens": *word }).collect();
    if is_beginning {
        let end = format!("{last}\u{10FFFF}");
        all.push(doc! { "tokens": { "$elemMatch": { "$gte": last, "$lt": end } } });
    }
    Some(doc! { "$and": all })
}

fn filter(rooms: &[String], query: &Query, words: &Fields) -> Fields {
    let mut filter = doc! { "_id.room": { "$in": rooms }, "body.kind": "message" };
    filter.extend(words.clone());
    if let Some(from) = &query.from {
        filter.insert("from", from.as_str());
    }
    let mut at = Fields::new();
    if let Some(since) = query.since {
        at.insert("$gte", since.as_millis());
    }
    if let Some(until) = query.until {
        at.insert("$lt", until.as_millis());
    }
    if let Some(cursor) = &query.cursor {
        at.insert("$lte", cursor.at.as_millis());
        let (at, seq) = (cursor.at.as_millis(), cursor.seq.get().cast_signed());
        filter.insert(
            "$or",
            vec![
                doc! { "at": { "$lt": at } },
                doc! { "at": at, "_id.seq": { "$lte": seq } },
            ],
        );
    }
    if !at.is_empty() {
        filter.insert("at", at);
    }
    filter
}

impl Found {
    fn hit(self) -> Result<Hit> {
        let corrupt = |what: &str| Error::Corrupt(format!("mongodb: a message with a bad {what}"));
        let seq = u64::try_from(self.place.seq).ok().map(Seq::new);
        let Some(Ok(seq)) = seq else {
            return Err(corrupt("seq"));
        };
        Ok(Hit {
            room: RoomId::parse(&self.place.room).map_err(|_| corrupt("room"))?,
            seq,
            id: MessageId::from_bytes(self.id.bytes()),
            from: UserId::parse(&self.from).map_err(|_| corrupt("sender"))?,
            at: Timestamp::from_millis(self.at),
            text: self.now.unwrap_or(self.body).text,
        })
    }
}
