//! Search on MongoDB: an index of our own over the words of messages, in segments.
//!
//! The words are those of [`tokens`], so that the same messages are found as in the embedded family. The worker writes a
//! segment with every batch, and makes one of several where there are many: an index of MongoDB's costs it more than the
//! rest of an event, and this one costs next to nothing. A search reads of every segment what has its words, newest
//! first, and then the messages themselves, which say what their present text is. It waits a moment for what its rooms
//! have that is not stored yet.

mod cache;
mod candidates;
pub(super) mod coverage;
pub(super) mod index;
pub(super) mod segment;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
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
use cache::Cache;
use candidates::{Candidates, Wanted};
use index::{Head, Index};
use segment::{Entry, Term, Terms};

/// How long a search waits for what was appended before it to be stored, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Different words of a query; more are not looked at. As many as 256 characters give.
const QUERY_WORDS_MAX: usize = 512;
/// More messages than asked for are read, in case that some are not meant any more.
const SPARE: usize = 16;
/// Candidates of rooms that are not meant that are passed over one by one.
const PASSED_MAX: usize = 10_000;
/// How long a search may take, once its rooms are stored.
const WORK_MAX: Duration = Duration::from_millis(1500);
/// How often a search begins again because segments were merged meanwhile.
const TRIES: usize = 4;

/// See the module.
pub struct MongoSearch {
    mongo: Mongo,
    redis: Redis,
    index: Index,
    cache: Cache,
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

/// A message that may have the words.
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
        Self {
            index: Index::new(mongo.clone()),
            cache: Cache::default(),
            mongo,
            redis,
        }
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

    /// Those of the rooms whose logs are closed.
    async fn closed(&self, rooms: BTreeSet<&str>) -> Result<Vec<String>> {
        let rooms: Vec<&str> = rooms.into_iter().collect();
        let forgotten: Collection<Forgotten> = self.mongo.collection(FORGOTTEN);
        let find = forgotten.find(doc! { "_id": { "$in": rooms } });
        let closed = async { find.await?.try_collect::<Vec<_>>().await };
        let closed = self.mongo.run(closed).await?;
        Ok(closed.into_iter().map(|forgotten| forgotten.room).collect())
    }

    async fn search_open_rooms(&self, query: &Query) -> Result<Vec<Hit>> {
        let mut rooms = Rooms::new(&query.rooms);
        for _ in 0..TRIES {
            let Some(hits) = self.try_search(&rooms, query).await? else {
                continue;
            };
            let found = hits.iter().map(|hit| hit.room.as_str()).collect();
            if hits.is_empty() || self.closed(found).await?.is_empty() {
                return Ok(hits);
            }
            // Events of a closed log are removed, so that they are hardly ever found.
            let all = query.rooms.iter().map(RoomId::as_str).collect();
            for closed in self.closed(all).await? {
                rooms.leave_out(&closed);
            }
        }
        Err(Error::unavailable("the index changes too quickly"))
    }

    /// Looks through the index as it is now; nothing when it changed under the search.
    async fn try_search(&self, rooms: &Rooms<'_>, query: &Query) -> Result<Option<Vec<Hit>>> {
        let Some(mut wanted) = wanted(query) else {
            return Ok(Some(Vec::new()));
        };
        let heads: Vec<Head> = self.index.heads().await?;
        // As a rule the newest messages with the words are in rooms of whoever searches. Otherwise the rooms are
        // looked up as well.
        let mut passed = 0;
        match self
            .look(rooms, query, &wanted, &heads, Some(&mut passed))
            .await?
        {
            Looked::Hits(hits) => return Ok(Some(hits)),
            Looked::Gone => return Ok(None),
            Looked::TooManyOfOthers => {}
        }
        let mut of_rooms: Vec<Term> = rooms.names().map(segment::room_term).collect();
        of_rooms.sort_unstable();
        wanted.terms.push(Terms::Any(of_rooms));
        match self.look(rooms, query, &wanted, &heads, None).await? {
            Looked::Hits(hits) => Ok(Some(hits)),
            Looked::Gone | Looked::TooManyOfOthers => Ok(None),
        }
    }

