//! Puts events in the order of their chain before anybody in this process sees them.
//!
//! Events come from this process's own publishes, from other pods and from reading the log, early, late, twice or not
//! at all. For every watched room the sequencer knows the last event it handed out, keeps what came too early and reads
//! what is missing. It also answers senders: when everything up to their event is safe.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use protocol::{Event, RoomId};
use tokio::sync::{Notify, Semaphore};

use super::log::{Core, RANGE, Request, Tail};
use super::relay::{ClusterRelay, Upstream};
use crate::log::Appended;

const SHARDS: usize = 16;
/// Events of a room that wait for one before them; more are read again.
const EARLY_MAX: usize = 1000;
/// Events read at once for a room with a hole.
const PAGE: usize = 200;
/// Rooms looked at in the log at the same time.
const LOOKS_MAX: usize = 32;
/// The first pause before looking again, and the longest. What is missing is mostly a few milliseconds away.
const PAUSE_MIN: Duration = Duration::from_millis(8);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Looks in vain after which a room is left to the next sweep.
const LOOKS_IN_VAIN_MAX: u32 = 40;
/// All watched rooms are compared with the log this often: the last event of a room could have got lost.
pub const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// The same while other pods cannot be heard.
pub const SWEEP_EVERY_DEAF: Duration = Duration::from_secs(1);
/// After a sweep nobody gets another for so long.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(200);

/// A sender who waits for an event.
pub struct Waiter {
    pub request: Request,
    pub appended: Appended,
}

#[derive(Default)]
struct Room {
    watched: bool,
    /// The last event that was handed out, once it is known where to begin.
    position: Option<u64>,
    /// Events that wait for one before them, by seq.
    early: BTreeMap<u64, Arc<Event>>,
    /// Senders by the seq of their event.
    waiters: BTreeMap<u64, Vec<Waiter>>,
    /// Whoever waits up to here waits for others: their own event is with the broker, or in another's hands.
    due: u64,
    /// Events up to this one are known to exist.
    target: u64,
    /// A task looks at the log for this room.
    looking: bool,
}

impl Room {
    fn is_idle(&self) -> bool {
        !self.watched && self.waiters.is_empty() && !self.looking
    }

    /// Whether something is missing that the log may have.
    fn wants_a_look(&self) -> bool {
        let is_behind = self.watched
            && (self.position.is_none()
                || !self.early.is_empty()
                || self.position.is_some_and(|position| position < self.target));
        is_behind
            || self
                .waiters
                .keys()
                .next()
                .is_some_and(|first| *first <= self.due)
    }

    fn keep_early(&mut self, event: Arc<Event>) {
        let seq = event.seq.get();
        self.target = self.target.max(seq);
        if self.position.is_none_or(|position| seq > position) {
            self.early.insert(seq, event);
            if self.early.len() > EARLY_MAX {
                self.early.pop_last();
            }
        }
    }

    /// What can be handed out now, in order.
    fn take_ready(&mut self) -> Vec<Arc<Event>> {
        let mut ready = Vec::new();
        let Some(mut position) = self.position else {
            return ready;
        };
        while let Some(first) = self.early.first_entry() {
            let seq = *first.key();
            if seq > position && first.get().prev.is_none_or(|prev| prev.get() != position) {
                break;
            }
            let event = first.remove();
            if seq > position {
                position = seq;
                ready.push(event);
            }
        }
        self.position = Some(position);
        ready
    }

    /// Senders whose events are safe.
    fn take_answered(&mut self, safe: u64) -> Vec<Waiter> {
        // What waits from an earlier generation is in doubt, whatever is safe now.
        let mut answered = self.waiters.split_off(&(safe / RANGE * RANGE));
        self.waiters.append(&mut answered.split_off(&(safe + 1)));
        answered.into_values().flatten().collect()
    }
}

/// See the module.
pub struct Sequencer {
    hasher: RandomState,
    rooms: [Mutex<HashMap<RoomId, Room>>; SHARDS],
    looks: Arc<Semaphore>,
    sweep_asked: Notify,
    core: OnceLock<Weak<Core>>,
    relay: OnceLock<ClusterRelay>,
}

