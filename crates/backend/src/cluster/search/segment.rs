//! A segment of the index: messages, newest first, and for every term the messages that have it. Immutable once made.
//!
//! Its bytes are cut into blocks, so that a search reads few of them: block 0 is the directory, then come the entries,
//! then the postings, sorted by term. Numbers are varints; a message is named by its place in the segment.

mod bytes;
mod merge;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::{Error, Result};
use bytes::{Reader, put_bytes, put_number, put_signed};
pub use merge::merge;

const VERSION: u64 = 1;
/// Entries of one block.
pub const ENTRIES_MAX: usize = 1024;
/// A block of postings is closed when it has this many bytes.
const POSTINGS_BYTES: usize = 16 * 1024;

/// What a message can be found by. Words are themselves; what else there is begins with a byte that no word has.
pub type Term = Vec<u8>;

/// The term of all messages of a sender.
pub fn sender_term(user: &str) -> Term {
    [b"\0u", user.as_bytes()].concat()
}

/// What all terms of rooms begin with.
pub const ROOM_TERMS: &[u8] = b"\0r";

/// The term of all messages of a room.
pub fn room_term(room: &str) -> Term {
    [ROOM_TERMS, room.as_bytes()].concat()
}

/// What stands for a room in an entry; several may have the same.
pub fn digest(room: &str) -> u32 {
    crc32fast::hash(room.as_bytes())
}

/// A message, as a segment knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Milliseconds since 1970.
    pub at: i64,
    /// The digest of its room.
    pub room: u32,
    pub seq: u64,
}

impl Entry {
    /// Sorts newest first; within a millisecond in the order of results.
    fn key(&self) -> (std::cmp::Reverse<i64>, std::cmp::Reverse<u64>, u32) {
        let Self { at, room, seq } = *self;
        (std::cmp::Reverse(at), std::cmp::Reverse(seq), room)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// The blocks of a new segment.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// Entries in it.
    pub count: usize,
    /// The times of the newest and the oldest.
    pub newest: i64,
    pub oldest: i64,
    /// The directory first.
    pub blocks: Vec<Vec<u8>>,
}

impl Blocks {
    /// The size of all.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(Vec::len).sum()
    }
}

/// Makes a segment of messages and their terms, in any order, repeated or not. Nothing of nothing.
pub fn build(messages: Vec<(Entry, Vec<Term>)>) -> Option<Blocks> {
    let mut distinct: BTreeMap<Entry, Vec<Term>> = BTreeMap::new();
    for (entry, terms) in messages {
        distinct.entry(entry).or_default().extend(terms);
    }
    let mut postings: BTreeMap<Term, Vec<u32>> = BTreeMap::new();
    for (place, terms) in (0_u32..).zip(distinct.values_mut()) {
        for term in std::mem::take(terms) {
            let places = postings.entry(term).or_default();
            if places.last() != Some(&place) {
                places.push(place);
            }
        }
    }
    let entries: Vec<Entry> = distinct.into_keys().collect();
    let mut writer = Writer::new(&entries)?;
    for (term, places) in &postings {
        writer.put(term, places);
    }
    Some(writer.finish())
}

/// Writes blocks. Terms come in order.
struct Writer {
    count: usize,
    newest: i64,
    oldest: i64,
    directory: Vec<u8>,
    blocks: Vec<Vec<u8>>,
    /// The first term of each block of postings, and whether the block goes on with the last one of the block before.
    heads: Vec<(Term, bool)>,
    open: Vec<u8>,
    last_term: Term,
}

impl Writer {
    fn new(entries: &[Entry]) -> Option<Self> {
        let mut directory = Vec::new();
        put_number(&mut directory, VERSION);
        put_number(&mut directory, entries.len() as u64);
        let blocks: Vec<Vec<u8>> = entries.chunks(ENTRIES_MAX).map(encode_entries).collect();
        for chunk in entries.chunks(ENTRIES_MAX) {
            put_signed(&mut directory, chunk[0].at);
        }
        Some(Self {
            count: entries.len(),
            newest: entries.first()?.at,
            oldest: entries.last()?.at,
            directory,
            blocks,
            heads: Vec::new(),
            open: Vec::new(),
            last_term: Term::new(),
        })
    }

    /// Adds the ascending places of a term.
    fn put(&mut self, term: &[u8], places: &[u32]) {
        let mut goes_on = false;
        let mut left = places;
        while !left.is_empty() {
            if self.open.len() >= POSTINGS_BYTES {
                self.close();
            }
            if self.open.is_empty() {
                self.heads.push((term.to_vec(), goes_on));
                self.last_term.clear();
            }
            // A place takes a few bytes at most, so that a block does not grow much beyond its size.
            let now = left.len().min(POSTINGS_BYTES / 2);
            let (these, others) = left.split_at(now);
            self.put_some(term, these);
            left = others;
            goes_on = true;
        }
    }