    /// Looks through these segments. With `passed`, which counts candidates of rooms that are not meant, it gives up after
    /// some.
    async fn look(
        &self,
        rooms: &Rooms<'_>,
        query: &Query,
        wanted: &Wanted,
        heads: &[Head],
        mut passed: Option<&mut usize>,
    ) -> Result<Looked> {
        let mut candidates = Candidates::new(&self.index, &self.cache, wanted, heads);
        let mut hits: Vec<Hit> = Vec::new();
        let mut batch: Vec<Entry> = Vec::new();
        loop {
            let Ok(next) = candidates.next().await? else {
                return Ok(Looked::Gone);
            };
            // What has the same time and number in different rooms is sorted together.
            let is_full = batch.len() >= query.limit - hits.len() + SPARE
                && next.is_none_or(|next| {
                    let last = batch.last();
                    last.is_some_and(|last| (last.at, last.seq) != (next.at, next.seq))
                });
            if is_full || next.is_none() {
                hits.extend(self.read(rooms, query, &batch).await?);
                batch.clear();
                if hits.len() >= query.limit || next.is_none() {
                    break;
                }
            }
            let Some(next) = next else { break };
            if rooms.by_digest.contains_key(&next.room) {
                batch.push(next);
            } else if let Some(passed) = &mut passed {
                **passed += 1;
                if **passed > PASSED_MAX {
                    return Ok(Looked::TooManyOfOthers);
                }
            }
        }
        hits.sort_by(|a: &Hit, b: &Hit| {
            (b.at, b.seq)
                .cmp(&(a.at, a.seq))
                .then_with(|| a.room.as_str().cmp(b.room.as_str()))
        });
        hits.truncate(query.limit);
        Ok(Looked::Hits(hits))
    }

    /// Those of the candidates that are meant.
    async fn read(&self, rooms: &Rooms<'_>, query: &Query, batch: &[Entry]) -> Result<Vec<Hit>> {
        let places: Vec<Fields> = batch
            .iter()
            .flat_map(|entry| {
                let rooms = rooms.by_digest.get(&entry.room).into_iter().flatten();
                let seq = entry.seq.cast_signed();
                rooms.map(move |room| doc! { "room": *room, "seq": seq })
            })
            .collect();
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let messages: Collection<Found> = self.mongo.collection(EVENTS);
        let find = messages
            .find(messages_at(places))
            .projection(doc! { "at": 1, "from": 1, "id": 1, "body.text": 1, "now.text": 1 })
            .max_time(WORK_MAX);
        let found = async { find.await?.try_collect::<Vec<_>>().await };
        let found = self.mongo.run(found).await?;
        let mut hits = Vec::with_capacity(found.len());
        for hit in found.into_iter().map(Found::hit) {
            let hit = hit?;
            // A place in another room of the same digest is an entry of its own, if it is meant.
            let is_asked_for = batch.contains(&Entry {
                at: hit.at.as_millis(),
                room: segment::digest(hit.room.as_str()),
                seq: hit.seq.get(),
            });
            if is_asked_for && is_meant(&hit, query) {
                hits.push(hit);
            }
        }
        Ok(hits)
    }
}

/// What a look through the index came to.
enum Looked {
    Hits(Vec<Hit>),
    /// A segment was merged meanwhile.
    Gone,
    TooManyOfOthers,
}

/// Rooms, found by what stands for them in the index.
struct Rooms<'a> {
    by_digest: HashMap<u32, Vec<&'a str>>,
}

impl<'a> Rooms<'a> {
    fn names(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.by_digest.values().flatten().copied()
    }

