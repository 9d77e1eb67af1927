//! What the worker threads of this process share: which of them has which room, the recent events of those rooms, and
//! pages of older ones that several readers want at once.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};

use backend::relay::{Signal, Sink};
use backend::{Backends, Result};
use bytes::BytesMut;
use protocol::{Event, RoomId, Seq};
use tokio::sync::OnceCell;

use crate::mailbox::Mailbox;
use crate::ring::{Batch, Piece, Ring, changes_readers};
use crate::websocket;

const SHARDS: usize = 16;
/// Events read from the log at once for readers who catch up.
const PAGE_EVENTS: usize = 200;
/// Pages kept: at 200 events of 300 bytes, about 15 MB.
const PAGES_MAX: usize = 256;

struct PodRoom {
    /// How many subscriptions of each worker want the room's events.
    workers: Vec<usize>,
    ring: Ring,
}

type Page = Arc<OnceCell<Piece>>;

/// The shared part of a process's hubs.
pub struct Pod {
    backends: Backends,
    mailboxes: Vec<Arc<Mailbox>>,
    hasher: RandomState,
    rooms: [Mutex<HashMap<RoomId, PodRoom>>; SHARDS],
    pages: Mutex<HashMap<(RoomId, u64), Page>>,
}

impl Pod {
    /// A pod with one mailbox per worker thread.
    pub fn new(backends: Backends, workers: usize) -> Self {
        Self {
            backends,
            mailboxes: (0..workers).map(|_| Arc::default()).collect(),
            hasher: RandomState::new(),
            rooms: std::array::from_fn(|_| Mutex::default()),
            pages: Mutex::default(),
        }
    }

    /// The mailbox of one worker.
    pub fn mailbox(&self, worker: usize) -> Arc<Mailbox> {
        Arc::clone(&self.mailboxes[worker])
    }

    /// All mailboxes.
    pub fn mailboxes(&self) -> &[Arc<Mailbox>] {
        &self.mailboxes
    }

    fn shard(&self, room: &RoomId) -> MutexGuard<'_, HashMap<RoomId, PodRoom>> {
        let index = self.hasher.hash_one(room) as usize % SHARDS;
        lock(&self.rooms[index])
    }

    /// From now on the worker's mailbox gets the room's events.
    pub fn watch(&self, worker: usize, room: &RoomId) {
        let mut rooms = self.shard(room);
        let entry = rooms.entry(room.clone()).or_insert_with(|| PodRoom {
            workers: vec![0; self.mailboxes.len()],
            ring: Ring::default(),
        });
        entry.workers[worker] += 1;
    }

    /// One subscription less on this worker. The last one takes the ring with it.
    pub fn unwatch(&self, worker: usize, room: &RoomId) {
        let mut rooms = self.shard(room);
        if let Some(entry) = rooms.get_mut(room) {
            entry.workers[worker] = entry.workers[worker].saturating_sub(1);
            if entry.workers.iter().all(|&count| count == 0) {
                rooms.remove(room);
            }
        }
    }

    /// The last seq of a watched room that this process knows of.
    pub fn known_head(&self, room: &RoomId) -> Option<u64> {
        let head = self.shard(room).get(room)?.ring.head();
        (head > 0).then_some(head)
    }

    /// What follows `position`, if the ring has it.
    pub fn recent(&self, room: &RoomId, position: u64, limit: usize) -> Option<Piece> {
        self.shard(room).get_mut(room)?.ring.read(position, limit)
    }

    /// What follows `position`, from the ring or the log. Readers who want the same page wait for one read. An empty
    /// piece says that there was nothing more when it was read.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn page(&self, room: &RoomId, position: u64, limit: usize) -> Result<Piece> {
        if let Some(piece) = self.recent(room, position, limit) {
            return Ok(piece);
        }
        let key = (room.clone(), position);
        let page = {
            let mut pages = lock(&self.pages);
            if pages.len() >= PAGES_MAX && !pages.contains_key(&key) {
                // A log never changes, so any page may be forgotten and none can be wrong.
                pages.clear();
            }
            Arc::clone(pages.entry(key.clone()).or_default())
        };
        let piece = page
            .get_or_try_init(|| self.read(room, position))
            .await?
            .clone();
        if piece.frames < PAGE_EVENTS as u32 {
            // The end of the log: the next reader must look again.
            let mut pages = lock(&self.pages);
            if pages.get(&key).is_some_and(|kept| Arc::ptr_eq(kept, &page)) {
                pages.remove(&key);
            }
        }
        Ok(piece)
    }

    async fn read(&self, room: &RoomId, position: u64) -> Result<Piece> {
        let after = Seq::new(position).unwrap_or(Seq::MAX);
        let page = self.backends.log.read(room, after, PAGE_EVENTS).await?;
        let mut buffer = BytesMut::with_capacity(page.events.len() * 256);
        for event in &page.events {
            websocket::put_text(&mut buffer, &protocol::encode_event(event));
        }
        Ok(Piece {
            bytes: buffer.freeze(),
            frames: page.events.len() as u32,
            to: page.events.last().map_or(position, |event| event.seq.get()),
        })
    }

    /// Forgets the pages of a room that was deleted.
    fn forget(&self, room: &RoomId) {
        lock(&self.pages).retain(|(kept, _), _| kept != room);
    }

    fn post(&self, room: &RoomId, events: &[Arc<Event>]) {
        let mut rooms = self.shard(room);
        let Some(entry) = rooms.get_mut(room) else {
            return;
        };
        // A reader who loses the right to read must not see what follows: each such event ends a batch.
        for group in events.split_inclusive(|event| changes_readers(event)) {
            let batch = Arc::new(Batch::encode(group));
            entry.ring.push(&batch);
            for (mailbox, &count) in self.mailboxes.iter().zip(&entry.workers) {
                if count > 0 {
                    mailbox.post(room, &batch);
                }
            }
        }
    }
}

impl Sink for Pod {
    fn events(&self, events: &[Arc<Event>]) {
        let mut by_room: HashMap<&RoomId, Vec<Arc<Event>>> = HashMap::new();
        let one_room = events.windows(2).all(|pair| pair[0].room == pair[1].room);
        if let (true, Some(first)) = (one_room, events.first()) {
            self.post(&first.room, events);
        } else {
            for event in events {
                by_room
                    .entry(&event.room)
                    .or_default()
                    .push(Arc::clone(event));
            }
            for (room, events) in by_room {
                self.post(room, &events);
            }
        }
        for event in events {
            if changes_readers(event)
                && let protocol::EventBody::Room { .. } = event.body
            {
                self.forget(&event.room);
            }
        }
    }

    fn signal(&self, signal: &Signal) {
        let room = match signal {
            Signal::Typing { room, .. }
            | Signal::Receipt { room, .. }
            | Signal::Presence { room, .. } => room,
            Signal::Notice { .. } => {
                // Only the hubs know where a user's sessions are.
                for mailbox in &self.mailboxes {
                    mailbox.post_signal(signal);
                }
                return;
            }
        };
        let rooms = self.shard(room);
        if let Some(entry) = rooms.get(room) {
            for (mailbox, &count) in self.mailboxes.iter().zip(&entry.workers) {
                if count > 0 {
                    mailbox.post_signal(signal);
                }
            }
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are left consistent by every statement; a panic elsewhere does not spoil them.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
