//! What the worker threads of this process share: which of them has which room, the recent events of those rooms, and
//! pages of older ones that several readers want at once.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use backend::relay::{Signal, Sink};
use backend::{Backends, Result};
use bytes::{Bytes, BytesMut};
use protocol::{Event, RoomId, Seq};
use tokio::sync::OnceCell;

use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::ring::{Batch, Piece, Ring, changes_readers};
use crate::websocket;

const SHARDS: usize = 16;
/// Events read from the log at once for readers who catch up.
const PAGE_EVENTS: usize = 200;
/// Bytes of pages kept, and how many they are at most.
const PAGES_BYTES_MAX: usize = 16 * 1024 * 1024;
const PAGES_MAX: usize = 4096;

/// Bytes of recent events kept for all rooms together. Beyond that a shard of rooms is read from the log again.
const RINGS_BYTES_MAX: usize = 64 * 1024 * 1024;

struct PodRoom {
    /// How many subscriptions of each worker want the room's events.
    workers: Vec<usize>,
    ring: Ring,
}

/// What follows a position in a room's log, and whether the log went no further.
type Page = Arc<OnceCell<(Piece, bool)>>;

/// Pages that readers asked for, or will.
#[derive(Default)]
struct Pages {
    by_position: HashMap<(RoomId, u64), Page>,
    bytes: usize,
}

impl Pages {
    /// Makes room for so many bytes more. A log never changes, so any page may be forgotten and none can be wrong.
    fn make_room(&mut self, bytes: usize) {
        if self.bytes + bytes > PAGES_BYTES_MAX || self.by_position.len() >= PAGES_MAX {
            *self = Self::default();
        }
        self.bytes += bytes;
    }
}

/// The shared part of a process's hubs.
pub struct Pod {
    backends: Backends,
    metrics: Arc<Metrics>,
    mailboxes: Vec<Arc<Mailbox>>,
    hasher: RandomState,
    rooms: [Mutex<HashMap<RoomId, PodRoom>>; SHARDS],
    pages: Mutex<Pages>,
    rings_bytes: AtomicUsize,
}

impl Pod {
    /// A pod with one mailbox per worker thread.
    pub fn new(backends: Backends, workers: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            backends,
            metrics,
            mailboxes: (0..workers).map(|_| Arc::default()).collect(),
            hasher: RandomState::new(),
            rooms: std::array::from_fn(|_| Mutex::default()),
            pages: Mutex::default(),
            rings_bytes: AtomicUsize::new(0),
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
        let entry = rooms.entry(room.clone()).or_insert_with(|| {
            self.backends.relay.watch(room);
            PodRoom {
                workers: vec![0; self.mailboxes.len()],
                ring: Ring::default(),
            }
        });
        entry.workers[worker] += 1;
    }