    fn put_some(&mut self, term: &[u8], places: &[u32]) {
        let shared = self
            .last_term
            .iter()
            .zip(term)
            .take_while(|(a, b)| a == b)
            .count();
        let mut encoded = Vec::with_capacity(places.len() * 2);
        let mut before = 0;
        for &place in places {
            put_number(&mut encoded, u64::from(place - before));
            before = place;
        }
        put_number(&mut self.open, shared as u64);
        put_bytes(&mut self.open, &term[shared..]);
        put_bytes(&mut self.open, &encoded);
        self.last_term.clear();
        self.last_term.extend_from_slice(term);
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.blocks.push(std::mem::take(&mut self.open));
        }
    }

    fn finish(mut self) -> Blocks {
        self.close();
        for (term, goes_on) in &self.heads {
            self.directory.push((*goes_on).into());
            put_bytes(&mut self.directory, term);
        }
        let mut blocks = vec![self.directory];
        blocks.append(&mut self.blocks);
        Blocks {
            count: self.count,
            newest: self.newest,
            oldest: self.oldest,
            blocks,
        }
    }
}

fn encode_entries(entries: &[Entry]) -> Vec<u8> {
    let mut block = Vec::with_capacity(entries.len() * 10);
    let mut before = 0;
    for (number, Entry { at, room, seq }) in entries.iter().enumerate() {
        if number == 0 {
            put_signed(&mut block, *at);
        } else {
            put_number(&mut block, before_minus(before, *at));
        }
        before = *at;
        block.extend(room.to_be_bytes());
        put_number(&mut block, *seq);
    }
    block
}

fn before_minus(before: i64, at: i64) -> u64 {
    before.wrapping_sub(at).cast_unsigned()
}

/// What block 0 says: where everything is.
#[derive(Debug)]
pub struct Directory {
    pub count: usize,
    /// The time of the first entry of each block of entries.
    times: Vec<i64>,
    heads: Vec<(Term, bool)>,
}

impl Directory {
    /// # Errors
    /// `Corrupt`.
    pub fn decode(block: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(block);
        let version = reader.number()?;
        if version != VERSION {
            return Err(Error::Corrupt(format!(
                "a segment of the index is of version {version}"
            )));
        }
        let count = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
        let mut times = Vec::new();
        for _ in 0..count.div_ceil(ENTRIES_MAX) {
            times.push(reader.signed()?);
        }
        let mut heads = Vec::new();
        while !reader.is_at_end() {
            let goes_on = reader.byte()? == 1;
            heads.push((reader.bytes()?.to_vec(), goes_on));
        }
        Ok(Self {
            count,
            times,
            heads,
        })
    }

    /// How many blocks there are, the directory included.
    pub fn blocks(&self) -> usize {
        1 + self.times.len() + self.heads.len()
    }

    /// The block that has an entry.
    pub fn entry_block(&self, place: u32) -> usize {
        1 + place as usize / ENTRIES_MAX
    }

    /// The blocks that may have postings of these terms, ascending.
    pub fn posting_blocks(&self, terms: &Terms) -> Vec<usize> {
        match terms {
            Terms::One(term) => self.blocks_between(term, |head| head > term.as_slice()),
            Terms::Beginning(beginning) => self.blocks_between(beginning, |head| {
                head > beginning.as_slice() && !head.starts_with(beginning)
            }),
            Terms::Any(terms) => {
                let of_each = terms
                    .iter()
                    .map(|term| self.blocks_between(term, |head| head > term.as_slice()));
                let blocks: BTreeSet<usize> = of_each.flatten().collect();
                return blocks.into_iter().collect();
            }
        }
        .collect()
    }

    /// The blocks that may have terms from `from` on, up to those that are behind.
    fn blocks_between(&self, from: &[u8], is_behind: impl Fn(&[u8]) -> bool) -> Range<usize> {
        let begin = self
            .heads
            .partition_point(|(head, _)| head.as_slice() < from);
        let end = self.heads.partition_point(|(head, _)| !is_behind(head));
        let begins_here = self
            .heads
            .get(begin)
            .is_some_and(|(head, goes_on)| head.as_slice() == from && !goes_on);
        // Otherwise the first of them may be within the block before.
        let begin = if begins_here {
            begin
        } else {
            begin.saturating_sub(1)
        };
        let first = 1 + self.times.len();
        first + begin..first + end.max(begin)
    }

    /// The places whose times may be in `[since, until)`.
    pub fn places(&self, since: i64, until: i64) -> Range<u32> {
        // Times fall from block to block.
        let begin = self
            .times
            .partition_point(|at| *at >= until)
            .saturating_sub(1);
        let end = self.times.partition_point(|at| *at >= since);
        let place =
            |block: usize| u32::try_from((block * ENTRIES_MAX).min(self.count)).unwrap_or(u32::MAX);
        place(begin)..place(end)
    }
}

/// Terms that are looked for: one, all that begin alike, or any of several, which are sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Terms {
    One(Term),
    Beginning(Term),
    Any(Vec<Term>),
}

