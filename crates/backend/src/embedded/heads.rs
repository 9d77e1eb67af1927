//! The last committed seq of rooms that are in use, so that asking costs no query.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::{RoomId, Seq};

/// Rooms kept at once; past that everything is forgotten and learnt again.
const ROOMS_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct Heads(Mutex<State>);

#[derive(Default)]
struct State {
    rooms: HashMap<RoomId, Seq>,
    /// Counts the times that entries were dropped: what was read before such a time may be stale.
    epoch: u64,
}

/// When a look was taken; see [`Heads::learn`].
#[derive(Clone, Copy)]
pub(super) struct Epoch(u64);

impl Heads {
    /// The head, or the moment from which on a head read from the database may be learnt.
    pub fn get(&self, room: &RoomId) -> Result<Seq, Epoch> {
        let state = self.lock();
        state.rooms.get(room).copied().ok_or(Epoch(state.epoch))
    }

    /// Keeps what was read from the database, unless the writer knows better or might have known.
    pub fn learn(&self, room: &RoomId, head: Seq, since: Epoch) {
        let mut state = self.lock();
        if state.epoch == since.0 {
            state.make_place();
            state.rooms.entry(room.clone()).or_insert(head);
        }
    }

    /// The writer committed these.
    pub fn put(&self, heads: impl IntoIterator<Item = (RoomId, Seq)>) {
        let mut state = self.lock();
        for (room, head) in heads {
            state.make_place();
            state.rooms.insert(room, head);
        }
    }

    /// Nothing is known any more.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn make_place(&mut self) {
        if self.rooms.len() >= ROOMS_MAX {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.rooms.clear();
        self.epoch += 1;
    }
}