impl Sequencer {
    #[must_use]
    pub fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            rooms: std::array::from_fn(|_| Mutex::default()),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            sweep_asked: Notify::new(),
            core: OnceLock::new(),
            relay: OnceLock::new(),
        }
    }

    /// Tells it where the log and the relay are, once.
    pub fn connect(&self, core: Weak<Core>, relay: ClusterRelay) {
        let _ = self.core.set(core);
        let _ = self.relay.set(relay);
    }

    fn shard(&self, room: &RoomId) -> MutexGuard<'_, HashMap<RoomId, Room>> {
        let index = self.hasher.hash_one(room) as usize % SHARDS;
        self.rooms[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A sender waits until everything up to an event is safe.
    pub fn wait(self: &Arc<Self>, room: &RoomId, waiter: Waiter) {
        let seq = waiter.appended.event.seq.get();
        let is_repeat = waiter.appended.duplicate;
        let mut rooms = self.shard(room);
        let entry = rooms.entry(room.clone()).or_default();
        entry.waiters.entry(seq).or_default().push(waiter);
        if is_repeat {
            // Its publisher is another one, or gone.
            entry.due = entry.due.max(seq);
            self.look(room, entry);
        }
    }

    /// Somebody is about to be told that a room has events up to a seq. Answers the last one that was handed out here; if
    /// it is not as far, the others are looked for.
    pub fn told(self: &Arc<Self>, room: &RoomId, head: u64) -> u64 {
        let mut rooms = self.shard(room);
        let Some(entry) = rooms.get_mut(room).filter(|room| room.watched) else {
            return 0;
        };
        entry.target = entry.target.max(head);
        let position = entry.position.unwrap_or_default();
        self.after(room, &mut rooms);
        position
    }

    /// Whether no sender waits.
    pub fn nobody_waits(&self) -> bool {
        self.rooms.iter().all(|shard| {
            let rooms = shard.lock().unwrap_or_else(PoisonError::into_inner);
            rooms.values().all(|room| room.waiters.is_empty())
        })
    }

    /// The broker has events up to a seq, and Redis could not be told.
    pub fn untold(self: &Arc<Self>, room: &RoomId, upto: u64) {
        let mut rooms = self.shard(room);
        if let Some(entry) = rooms.get_mut(room) {
            entry.due = entry.due.max(upto);
        }
        self.after(room, &mut rooms);
    }

    /// Events whose publish failed: their senders, who do not know their fate.
    pub fn take_waiters(&self, events: &[Arc<Event>]) -> Vec<Waiter> {
        let mut taken = Vec::new();
        for event in events {
            let mut rooms = self.shard(&event.room);
            if let Some(room) = rooms.get_mut(&event.room) {
                taken.extend(room.waiters.remove(&event.seq.get()).into_iter().flatten());
                if room.is_idle() {
                    rooms.remove(&event.room);
                }
            }
        }
        taken
    }

    /// The broker has events of one room, and Redis was told. `safe` is the last safe one.
    pub fn confirmed(self: &Arc<Self>, room: &RoomId, events: &[Arc<Event>], safe: u64) {
        let mut rooms = self.shard(room);
        let Some(entry) = rooms.get_mut(room) else {
            return;
        };
        let answered = entry.take_answered(safe);
        if let Some(last) = events.last() {
            entry.due = entry.due.max(last.seq.get());
        }
        if entry.watched {
            for event in events {
                entry.keep_early(Arc::clone(event));
            }
            self.hand_out(entry);
        }
        self.after(room, &mut rooms);
        drop(rooms);
        answer(answered);
    }

    /// Hands out what is in order. Under the lock, so that nothing overtakes.
    fn hand_out(&self, room: &mut Room) {
        let ready = room.take_ready();
        if ready.is_empty() {
            return;
        }
        if let Some(core) = self.core.get().and_then(Weak::upgrade) {
            core.passed(&ready);
        }
        if let Some(relay) = self.relay.get() {
            relay.deliver(&ready);
        }
    }

    fn after(self: &Arc<Self>, room: &RoomId, rooms: &mut HashMap<RoomId, Room>) {
        let Some(entry) = rooms.get_mut(room) else {
            return;
        };
        if entry.wants_a_look() {
            self.look(room, entry);
        } else if entry.is_idle() {
            rooms.remove(room);
        }
    }

    /// Starts a task that looks at the log until nothing is missing, unless there is one.
    fn look(self: &Arc<Self>, room: &RoomId, entry: &mut Room) {
        if !entry.looking {
            entry.looking = true;
            tokio::spawn(Arc::clone(self).looking(room.clone()));
        }
    }

    async fn looking(self: Arc<Self>, room: RoomId) {
        let mut pause = PAUSE_MIN;
        let mut in_vain = 0;
        loop {
            let fresh = {
                let mut rooms = self.shard(&room);
                let Some(entry) = rooms.get_mut(&room) else {
                    return;
                };
                // Senders who gave up no longer wait.
                entry.waiters.retain(|_, waiters| {
                    waiters.retain(|waiter| !waiter.request.is_given_up());
                    !waiters.is_empty()
                });
                if !entry.wants_a_look() || in_vain > LOOKS_IN_VAIN_MAX {
                    entry.looking = false;
                    if entry.is_idle() {
                        rooms.remove(&room);
                    }
                    return;
                }
                entry.watched && entry.position.is_none()
            };
            if !fresh || in_vain > 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            let moved = self.look_once(&room).await;
            if moved {
                (pause, in_vain) = (PAUSE_MIN, 0);
            } else {
                in_vain += 1;
            }
        }
    }

    /// Reads what is missing; says whether there was anything.
    async fn look_once(self: &Arc<Self>, room: &RoomId) -> bool {
        let Some(core) = self.core.get().and_then(Weak::upgrade) else {
            return false;
        };
        let Ok(_permit) = self.looks.acquire().await else {
            return false;
        };
        let (watched, position) = {
            let rooms = self.shard(room);
            let Some(entry) = rooms.get(room) else {
                return false;
            };
            (entry.watched, entry.position)
        };
        let limit = if watched { PAGE } else { 0 };
        let looked = match position {
            _ if limit == 0 => core.tail(room).await.map(|tail| (tail, Vec::new())),
            Some(position) => core.after(room, position, limit).await,
            None => core.last(room).await,
        };
        let (tail, events) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                tracing::debug!(%error, room.id = %room, "a look at the log failed");
                return false;
            }
        };
        self.seen(room, &tail, position, &events)
    }

    fn seen(
        self: &Arc<Self>,
        room: &RoomId,
        tail: &Tail,
        from: Option<u64>,
        events: &[Arc<Event>],
    ) -> bool {
        let mut rooms = self.shard(room);
        let Some(entry) = rooms.get_mut(room) else {
            return false;
        };
        let answered = entry.take_answered(tail.safe);
        let mut moved = !answered.is_empty();
        if entry.watched {
            entry.target = entry.target.max(tail.seq);
            match (entry.position, from) {
                (None, None) => {
                    moved = true;
                    // The last one is shown so that those who are behind notice.
                    let head = events.last().map_or(tail.head, |event| event.seq.get());
                    entry.position = Some(events.first().map_or(head, |first| {
                        first.prev.map_or(first.seq.get() - 1, protocol::Seq::get)
                    }));
                    for event in events {
                        entry.keep_early(Arc::clone(event));
                    }
                }
                (Some(position), Some(from)) if position >= from => {
                    moved |= events.last().is_some_and(|last| last.seq.get() > position);
                    // A page is in order by itself: a fence in it has nothing missing before it.
                    let ready: Vec<_> = events
                        .iter()
                        .filter(|event| event.seq.get() > position)
                        .cloned()
                        .collect();
                    if let Some(last) = ready.last() {
                        entry.position = Some(last.seq.get());
                        if let Some(core) = self.core.get().and_then(Weak::upgrade) {
                            core.passed(&ready);
                        }
                        if let Some(relay) = self.relay.get() {
                            relay.deliver(&ready);
                        }
                    }
                }
                _ => {}
            }
            self.hand_out(entry);
        }
        drop(rooms);
        answer(answered);
        moved
    }

    /// Waits until somebody says that events may have got lost on the way.
    pub async fn asked_to_sweep(&self) {
        self.sweep_asked.notified().await;
    }

    /// Compares watched rooms with the log. `false` when that could not be done.
    pub async fn sweep(self: &Arc<Self>) -> bool {
        let mut watched = Vec::new();
        for shard in &self.rooms {
            let rooms = shard.lock().unwrap_or_else(PoisonError::into_inner);
            watched.extend(
                rooms
                    .iter()
                    .filter(|(_, room)| room.watched)
                    .map(|(id, _)| id.clone()),
            );
        }
        let Some(core) = self.core.get().and_then(Weak::upgrade) else {
            return false;
        };
        for rooms in watched.chunks(PAGE) {
            let Ok(lasts) = core.lasts(rooms).await else {
                return false;
            };
            for (room, last) in rooms.iter().zip(lasts) {
                let mut shard = self.shard(room);
                if let Some(entry) = shard.get_mut(room) {
                    entry.target = entry.target.max(last);
                }
                self.after(room, &mut shard);
            }
        }
        true
    }
}

