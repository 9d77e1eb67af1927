//! One segment of several.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::bytes::Reader;
use super::{
    Blocks, Directory, Entry, Places, Postings, ROOM_TERMS, Term, Terms, Writer, decode_entries,
};
use crate::{Error, Result};

/// Makes one segment of several, each given by all its blocks. A message that is in more than one has the terms of all.
/// Those of the rooms with the terms `without`, which are sorted, are left out. Nothing when nothing is left.
///
/// # Errors
/// `Corrupt`.
pub fn merge(segments: &[Vec<impl AsRef<[u8]>>], without: &[Term]) -> Result<Option<Blocks>> {
    let mut inputs = Vec::with_capacity(segments.len());
    for blocks in segments {
        inputs.push(Input::new(blocks, without)?);
    }
    let (entries, places) = merge_entries(&inputs);
    let Some(mut writer) = Writer::new(&entries) else {
        return Ok(None);
    };
    let mut heads = BinaryHeap::new();
    for (number, input) in inputs.iter_mut().enumerate() {
        heads.extend(input.next()?.map(|(term, at)| Reverse((term, number, at))));
    }
    let mut merged: Vec<u32> = Vec::new();
    while let Some(Reverse((term, number, encoded))) = heads.pop() {
        let mut reader = Reader::new(encoded);
        let mut place = 0;
        while !reader.is_at_end() {
            place += reader.number()?;
            let new = usize::try_from(place)
                .ok()
                .and_then(|place| places[number].get(place));
            let new = new.ok_or_else(|| Error::Corrupt("a place beyond its segment".to_owned()))?;
            merged.extend(*new);
        }
        heads.extend(
            inputs[number]
                .next()?
                .map(|(term, at)| Reverse((term, number, at))),
        );
        let is_last = heads.peek().is_none_or(|Reverse((next, ..))| *next != term);
        if is_last {
            merged.sort_unstable();
            merged.dedup();
            writer.put(&term, &merged);
            merged.clear();
        }
    }
    Ok(Some(writer.finish()))
}

/// A segment that is read through.
struct Input<'a> {
    entries: Vec<Entry>,
    left_out: Places,
    blocks: Box<dyn Iterator<Item = &'a [u8]> + 'a>,
    postings: Postings<'a>,
}

impl<'a> Input<'a> {
    fn new(blocks: &'a [impl AsRef<[u8]>], without: &[Term]) -> Result<Self> {
        let left_out = left_out(blocks, without)?;
        let mut blocks = blocks.iter().map(AsRef::as_ref);
        let directory = Directory::decode(blocks.next().unwrap_or_default())?;
        let mut entries = Vec::with_capacity(directory.count);
        for _ in 0..directory.times.len() {
            entries.extend(decode_entries(blocks.next().unwrap_or_default())?);
        }
        Ok(Self {
            entries,
            left_out,
            blocks: Box::new(blocks),
            postings: Postings::new(&[]),
        })
    }

    fn next(&mut self) -> Result<Option<(Term, &'a [u8])>> {
        loop {
            if let Some((term, places)) = self.postings.next()? {
                return Ok(Some((term.to_vec(), places)));
            }
            match self.blocks.next() {
                Some(block) => self.postings = Postings::new(block),
                None => return Ok(None),
            }
        }
    }
}

/// The places of messages of these rooms, and of no other: an entry may stand for messages of two rooms.
fn left_out(blocks: &[impl AsRef<[u8]>], rooms: &[Term]) -> Result<Places> {
    let directory = Directory::decode(blocks.first().map_or(&[], AsRef::as_ref))?;
    let mut left_out = Places::none(directory.count);
    if rooms.is_empty() {
        return Ok(left_out);
    }
    let mut of_others = Places::none(directory.count);
    let all = Terms::Beginning(ROOM_TERMS.to_vec());
    for number in directory.posting_blocks(&all) {
        let mut postings = Postings::new(blocks.get(number).map_or(&[], AsRef::as_ref));
        while let Some((term, places)) = postings.next()? {
            if rooms
                .binary_search_by(|room| room.as_slice().cmp(term))
                .is_ok()
            {
                left_out.insert_all(places)?;
            } else if all.contain(term) {
                of_others.insert_all(places)?;
            }
        }
    }
    left_out.remove(&of_others);
    Ok(left_out)
}

/// The entries of all, each once, and for each segment the new places of its entries; nothing for those left out.
fn merge_entries(inputs: &[Input<'_>]) -> (Vec<Entry>, Vec<Vec<Option<u32>>>) {
    let mut all: Vec<(Entry, usize, usize)> = Vec::new();
    for (number, input) in inputs.iter().enumerate() {
        let entries = input.entries.iter().enumerate();
        let entries = entries.filter(|(place, _)| !input.left_out.contains(*place));
        all.extend(entries.map(|(place, entry)| (*entry, number, place)));
    }
    all.sort_unstable();
    let mut places: Vec<Vec<Option<u32>>> = inputs
        .iter()
        .map(|input| vec![None; input.entries.len()])
        .collect();
    let mut entries: Vec<Entry> = Vec::with_capacity(all.len());
    for (entry, number, place) in all {
        if entries.last() != Some(&entry) {
            entries.push(entry);
        }
        places[number][place] = u32::try_from(entries.len() - 1).ok();
    }
    (entries, places)
}
