//! Blocks of segments in memory. They never change, so that what is kept is right for ever.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::mongodb::bson::Uuid;

use super::index::{Head, Index, Key};
use super::segment::Directory;
use crate::Result;

/// Bytes of blocks that are kept; the oldest go first.
const BYTES_MAX: usize = 96 * 1024 * 1024;
/// Blocks asked for at once.
const AT_ONCE: usize = 256;
/// Bytes of segments asked for at once, by whole segments.
const BYTES_AT_ONCE: i64 = 8 * 1024 * 1024;

pub type Block = Arc<[u8]>;

#[derive(Default)]
pub struct Cache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    blocks: HashMap<Key, Block>,
    /// In the order of their arrival.
    order: VecDeque<Key>,
    bytes: usize,
    directories: HashMap<Uuid, Arc<Directory>>,
}

impl Cache {
    /// Reads blocks, from memory as far as they are there. Nothing when a segment is not there any more.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    pub async fn blocks(
        &self,
        index: &Index,
        wanted: &[(&Head, u32)],
    ) -> Result<Option<HashMap<Key, Block>>> {
        let mut found = HashMap::with_capacity(wanted.len());
        let (mut inline, mut apart) = (Vec::new(), Vec::new());
        {
            let kept = self.kept();
            for (head, number) in wanted {
                let key = (head.id, *number);
                match kept.blocks.get(&key) {
                    Some(block) => drop(found.insert(key, Arc::clone(block))),
                    None if head.inline => inline.push(*head),
                    None => apart.push(key),
                }
            }
        }
        let wants: HashSet<Key> = wanted
            .iter()
            .map(|(head, number)| (head.id, *number))
            .collect();
        inline.dedup_by_key(|head| head.id);
        while !inline.is_empty() {
            for (id, blocks) in index.inline(&some(&mut inline)).await? {
                let numbered = (0_u32..).zip(blocks);
                let fresh = numbered.map(|(number, bytes)| ((id, number), bytes));
                self.keep(fresh, &wants, &mut found);
            }
        }
        for keys in apart.chunks(AT_ONCE) {
            let fresh = index.blocks(keys).await?;
            self.keep(fresh, &wants, &mut found);
        }
        let all = wanted
            .iter()
            .all(|(head, number)| found.contains_key(&(head.id, *number)));
        Ok(all.then_some(found))
    }

    /// The directories of segments. Nothing when one is not there any more.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    pub async fn directories(
        &self,
        index: &Index,
        heads: &[&Head],
    ) -> Result<Option<Vec<Arc<Directory>>>> {
        // Another search may drop some meanwhile.
        let mut known: HashMap<_, _> = {
            let kept = self.kept();
            let known = heads.iter().filter_map(|head| {
                let directory = kept.directories.get(&head.id)?;
                Some((head.id, Arc::clone(directory)))
            });
            known.collect()
        };
        let missing: Vec<(&Head, u32)> = heads
            .iter()
            .filter(|head| !known.contains_key(&head.id))
            .map(|head| (*head, 0))
            .collect();
        let Some(blocks) = self.blocks(index, &missing).await? else {
            return Ok(None);
        };
        for (head, number) in missing {
            let directory = Arc::new(Directory::decode(&blocks[&(head.id, number)])?);
            let directories = &mut self.kept().directories;
            directories.insert(head.id, Arc::clone(&directory));
            known.insert(head.id, directory);
        }
        let directories = heads.iter().map(|head| Arc::clone(&known[&head.id]));
        Ok(Some(directories.collect()))
    }

    /// Drops the directories of segments that are over, given all that there are.
    pub fn forget_all_but(&self, heads: &[Head]) {
        let mut kept = self.kept();
        if kept.directories.len() > heads.len() {
            let there: HashSet<Uuid> = heads.iter().map(|head| head.id).collect();
            kept.directories.retain(|id, _| there.contains(id));
        }
    }

    fn keep(
        &self,
        fresh: impl IntoIterator<Item = (Key, Vec<u8>)>,
        wants: &HashSet<Key>,
        found: &mut HashMap<Key, Block>,
    ) {
        let mut kept = self.kept();
        for (key, bytes) in fresh {
            let block = Block::from(bytes);
            if wants.contains(&key) {
                found.insert(key, Arc::clone(&block));
            }
            let size = block.len();
            if kept.blocks.insert(key, block).is_none() {
                kept.order.push_back(key);
                kept.bytes += size;
            }
        }
        while kept.bytes > BYTES_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            let size = kept.blocks.remove(&oldest).map_or(0, |block| block.len());
            kept.bytes -= size;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the ids of segments that are read at once from the end, by their number and their bytes.
fn some(heads: &mut Vec<&Head>) -> Vec<Uuid> {
    let (mut ids, mut bytes) = (Vec::new(), 0);
    while ids.len() < AT_ONCE
        && bytes < BYTES_AT_ONCE
        && let Some(head) = heads.pop()
    {
        ids.push(head.id);
        bytes += head.bytes;
    }
    ids
}
