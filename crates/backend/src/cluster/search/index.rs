//! The index in MongoDB: segments, small ones as they are stored with each batch, and larger ones made of them.
//!
//! Nothing in a segment is ever changed, and one may say too much: a message that was edited since, or is gone. Whoever
//! searches looks at the messages themselves. What is left out of the index is not found, so a batch is in the index
//! before it is stored, and [`Coverage`](super::coverage) says how far that holds for what was stored otherwise.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ::mongodb as driver;
use driver::Collection;
use driver::bson::spec::BinarySubtype;
use driver::bson::{Binary, Bson, Document as Fields, Uuid, doc};
use driver::error::TRANSIENT_TRANSACTION_ERROR;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use super::segment::{self, Blocks, Directory, Entry, Places, Term, Terms};
use crate::cluster::mongo::trouble;
use crate::cluster::{Mongo, lease};
use crate::{Error, Result};

/// Segments that can be searched, that are being made, and that are over.
pub(super) const SEGMENTS: &str = "search_segments";
/// What large segments are made of.
const BLOCKS: &str = "search_blocks";

/// Segments of about the same size that are made into one: at least so many, and at most so many and of so many bytes,
/// which bounds the memory that it takes.
const FAN: usize = 8;
const MERGE_MAX: usize = 64;
const MERGE_BYTES: i64 = 32 * 1024 * 1024;
/// A segment of a tier has up to `FAN` times as many bytes as one of the tier below; those of the first up to this many.
const FIRST_TIER: i64 = 2 * 1024;
/// Segments of more bytes are not merged any more.
const LAST_TIER: i64 = 8 * 1024 * 1024;
/// A segment up to this size keeps its blocks itself.
const INLINE_BYTES: usize = 256 * 1024;
/// Bytes of terms in one segment of a batch, so that it fits into a document.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of blocks written at once.
const WRITE_BYTES: usize = 4 * 1024 * 1024;
/// Blocks read at once.
const BLOCKS_AT_ONCE: usize = 256;
pub(super) const WITHIN: Duration = Duration::from_secs(10);
/// A segment that is not complete after this time was given up.
const ABANDONED_MS: i64 = 10 * 60 * 1000;

/// The lock of who merges, and how long it holds after a merge began.
const LOCK: &str = "search";
const LEASE: Duration = Duration::from_secs(30);

/// States of a segment.
pub(super) const LIVE: &str = "live";
/// It is searched until a rebuild is done, and goes then.
pub(super) const OLD: &str = "old";
const OPENING: &str = "opening";
pub(super) const OVER: &str = "over";

/// The index; cheap to clone.
#[derive(Clone)]
pub struct Index {
    pub(super) mongo: Mongo,
    /// This process, where one does the work of all.
    pub(super) holder: Arc<str>,
}

/// What a search knows of a segment before it reads it.
#[derive(Clone, Debug, Deserialize)]
pub struct Head {
    #[serde(rename = "_id")]
    pub id: Uuid,
    pub state: String,
    /// Messages in it.
    pub count: i64,
    pub bytes: i64,
    /// The times of the newest and the oldest message, in milliseconds since 1970.
    pub newest: i64,
    pub oldest: i64,
    /// Whether the segment keeps its blocks itself.
    pub inline: bool,
}

#[derive(Serialize)]
struct Segment {
    #[serde(rename = "_id")]
    id: Uuid,
    state: &'static str,
    made: driver::bson::DateTime,
    count: i64,
    bytes: i64,
    newest: i64,
    oldest: i64,
    inline: bool,
    blocks: Vec<Binary>,
}

#[derive(Deserialize)]
struct Inline {
    #[serde(rename = "_id")]
    id: Uuid,
    blocks: Vec<Binary>,
}

#[derive(Serialize, Deserialize)]
struct Block {
    #[serde(rename = "_id")]
    place: Place,
    bytes: Binary,
}

#[derive(Serialize, Deserialize)]
struct Place {
    segment: Uuid,
    block: i32,
}

