//! Blocks of segments in memory. They never change, so that what is kept is right for ever.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::mongodb::bson::Uuid;

use super::index::{Head, Index, Key};
use super::segment::Directory;
use crate::Result;

/// Bytes of blocks that are kept; the oldest go first.
const BYTES_MAX: usize = 96 * 1024 * 1024;
/// Blocks asked for at once.
const AT_ONCE: usize = 256;

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
                    None if head.inline => inline.push(head.id),
                    None => apart.push(key),
                }
            }
        }
        inline.dedup();
        for ids in inline.chunks(AT_ONCE) {
            for (id, blocks) in index.inline(ids).await? {
                let numbered = (0_u32..).zip(blocks);
                let fresh = numbered.map(|(number, bytes)| ((id, number), bytes));
                self.keep(fresh, &mut found);
            }
        }
        for keys in apart.chunks(AT_ONCE) {
            let fresh = index.blocks(keys).await?;
            self.keep(fresh, &mut found);
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
        heads: &[Head],
    ) -> Result<Option<Vec<Arc<Directory>>>> {
        let missing: Vec<(&Head, u32)> = {
            let kept = self.kept();
            let unknown = heads
                .iter()
                .filter(|head| !kept.directories.contains_key(&head.id));
            unknown.map(|head| (head, 0)).collect()
        };
        let Some(blocks) = self.blocks(index, &missing).await? else {
            return Ok(None);
        };
        let mut decoded = HashMap::new();
        for (head, number) in missing {
            let directory = Directory::decode(&blocks[&(head.id, number)])?;
            decoded.insert(head.id, Arc::new(directory));
        }
        let mut kept = self.kept();
        let known = heads.iter().map(|head| {
            let fresh = decoded.get(&head.id);
            let directory = fresh.or_else(|| kept.directories.get(&head.id))?;
            Some((head.id, Arc::clone(directory)))
        });
        // Another search may have dropped one that was there a moment ago.
        let Some(known) = known.collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        // Those of segments that are over are dropped.
        kept.directories = known.iter().cloned().collect();
        Ok(Some(
            known.into_iter().map(|(_, directory)| directory).collect(),
        ))
    }

    fn keep(
        &self,
        fresh: impl IntoIterator<Item = (Key, Vec<u8>)>,
        found: &mut HashMap<Key, Block>,
    ) {
        let mut kept = self.kept();
        for (key, bytes) in fresh {
            let block = Block::from(bytes);
            found.insert(key, Arc::clone(&block));
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
