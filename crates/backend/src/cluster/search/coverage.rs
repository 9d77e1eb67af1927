//! How far the index goes: whether every stored message is in it, and the rebuild that brings this about.
//!
//! A worker puts a batch into the index before it stores it, so that what is stored from then on can be found. What was
//! stored before there was an index, or is missing because the index got lost or is broken, is found by a walk over
//! all events. How far it came stands in a document beside the segments: who loses these loses it with them, and
//! without it the walk begins. It may be broken off anywhere, and the next one goes on.

use std::time::Duration;

use ::mongodb as driver;
use driver::Collection;
use driver::bson::{DateTime, Document as Fields, Uuid, doc};
use serde::{Deserialize, Serialize};

use super::index::{Index, LIVE, OLD, OVER, SEGMENTS, WITHIN};
use crate::Result;
use crate::cluster::lease;
use crate::cluster::mongo::{is_duplicate, trouble};

/// The document, and the lock of who walks.
const ID: &str = "coverage";
const LOCK: &str = "search coverage";
const LEASE: Duration = Duration::from_secs(30);
/// Segments that are younger than this when a rebuild begins outlast it: their batches may not be stored yet.
const GRACE_MS: i64 = 15 * 60 * 1000;

/// How far the index goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// This rebuild.
    pub(in super::super) build: Uuid,
    /// It begins at this time.
    begun: DateTime,
    /// Whether it is known which segments go when it is done.
    is_marked: bool,
    /// Events up to this place are in the index.
    pub(in super::super) room: String,
    pub(in super::super) seq: i64,
    /// Events walked.
    pub walked: i64,
    /// Every stored message is in the index.
    pub is_complete: bool,
}

impl Index {
    /// What is known of it; nothing when nothing was ever begun, or it got lost.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn coverage(&self) -> Result<Option<Coverage>> {
        let coverages = self.coverages();
        self.mongo.run(coverages.find_one(doc! { "_id": ID })).await
    }

    /// Begins anew: all events are walked, and then the segments of now go. They are searched until then.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn ask_for_rebuild(&self) -> Result<()> {
        self.rebuild_after(None).await
    }

    /// As [`Index::ask_for_rebuild`], and not before everything is stored of which a segment was made by then: the walk
    /// would pass it by.
    pub(super) async fn rebuild_after(&self, made: Option<DateTime>) -> Result<()> {
        let stored = made.map(|made| made.timestamp_millis() + GRACE_MS);
        let begun = stored.map_or(DateTime::now(), |stored| {
            DateTime::from_millis(stored).max(DateTime::now())
        });
        let coverage = Coverage::new(begun);
        let coverages = self.coverages();
        let begin = coverages
            .replace_one(doc! { "_id": ID }, &coverage)
            .upsert(true);
        match self.mongo.attempt(begin).await? {
            // Somebody else asked at this moment.
            Err(error) if is_duplicate(&error) => Ok(()),
            Err(error) => Err(trouble(&error)),
            Ok(_) => Ok(()),
        }
    }

    /// What is to be walked next, for whoever has the lock; nothing when another process has it.
    pub(in super::super) async fn to_walk(&self) -> Result<Option<Coverage>> {
        if !lease::take(&self.mongo, LOCK, &self.holder, LEASE).await? {
            return Ok(None);
        }
        let Some(mut coverage) = self.coverage().await? else {
            self.ask_for_rebuild().await?;
            return self.coverage().await;
        };
        if coverage.begun > DateTime::now() {
            return Ok(None);
        }
        if !coverage.is_marked && !coverage.is_complete {
            self.mark(&coverage).await?;
            coverage.is_marked = true;
        }
        Ok(Some(coverage))
    }

    /// Says which segments go when the rebuild is done.
    async fn mark(&self, coverage: &Coverage) -> Result<()> {
        let before = DateTime::from_millis(coverage.begun.timestamp_millis() - GRACE_MS);
        let segments = self.segments();
        let old = segments.update_many(
            doc! { "$or": [{ "state": OLD }, { "state": LIVE, "made": { "$lt": before } }] },
            doc! { "$set": { "state": OLD, "build": coverage.build } },
        );
        self.mongo.run_within(WITHIN, old).await?;
        self.set(coverage, doc! { "is_marked": true }).await
    }

    /// Events up to this place, so many, are in the index.
    pub(in super::super) async fn advance(
        &self,
        coverage: &Coverage,
        room: &str,
        seq: i64,
        events: usize,
    ) -> Result<()> {
        let walked = coverage.walked + i64::try_from(events).unwrap_or(i64::MAX);
        let place = doc! { "room": room, "seq": seq, "walked": walked };
        self.set(coverage, place).await
    }

    /// Nothing is left to walk.
    pub(in super::super) async fn complete(&self, coverage: &Coverage) -> Result<()> {
        let segments = self.segments();
        let over = segments.update_many(
            doc! { "state": OLD, "build": coverage.build },
            doc! { "$set": { "state": OVER } },
        );
        self.mongo.run_within(WITHIN, over).await?;
        self.set(coverage, doc! { "is_complete": true }).await
    }

    /// Changes it, if it is still as it was.
    async fn set(&self, coverage: &Coverage, fields: Fields) -> Result<()> {
        let same = doc! {
            "_id": ID, "build": coverage.build, "room": &coverage.room, "seq": coverage.seq,
        };
        let coverages = self.coverages();
        let set = coverages.update_one(same, doc! { "$set": fields });
        self.mongo.run(set).await.map(drop)
    }

    fn coverages(&self) -> Collection<Coverage> {
        self.mongo.collection(SEGMENTS)
    }

    fn segments(&self) -> Collection<Fields> {
        self.mongo.collection(SEGMENTS)
    }
}

impl Coverage {
    fn new(begun: DateTime) -> Self {
        Self {
            build: Uuid::from_bytes(*uuid::Uuid::now_v7().as_bytes()),
            begun,
            is_marked: false,
            room: String::new(),
            seq: 0,
            walked: 0,
            is_complete: false,
        }
    }
}