/// The block of a segment.
pub type Key = (Uuid, u32);

impl Index {
    pub fn new(mongo: Mongo) -> Self {
        let holder = uuid::Uuid::now_v7().to_string().into();
        Self { mongo, holder }
    }

    /// Adds messages with their terms, on disk of the majority of members. What is there already may be added again.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn add(&self, messages: Vec<(Entry, Vec<Term>)>) -> Result<()> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for message in messages {
            bytes += message.1.iter().map(Vec::len).sum::<usize>();
            batch.push(message);
            if bytes > BATCH_BYTES {
                self.add_segment(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        self.add_segment(batch).await
    }

    async fn add_segment(&self, messages: Vec<(Entry, Vec<Term>)>) -> Result<()> {
        let Some(blocks) = segment::build(messages) else {
            return Ok(());
        };
        let segment = Segment::new(&blocks, LIVE, true);
        let segments: Collection<Segment> = self.mongo.collection(SEGMENTS);
        self.mongo
            .run_within(WITHIN, segments.insert_one(segment))
            .await
            .map(drop)
    }

    /// What there is to be searched.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn heads(&self) -> Result<Vec<Head>> {
        let segments: Collection<Head> = self.mongo.collection(SEGMENTS);
        let find = segments.find(searched()).projection(head_fields());
        let heads = async { find.await?.try_collect::<Vec<_>>().await };
        self.mongo.run(heads).await
    }