    fn new(rooms: &'a [RoomId]) -> Self {
        let mut by_digest: HashMap<u32, Vec<&str>> = HashMap::with_capacity(rooms.len());
        for room in rooms.iter().map(RoomId::as_str) {
            let same = by_digest.entry(segment::digest(room)).or_default();
            if !same.contains(&room) {
                same.push(room);
            }
        }
        Self { by_digest }
    }

    fn leave_out(&mut self, room: &str) {
        if let Some(same) = self.by_digest.get_mut(&segment::digest(room)) {
            same.retain(|other| *other != room);
        }
    }
}

#[async_trait]
impl Search for MongoSearch {
    async fn search(&self, query: &Query) -> Result<Vec<Hit>> {
        if words(&query.text).is_none() || query.rooms.is_empty() || query.limit == 0 {
            return Ok(Vec::new());
        }
        self.catch_up(&query.rooms).await;
        let searched = tokio::time::timeout(WORK_MAX, self.search_open_rooms(query));
        searched
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("the search took too long")))
    }
}

/// Messages at these places that were not deleted.
fn messages_at(places: Vec<Fields>) -> Fields {
    doc! { "_id": { "$in": places }, "body.kind": "message", "gone": { "$exists": false } }
}

/// Whether a message, as it is now, answers the query.
fn is_meant(hit: &Hit, query: &Query) -> bool {
    let Some(words) = words(&query.text) else {
        return false;
    };
    let mut have = tokens(&hit.text);
    have.sort_unstable();
    let has = |word: &Word| match word {
        Word::Whole(word) => have.binary_search(word).is_ok(),
        Word::Beginning(beginning) => {
            let first = have.partition_point(|word| word < beginning);
            have.get(first)
                .is_some_and(|word| word.starts_with(beginning.as_str()))
        }
    };
    query.from.as_ref().is_none_or(|from| hit.from == *from)
        && query.since.is_none_or(|since| hit.at >= since)
        && query.until.is_none_or(|until| hit.at < until)
        && query
            .cursor
            .as_ref()
            .is_none_or(|cursor| is_after(hit, cursor))
        && words.iter().all(has)
}

fn is_after(hit: &Hit, cursor: &Cursor) -> bool {
    (hit.at, hit.seq) < (cursor.at, cursor.seq)
        || ((hit.at, hit.seq) == (cursor.at, cursor.seq)
            && hit.room.as_str() > cursor.room.as_str())
}

/// A word of a query.
enum Word {
    Whole(String),
    Beginning(String),
}

/// The different words of a query, or nothing when there are none.
fn words(text: &str) -> Option<Vec<Word>> {
    let mut words = tokens(text);
    let last = words.pop()?;
    let mut seen = BTreeSet::from([last.clone()]);
    words.retain(|word| seen.insert(word.clone()));
    words.truncate(QUERY_WORDS_MAX - 1);
    let is_beginning = last.chars().count() >= 2 && !last.chars().any(is_unspaced);
    let mut words: Vec<Word> = words.into_iter().map(Word::Whole).collect();
    words.push(if is_beginning {
        Word::Beginning(last)
    } else {
        Word::Whole(last)
    });
    Some(words)
}

/// What the index is asked for; nothing when there are no words.
fn wanted(query: &Query) -> Option<Wanted> {
    let mut terms: Vec<Terms> = words(&query.text)?
        .into_iter()
        .map(|word| match word {
            Word::Whole(word) => Terms::One(word.into_bytes()),
            Word::Beginning(word) => Terms::Beginning(word.into_bytes()),
        })
        .collect();
    if let Some(from) = &query.from {
        terms.push(Terms::One(segment::sender_term(from.as_str())));
    }
    let since = query.since.map_or(i64::MIN, Timestamp::as_millis);
    let mut until = query.until.map_or(i64::MAX, Timestamp::as_millis);
    if let Some(cursor) = &query.cursor {
        until = until.min(cursor.at.as_millis().saturating_add(1));
    }
    Some(Wanted {
        terms,
        since,
        until,
    })
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