impl Default for Sequencer {
    fn default() -> Self {
        Self::new()
    }
}

fn answer(waiters: Vec<Waiter>) {
    for Waiter { request, appended } in waiters {
        request.answer(Ok(appended));
    }
}

/// What the relay tells.
pub struct Hearing(pub Arc<Sequencer>);

impl Upstream for Hearing {
    fn remote(&self, events: Vec<Arc<Event>>) {
        for run in events.chunk_by(|a, b| a.room == b.room) {
            let room = &run[0].room;
            let mut rooms = self.0.shard(room);
            let Some(entry) = rooms.get_mut(room) else {
                continue;
            };
            if entry.watched {
                for event in run {
                    entry.keep_early(Arc::clone(event));
                }
                self.0.hand_out(entry);
            }
            self.0.after(room, &mut rooms);
        }
    }

    fn watched(&self, room: &RoomId) {
        let mut rooms = self.0.shard(room);
        let entry = rooms.entry(room.clone()).or_default();
        if entry.watched {
            // The place on the route was lost for a while: what was sent meanwhile came to nobody.
            self.0.sweep_asked.notify_one();
        }
        entry.watched = true;
        self.0.after(room, &mut rooms);
    }

    fn unwatched(&self, room: &RoomId) {
        let mut rooms = self.0.shard(room);
        if let Some(entry) = rooms.get_mut(room) {
            entry.watched = false;
            entry.position = None;
            entry.target = 0;
            entry.early.clear();
        }
        self.0.after(room, &mut rooms);
    }

    fn lost(&self) {
        self.0.sweep_asked.notify_one();
    }
}