    /// All blocks of segments that keep them themselves. Those that are over are left out.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn inline(&self, ids: &[Uuid]) -> Result<Vec<(Uuid, Vec<Vec<u8>>)>> {
        let segments: Collection<Inline> = self.mongo.collection(SEGMENTS);
        let find = segments
            .find(inline_of(ids))
            .projection(doc! { "blocks": 1 });
        let found = async { find.await?.try_collect::<Vec<_>>().await };
        let found = self.mongo.run_within(WITHIN, found).await?;
        let bytes = |segment: Inline| {
            let blocks = segment.blocks.into_iter().map(|block| block.bytes);
            (segment.id, blocks.collect())
        };
        Ok(found.into_iter().map(bytes).collect())
    }

    /// Blocks of segments that do not keep them themselves. Those that are over are left out.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn blocks(&self, keys: &[Key]) -> Result<Vec<(Key, Vec<u8>)>> {
        self.find_blocks(blocks_at(keys)).await
    }

    async fn find_blocks(&self, which: Fields) -> Result<Vec<(Key, Vec<u8>)>> {
        let blocks: Collection<Block> = self.mongo.collection(BLOCKS);
        let find = blocks.find(which).sort(doc! { "_id": 1 });
        let found = async { find.await?.try_collect::<Vec<_>>().await };
        let found = self.mongo.run_within(WITHIN, found).await?;
        let bytes = |block: Block| {
            let number = block.place.block.cast_unsigned();
            ((block.place.segment, number), block.bytes.bytes)
        };
        Ok(found.into_iter().map(bytes).collect())
    }

    /// Makes one segment of several, where there are enough of about the same size, and answers whether it did. Of all
    /// processes one does it at a time; if two do, the work of one is in vain. Because of a broken segment the index is
    /// rebuilt; the others remain.
    ///
    /// # Errors
    /// `Unavailable`; then everything is as before, but for what [`Index::sweep`] removes.
    pub async fn merge(&self, heads: Vec<Head>) -> Result<bool> {
        let Some(heads) = ripe(heads) else {
            return Ok(false);
        };
        if !lease::take(&self.mongo, LOCK, &self.holder, LEASE).await? {
            return Ok(false);
        }
        match self.become_one(&heads, &[]).await {
            Ok(()) => Ok(true),
            Err(Error::Corrupt(reason)) => {
                let mut broken = Vec::new();
                for head in &heads {
                    match self.merged(std::slice::from_ref(head), &[]).await {
                        Err(Error::Corrupt(_)) => broken.push(head.clone()),
                        merged => drop(merged?),
                    }
                }
                let broken = if broken.is_empty() { heads } else { broken };
                self.set_aside(&broken, &reason).await?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Leaves rooms out of all segments, and answers how many were written anew. One process does it at a time.
    ///
    /// # Errors
    /// `Unavailable`, also while another process merges; then some of it may be done.
    pub async fn leave_out(&self, rooms: &[String]) -> Result<usize> {
        let mut terms: Vec<Term> = rooms.iter().map(|room| segment::room_term(room)).collect();
        terms.sort_unstable();
        let mut written = 0;
        for head in self.heads().await? {
            if !lease::take(&self.mongo, LOCK, &self.holder, LEASE).await? {
                return Err(Error::unavailable("another process merges the index"));
            }
            if self.has(&head, &terms).await? {
                self.become_one(&[head], &terms).await?;
                written += 1;
            }
        }
        Ok(written)
    }

    /// Whether a segment has one of these terms. They are sorted.
    async fn has(&self, head: &Head, terms: &[Term]) -> Result<bool> {
        let Some(first) = self.some_blocks(head, &[0]).await?.pop() else {
            return Err(lost());
        };
        let directory = Directory::decode(&first)?;
        let any = Terms::Any(terms.to_vec());
        let numbers = directory.posting_blocks(&any);
        let mut found = Places::none(directory.count);
        for numbers in numbers.chunks(BLOCKS_AT_ONCE) {
            for block in self.some_blocks(head, numbers).await? {
                segment::collect(&block, &any, &mut found)?;
            }
            if !found.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn some_blocks(&self, head: &Head, numbers: &[usize]) -> Result<Vec<Vec<u8>>> {
        if head.inline {
            let all = self.inline(&[head.id]).await?.pop();
            let (_, mut all) = all.ok_or_else(lost)?;
            let mut some = Vec::with_capacity(numbers.len());
            for number in numbers {
                some.push(std::mem::take(all.get_mut(*number).ok_or_else(lost)?));
            }
            return Ok(some);
        }
        let keys: Vec<Key> = numbers
            .iter()
            .map(|number| (head.id, *number as u32))
            .collect();
        let blocks = self.blocks(&keys).await?;
        if blocks.len() != keys.len() {
            return Err(lost());
        }
        Ok(blocks.into_iter().map(|(_, block)| block).collect())
    }

    /// Makes one segment of these, without the rooms that have these sorted terms.
    pub(super) async fn become_one(&self, heads: &[Head], without: &[Term]) -> Result<()> {
        let id = match self.merged(heads, without).await? {
            Some(merged) => Some(self.open_segment(&merged).await?),
            None => None,
        };
        if !self.replace(heads, id).await? {
            self.remove(id.as_slice()).await?;
            return Err(lost());
        }
        let ids: Vec<Uuid> = heads.iter().map(|head| head.id).collect();
        self.remove(&ids).await
    }

    async fn merged(&self, heads: &[Head], without: &[Term]) -> Result<Option<Blocks>> {
        let segments = self.whole(heads).await?;
        let without = without.to_vec();
        let merged = tokio::task::spawn_blocking(move || segment::merge(&segments, &without)).await;
        merged.map_err(|panic| Error::Corrupt(panic.to_string()))?
    }

    /// All blocks of segments, in order. `Corrupt` when one that is searched lacks some.
    async fn whole(&self, heads: &[Head]) -> Result<Vec<Vec<Vec<u8>>>> {
        let inline: Vec<Uuid> = heads.iter().filter(|h| h.inline).map(|h| h.id).collect();
        let mut segments = Vec::with_capacity(heads.len());
        for (_, blocks) in self.inline(&inline).await? {
            segments.push(blocks);
        }
        for head in heads.iter().filter(|head| !head.inline) {
            let blocks = self.find_blocks(blocks_of(head.id)).await?;
            segments.push(blocks.into_iter().map(|(_, bytes)| bytes).collect());
        }
        let is_whole = |blocks: &Vec<Vec<u8>>| {
            let directory = blocks.first().map(|first| Directory::decode(first));
            matches!(directory, Some(Ok(directory)) if directory.blocks() == blocks.len())
        };
        if segments.len() == heads.len() && segments.iter().all(is_whole) {
            return Ok(segments);
        }
        Err(if self.still(heads.to_vec()).await?.len() == heads.len() {
            Error::Corrupt("a segment of the index is not whole".to_owned())
        } else {
            lost()
        })
    }

    /// Those of the segments that are searched now.
    async fn still(&self, mut heads: Vec<Head>) -> Result<Vec<Head>> {
        let now: HashSet<Uuid> = self.heads().await?.iter().map(|head| head.id).collect();
        heads.retain(|head| now.contains(&head.id));
        Ok(heads)
    }

    /// Has the index rebuilt because of these segments, which are not merged any more.
    async fn set_aside(&self, heads: &[Head], reason: &str) -> Result<()> {
        tracing::error!(reason, "the index of search is broken and is made anew");
        let ids: Vec<Uuid> = heads.iter().map(|head| head.id).collect();
        let segments: Collection<Fields> = self.mongo.collection(SEGMENTS);
        let newest = segments
            .find_one(doc! { "_id": { "$in": &ids } })
            .sort(doc! { "made": -1 })
            .projection(doc! { "_id": 0, "made": 1 });
        let newest = self.mongo.run_within(WITHIN, newest).await?;
        let newest = newest.and_then(|newest| newest.get_datetime("made").ok().copied());
        // First these: when only the other half is done, `sweep` does it.
        let old = segments.update_many(
            doc! { "_id": { "$in": ids }, "state": LIVE },
            doc! { "$set": { "state": OLD } },
        );
        self.mongo.run_within(WITHIN, old).await?;
        self.rebuild_after(newest).await
    }

    /// Sets aside segments that are too large to be merged and lack blocks: nobody else would notice.
    async fn check_large(&self) -> Result<()> {
        let blocks: Collection<Fields> = self.mongo.collection(BLOCKS);
        let mut broken = Vec::new();
        for head in self.heads().await? {
            if head.inline || head.state != LIVE {
                continue;
            }
            let first = self.blocks(&[(head.id, 0)]).await?.pop();
            let directory = first.and_then(|(_, first)| Directory::decode(&first).ok());
            let count = blocks.count_documents(blocks_of(head.id));
            let count = self.mongo.run_within(WITHIN, count).await?;
            if directory.is_none_or(|directory| directory.blocks() as u64 != count) {
                broken.push(head);
            }
        }
        // One that was merged meanwhile lacks nothing.
        let broken = self.still(broken).await?;
        if broken.is_empty() {
            return Ok(());
        }
        self.set_aside(&broken, "a large segment is not whole")
            .await
    }

    /// Writes a segment that is not searched yet.
    pub(in super::super) async fn open_segment(&self, blocks: &Blocks) -> Result<Uuid> {
        let inline = blocks.bytes() <= INLINE_BYTES;
        let segment = Segment::new(blocks, OPENING, inline);
        let id = segment.id;
        let segments: Collection<Segment> = self.mongo.collection(SEGMENTS);
        let opening = segments.insert_one(segment);
        self.mongo.run_within(WITHIN, opening).await?;
        if !inline {
            self.write(id, &blocks.blocks).await?;
        }
        Ok(id)
    }

    /// Puts a segment, if there is one, in the place of others, all at once; answers whether they were all still there.
    async fn replace(&self, others: &[Head], id: Option<Uuid>) -> Result<bool> {
        let segments: Collection<Fields> = self.mongo.collection(SEGMENTS);
        let are_old = others.iter().any(|head| head.state == OLD);
        let state = if are_old { OLD } else { LIVE };
        let ids: Vec<Uuid> = others.iter().map(|head| head.id).collect();
        let swap = async {
            let mut session = self.mongo.client().start_session().await?;
            session.start_transaction().await?;
            // Those of a rebuild go with it: what is made of them has to know which.
            let found = segments
                .find_one(doc! { "_id": { "$in": &ids } })
                .projection(doc! { "build": 1 })
                .session(&mut session)
                .await?;
            let build = found.and_then(|found| found.get("build").cloned());
            let over = segments
                .update_many(
                    doc! { "_id": { "$in": &ids }, "state": state },
                    doc! { "$set": { "state": OVER } },
                )
                .session(&mut session)
                .await?;
            if over.modified_count != ids.len() as u64 {
                session.abort_transaction().await?;
                return Ok(false);
            }
            if let Some(id) = id {
                let mut set = doc! { "state": state };
                if let Some(build) = build {
                    set.insert("build", build);
                }
                let live = segments
                    .update_one(doc! { "_id": id, "state": OPENING }, doc! { "$set": set })
                    .session(&mut session)
                    .await?;
                if live.modified_count != 1 {
                    session.abort_transaction().await?;
                    return Ok(false);
                }
            }
            session.commit_transaction().await?;
            Ok(true)
        };
        match self.mongo.attempt_within(WITHIN, swap).await? {
            // Somebody else is about to do the same.
            Err(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) => Ok(false),
            Err(error) => Err(trouble(&error)),
            Ok(is_done) => Ok(is_done),
        }
    }

    async fn write(&self, segment: Uuid, blocks: &[Vec<u8>]) -> Result<()> {
        let collection: Collection<Block> = self.mongo.collection(BLOCKS);
        let mut documents = Vec::new();
        let mut bytes = 0;
        let mut blocks = (0_i32..).zip(blocks).peekable();
        while let Some((number, block)) = blocks.next() {
            bytes += block.len();
            documents.push(Block {
                place: Place {
                    segment,
                    block: number,
                },
                bytes: binary(block),
            });
            if bytes > WRITE_BYTES || blocks.peek().is_none() {
                let insert = collection.insert_many(std::mem::take(&mut documents));
                self.mongo.run_within(WITHIN, insert).await?;
                bytes = 0;
            }
        }
        Ok(())
    }

    /// Removes segments that are not searched any more.
    async fn remove(&self, ids: &[Uuid]) -> Result<()> {
        let blocks: Collection<Fields> = self.mongo.collection(BLOCKS);
        for id in ids {
            let of_it = blocks.delete_many(blocks_of(*id));
            self.mongo.run_within(WITHIN, of_it).await?;
        }
        let segments: Collection<Fields> = self.mongo.collection(SEGMENTS);
        let which = doc! { "_id": { "$in": ids }, "state": { "$ne": LIVE } };
        self.mongo
            .run_within(WITHIN, segments.delete_many(which))
            .await
            .map(drop)
    }

    /// Removes what merges that were broken off have left, and looks for what is lost.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn sweep(&self) -> Result<()> {
        let segments: Collection<Fields> = self.mongo.collection(SEGMENTS);
        let long_ago = driver::bson::DateTime::from_millis(
            driver::bson::DateTime::now().timestamp_millis() - ABANDONED_MS,
        );
        let abandoned = segments.update_many(
            doc! { "state": OPENING, "made": { "$lt": long_ago } },
            doc! { "$set": { "state": OVER } },
        );
        self.mongo.run_within(WITHIN, abandoned).await?;
        let over = segments.find(over()).projection(doc! { "_id": 1 });
        let over = async { over.await?.try_collect::<Vec<_>>().await };
        for found in self.mongo.run_within(WITHIN, over).await? {
            let id = found.get("_id").cloned().unwrap_or(Bson::Null);
            let id: Uuid = driver::bson::deserialize_from_bson(id)
                .map_err(|e| trouble(&driver::error::Error::from(e)))?;
            self.remove(&[id]).await?;
        }
        self.check_large().await?;
        // Segments go when the rebuild is done that they were set aside for.
        let old = segments.count_documents(doc! { "state": OLD }).limit(1);
        let is_complete = self.coverage().await?.is_some_and(|c| c.is_complete);
        if is_complete && self.mongo.run_within(WITHIN, old).await? > 0 {
            self.ask_for_rebuild().await?;
        }
        Ok(())
    }
}

/// The segments that are to be one: the oldest of the smallest tier that has enough.
fn ripe(heads: Vec<Head>) -> Option<Vec<Head>> {
    let mut heads: Vec<Head> = heads
        .into_iter()
        .filter(|head| head.state == LIVE && tier(head.bytes).is_some())
        .collect();
    heads.sort_by_key(|head| (tier(head.bytes), head.oldest));
    let mut same = heads
        .chunk_by(|a, b| tier(a.bytes) == tier(b.bytes))
        .find(|same| same.len() >= FAN)?
        .to_vec();
    let mut bytes = 0;
    let fitting = same.iter().take_while(|head| {
        bytes += head.bytes;
        bytes <= MERGE_BYTES
    });
    let fitting = fitting.take(MERGE_MAX).count();
    same.truncate(fitting);
    Some(same)
}

/// The tier of a segment of so many bytes; nothing for one that stays as it is.
fn tier(bytes: i64) -> Option<u32> {
    let (mut tier, mut most) = (0, FIRST_TIER);
    while bytes > most {
        (tier, most) = (tier + 1, most.saturating_mul(FAN as i64));
    }
    (most <= LAST_TIER).then_some(tier)
}

impl Segment {
    fn new(blocks: &Blocks, state: &'static str, inline: bool) -> Self {
        let kept = if inline { &blocks.blocks[..] } else { &[] };
        Self {
            id: Uuid::from_bytes(*uuid::Uuid::now_v7().as_bytes()),
            state,
            made: driver::bson::DateTime::now(),
            count: i64::try_from(blocks.count).unwrap_or(i64::MAX),
            bytes: i64::try_from(blocks.bytes()).unwrap_or(i64::MAX),
            newest: blocks.newest,
            oldest: blocks.oldest,
            inline,
            blocks: kept.iter().map(|block| binary(block)).collect(),
        }
    }
}

fn binary(bytes: &[u8]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}

fn place((segment, block): Key) -> Fields {
    doc! { "segment": segment, "block": block.cast_signed() }
}

/// Segments that are searched.
pub(super) fn searched() -> Fields {
    doc! { "state": { "$in": [LIVE, OLD] } }
}

/// What is read of them; all of it stands in the index.
pub(super) fn head_fields() -> Fields {
    doc! { "state": 1, "count": 1, "bytes": 1, "newest": 1, "oldest": 1, "inline": 1 }
}

/// Segments that are to be removed.
pub(super) fn over() -> Fields {
    doc! { "state": OVER }
}

pub(super) fn inline_of(ids: &[Uuid]) -> Fields {
    doc! { "_id": { "$in": ids }, "inline": true }
}

pub(super) fn blocks_at(keys: &[Key]) -> Fields {
    let places: Vec<Fields> = keys.iter().map(|key| place(*key)).collect();
    doc! { "_id": { "$in": places } }
}

/// A range of whole keys, so that MongoDB finds them by the index of `_id`.
pub(super) fn blocks_of(segment: Uuid) -> Fields {
    doc! { "_id": { "$gte": place((segment, 0)), "$lte": place((segment, i32::MAX as u32)) } }
}

fn lost() -> Error {
    Error::unavailable("a segment of the index was merged by somebody else")
}

/// The index by which segments are found.
pub(in super::super) fn indexes() -> Vec<driver::IndexModel> {
    vec![
        driver::IndexModel::builder()
            .keys(
                doc! { "state": 1, "bytes": 1, "count": 1, "newest": 1, "oldest": 1, "inline": 1, "_id": 1 },
            )
            .options(
                driver::options::IndexOptions::builder()
                    .name("heads".to_owned())
                    .build(),
            )
            .build(),
    ]
}

/// The collection that has it.
pub(in super::super) const COLLECTION: &str = SEGMENTS;
