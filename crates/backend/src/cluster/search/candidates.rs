//! The messages of a segment that may be meant, newest first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::cache::{Block, Cache};
use super::index::{Head, Index, Key};
use super::segment::{self, Directory, Entry, Places, Terms};
use crate::Result;

/// Segments that are opened at least at once.
const OPEN_MIN: usize = 4;

/// What is looked for in the index. A message has one of each.
pub struct Wanted {
    pub terms: Vec<Terms>,
    /// Milliseconds since 1970; the end is not included.
    pub since: i64,
    pub until: i64,
}

/// Candidates of all segments, merged.
pub struct Candidates<'a> {
    index: &'a Index,
    cache: &'a Cache,
    wanted: &'a Wanted,
    segments: Vec<Segment<'a>>,
    /// Segments that were not looked at yet, that with the newest message last.
    unopened: Vec<&'a Head>,
    /// The next of each segment.
    next: BinaryHeap<Reverse<(Entry, usize)>>,
    last: Option<Entry>,
}

struct Segment<'a> {
    head: &'a Head,
    directory: Arc<Directory>,
    places: Places,
    /// Places below this one were given out.
    from: u32,
    /// The entries of one block, and its number.
    entries: (u32, Vec<Entry>),
}

/// A segment was merged while it was read: the search has to begin again.
pub struct Gone;

impl<'a> Candidates<'a> {
    #[must_use]
    pub fn new(index: &'a Index, cache: &'a Cache, wanted: &'a Wanted, heads: &'a [Head]) -> Self {
        cache.forget_all_but(heads);
        let mut unopened: Vec<&Head> = heads
            .iter()
            .filter(|head| head.newest >= wanted.since && head.oldest < wanted.until)
            .collect();
        unopened.sort_by_key(|head| head.newest);
        Self {
            index,
            cache,
            wanted,
            segments: Vec::with_capacity(unopened.len()),
            unopened,
            next: BinaryHeap::new(),
            last: None,
        }
    }

    /// The next one, which may be of a room that is not meant.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    pub async fn next(&mut self) -> Result<std::result::Result<Option<Entry>, Gone>> {
        loop {
            if self.open().await?.is_err() {
                return Ok(Err(Gone));
            }
            let Some(Reverse((entry, number))) = self.next.pop() else {
                return Ok(Ok(None));
            };
            if self.go_on(number).await?.is_err() {
                return Ok(Err(Gone));
            }
            // One that was stored again is in two segments.
            if self.last != Some(entry) {
                self.last = Some(entry);
                return Ok(Ok(Some(entry)));
            }
        }
    }

    /// Opens segments until none of the others can have anything newer than what is next: as many at once as are open,
    /// so that what is rare is found in few steps, and what is frequent in few segments.
    async fn open(&mut self) -> Result<std::result::Result<(), Gone>> {
        while let Some(newest) = self.unopened.last()
            && self
                .next
                .peek()
                .is_none_or(|Reverse((entry, _))| entry.at <= newest.newest)
        {
            let more = self.segments.len().max(OPEN_MIN);
            let left = self.unopened.len().saturating_sub(more);
            let opened = self.unopened.split_off(left);
            let Some(directories) = self.cache.directories(self.index, &opened).await? else {
                return Ok(Err(Gone));
            };
            let opened: Vec<_> = opened.into_iter().zip(directories).collect();
            let mut numbers = Vec::new();
            for (head, directory) in &opened {
                for terms in &self.wanted.terms {
                    let blocks = directory.posting_blocks(terms);
                    numbers.extend(blocks.into_iter().map(|number| (*head, number as u32)));
                }
            }
            numbers.sort_unstable_by_key(|(head, number)| (head.id.bytes(), *number));
            numbers.dedup_by_key(|(head, number)| (head.id, *number));
            let Some(blocks) = self.cache.blocks(self.index, &numbers).await? else {
                return Ok(Err(Gone));
            };
            let first = self.segments.len();
            for (head, directory) in opened {
                let places = places(head, &directory, self.wanted, &blocks)?;
                self.segments.push(Segment {
                    head,
                    directory,
                    places,
                    from: 0,
                    entries: (0, Vec::new()),
                });
            }
            // What the first of each is in, read at once.
            let of_first = self.segments[first..].iter().filter_map(|segment| {
                let place = segment.places.next(0)?;
                Some((segment.head, segment.directory.entry_block(place) as u32))
            });
            let of_first: Vec<(&Head, u32)> = of_first.collect();
            if self.cache.blocks(self.index, &of_first).await?.is_none() {
                return Ok(Err(Gone));
            }
            for number in first..self.segments.len() {
                if self.go_on(number).await?.is_err() {
                    return Ok(Err(Gone));
                }
            }
        }
        Ok(Ok(()))
    }

    async fn go_on(&mut self, number: usize) -> Result<std::result::Result<(), Gone>> {
        let segment = &mut self.segments[number];
        while let Some(place) = segment.places.next(segment.from) {
            segment.from = place + 1;
            let block = segment.directory.entry_block(place) as u32;
            if segment.entries.0 != block {
                let wanted = [(segment.head, block)];
                let Some(blocks) = self.cache.blocks(self.index, &wanted).await? else {
                    return Ok(Err(Gone));
                };
                let entries = segment::decode_entries(&blocks[&(segment.head.id, block)])?;
                segment.entries = (block, entries);
            }
            let entry = segment.entries.1.get(place as usize % segment::ENTRIES_MAX);
            if let Some(entry) = entry
                && (self.wanted.since..self.wanted.until).contains(&entry.at)
            {
                self.next.push(Reverse((*entry, number)));
                break;
            }
        }
        Ok(Ok(()))
    }
}

/// The places of the messages that have all terms.
fn places(
    head: &Head,
    directory: &Directory,
    wanted: &Wanted,
    blocks: &HashMap<Key, Block>,
) -> Result<Places> {
    let in_time = directory.places(wanted.since, wanted.until);
    let mut places = Places::range(directory.count, in_time);
    for terms in &wanted.terms {
        let mut have = Places::none(directory.count);
        for number in directory.posting_blocks(terms) {
            segment::collect(&blocks[&(head.id, number as u32)], terms, &mut have)?;
        }
        places.keep(&have);
        if places.is_empty() {
            break;
        }
    }
    Ok(places)
}