    /// One subscription less on this worker. The last one takes the ring with it.
    pub fn unwatch(&self, worker: usize, room: &RoomId) {
        let mut rooms = self.shard(room);
        if let Some(entry) = rooms.get_mut(room) {
            entry.workers[worker] = entry.workers[worker].saturating_sub(1);
            if entry.workers.iter().all(|&count| count == 0)
                && let Some(gone) = rooms.remove(room)
            {
                let bytes = gone.ring.len_bytes();
                self.rings_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.backends.relay.unwatch(room);
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
    /// piece says that the log had nothing more when it was read.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn page(&self, room: &RoomId, position: u64, limit: usize) -> Result<Piece> {
        if let Some(piece) = self.recent(room, position, limit)
            && piece.frames > 0
        {
            return Ok(piece);
        }
        let key = (room.clone(), position);
        let page = {
            let mut pages = lock(&self.pages);
            if !pages.by_position.contains_key(&key) {
                pages.make_room(0);
            }
            Arc::clone(pages.by_position.entry(key.clone()).or_default())
        };
        let (piece, is_end) = page
            .get_or_try_init(|| self.read(room, position, limit))
            .await?
            .clone();
        if is_end {
            // The next reader must look again.
            let mut pages = lock(&self.pages);
            let kept = pages.by_position.get(&key);
            if kept.is_some_and(|kept| Arc::ptr_eq(kept, &page)) {
                pages.by_position.remove(&key);
                pages.bytes = pages.bytes.saturating_sub(piece.bytes.len());
            }
        }
        Ok(piece)
    }

    /// Reads a page from the log and cuts it into pieces of `limit` bytes: events may be large, and a reader who does
    /// not read holds on to one piece. The first is the answer, the others are kept for when they are asked for.
    async fn read(&self, room: &RoomId, position: u64, limit: usize) -> Result<(Piece, bool)> {
        let after = Seq::new(position).unwrap_or(Seq::MAX);
        let page = self.backends.log.read(room, after, PAGE_EVENTS).await?;
        let first = page.events.first().and_then(|event| event.prev);
        if first.is_some_and(|prev| prev.get() > position) {
            tracing::error!(room.id = %room, position, "a page of the log begins after a gap");
            self.metrics.resume_gaps.inc();
        }
        let mut pieces = cut(&page.events, position, limit).into_iter();
        let is_end = page.events.len() < PAGE_EVENTS;
        let first = pieces.next().unwrap_or(Piece {
            bytes: Bytes::new(),
            frames: 0,
            to: position,
        });
        let mut pages = lock(&self.pages);
        pages.make_room(first.bytes.len());
        let mut from = first.to;
        let is_only = pieces.len() == 0;
        while let Some(piece) = pieces.next() {
            // After the last one the next reader must look again.
            if is_end && pieces.len() == 0 {
                break;
            }
            let (to, key) = (piece.to, (room.clone(), from));
            pages.make_room(piece.bytes.len());
            let page = Arc::new(OnceCell::new_with(Some((piece, false))));
            pages.by_position.insert(key, page);
            from = to;
        }
        Ok((first, is_end && is_only))
    }

    /// Forgets the pages of a room that was deleted.
    fn forget(&self, room: &RoomId) {
        let mut pages = lock(&self.pages);
        pages.by_position.retain(|(kept, _), _| kept != room);
    }

    fn post(&self, room: &RoomId, events: &[Arc<Event>]) {
        let mut rooms = self.shard(room);
        let Some(entry) = rooms.get_mut(room) else {
            return;
        };
        // A reader who loses the right to read must not see what follows: each such event ends a batch.
        for group in events.split_inclusive(|event| changes_readers(event)) {
            let batch = Arc::new(Batch::encode(group));
            let before = entry.ring.len_bytes();
            entry.ring.push(&batch);
            self.rings_bytes
                .fetch_add(entry.ring.len_bytes(), Ordering::Relaxed);
            self.rings_bytes.fetch_sub(before, Ordering::Relaxed);
            for (mailbox, &count) in self.mailboxes.iter().zip(&entry.workers) {
                if count > 0 {
                    mailbox.post(room, &batch);
                }
            }
        }
        if self.rings_bytes.load(Ordering::Relaxed) > RINGS_BYTES_MAX {
            for entry in rooms.values_mut() {
                let bytes = entry.ring.len_bytes();
                self.rings_bytes.fetch_sub(bytes, Ordering::Relaxed);
                entry.ring.shed();
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

/// Encodes events in pieces of `limit` bytes, of one event at least.
fn cut(events: &[Arc<Event>], position: u64, limit: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut buffer = BytesMut::with_capacity(events.len() * 256);
    let (mut frames, mut to) = (0, position);
    for event in events {
        let json = protocol::encode_event(event);
        if frames > 0 && buffer.len() + json.len() > limit {
            // A copy, because pieces must not keep each other in memory.
            let bytes = Bytes::copy_from_slice(&buffer);
            pieces.push(Piece { bytes, frames, to });
            buffer.clear();
            frames = 0;
        }
        websocket::put_text(&mut buffer, &json);
        frames += 1;
        to = event.seq.get();
    }
    if frames > 0 {
        let bytes = Bytes::copy_from_slice(&buffer);
        pieces.push(Piece { bytes, frames, to });
    }
    pieces
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are left consistent by every statement; a panic elsewhere does not spoil them.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