impl Terms {
    fn contain(&self, term: &[u8]) -> bool {
        match self {
            Self::One(one) => term == one.as_slice(),
            Self::Beginning(beginning) => term.starts_with(beginning),
            Self::Any(terms) => terms
                .binary_search_by(|one| one.as_slice().cmp(term))
                .is_ok(),
        }
    }

    /// Whether a term stands behind all of these.
    fn is_before(&self, term: &[u8]) -> bool {
        let last = match self {
            Self::One(term) | Self::Beginning(term) => Some(term),
            Self::Any(terms) => terms.last(),
        };
        last.is_none_or(|last| term > last.as_slice()) && !self.contain(term)
    }
}

/// Reads a block of entries.
///
/// # Errors
/// `Corrupt`.
pub fn decode_entries(block: &[u8]) -> Result<Vec<Entry>> {
    let mut reader = Reader::new(block);
    let mut entries: Vec<Entry> = Vec::with_capacity(ENTRIES_MAX);
    while !reader.is_at_end() {
        let at = match entries.last() {
            None => reader.signed()?,
            Some(before) => before.at.wrapping_sub(reader.number()?.cast_signed()),
        };
        let room = reader.digest()?;
        let seq = reader.number()?;
        entries.push(Entry { at, room, seq });
    }
    Ok(entries)
}

/// Puts the places of terms that are asked for into a set.
///
/// # Errors
/// `Corrupt`.
pub fn collect(block: &[u8], terms: &Terms, found: &mut Places) -> Result<()> {
    let mut postings = Postings::new(block);
    while let Some((term, places)) = postings.next()? {
        if terms.is_before(term) {
            break;
        }
        if terms.contain(term) {
            found.insert_all(places)?;
        }
    }
    Ok(())
}

/// Terms of a block with their encoded places, in order.
struct Postings<'a> {
    reader: Reader<'a>,
    term: Term,
}

impl<'a> Postings<'a> {
    fn new(block: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(block),
            term: Term::new(),
        }
    }

    fn next(&mut self) -> Result<Option<(&[u8], &'a [u8])>> {
        if self.reader.is_at_end() {
            return Ok(None);
        }
        let shared = usize::try_from(self.reader.number()?).unwrap_or(usize::MAX);
        self.term.truncate(shared);
        self.term.extend_from_slice(self.reader.bytes()?);
        let places = self.reader.bytes()?;
        Ok(Some((&self.term, places)))
    }
}

/// A set of places in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    bits: Vec<u64>,
    count: usize,
}

impl Places {
    pub fn none(count: usize) -> Self {
        Self {
            bits: vec![0; count.div_ceil(64)],
            count,
        }
    }

    pub fn range(count: usize, range: Range<u32>) -> Self {
        let mut places = Self::none(count);
        let (start, end) = (range.start as usize, (range.end as usize).min(count));
        for (word, bits) in places.bits.iter_mut().enumerate() {
            let first = start.clamp(word * 64, word * 64 + 64) - word * 64;
            let behind = end.clamp(word * 64, word * 64 + 64) - word * 64;
            if first < behind {
                *bits = (u64::MAX << first) & (u64::MAX >> (64 - behind));
            }
        }
        places
    }

    fn insert(&mut self, place: u64) -> Result<()> {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if place >= self.count {
            return Err(Error::Corrupt("a place beyond its segment".to_owned()));
        }
        self.bits[place / 64] |= 1 << (place % 64);
        Ok(())
    }

    /// Inserts places as they stand behind a term.
    fn insert_all(&mut self, encoded: &[u8]) -> Result<()> {
        let mut places = Reader::new(encoded);
        let mut place = 0_u64;
        while !places.is_at_end() {
            place = place.saturating_add(places.number()?);
            self.insert(place)?;
        }
        Ok(())
    }

    fn contains(&self, place: usize) -> bool {
        let bits = self.bits.get(place / 64).copied().unwrap_or(0);
        bits >> (place % 64) & 1 == 1
    }

    fn remove(&mut self, others: &Self) {
        for (bits, others) in self.bits.iter_mut().zip(&others.bits) {
            *bits &= !others;
        }
    }

    pub fn keep(&mut self, others: &Self) {
        for (bits, others) in self.bits.iter_mut().zip(&others.bits) {
            *bits &= others;
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.bits
            .iter()
            .map(|bits| bits.count_ones() as usize)
            .sum()
    }

    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|bits| *bits == 0)
    }

    /// The first place from `from` on.
    pub fn next(&self, from: u32) -> Option<u32> {
        let first = from as usize / 64;
        let mut bits = *self.bits.get(first)? & (u64::MAX << (from % 64));
        let mut word = first;
        while bits == 0 {
            word += 1;
            bits = *self.bits.get(word)?;
        }
        u32::try_from(word * 64 + bits.trailing_zeros() as usize).ok()
    }
}
