//! Rooms and memberships in memory, always exact: the writer puts every change here before it answers.
//!
//! A reader that fills a gap takes a ticket first. A change of the same room makes the ticket worthless, so that an
//! older state read from the database never covers a newer one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::{RoomId, UserId};

use crate::directory::{Member, Room};

const SHARDS: usize = 16;
/// Rooms and members of one shard; past that the shard starts anew.
const ENTRIES_MAX: usize = 20_000;

pub(super) struct Cache {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    rooms: HashMap<RoomId, Entry>,
    entries: usize,
    last_version: u64,
}

#[derive(Default)]
struct Entry {
    room: Option<Option<Room>>,
    members: HashMap<UserId, Option<Member>>,
    version: u64,
}

/// The state of a room's entry at which a look into the database began.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

/// What a committed change did.
#[derive(Clone, Debug)]
pub(super) enum Touched {
    Room(Room),
    Member(RoomId, UserId, Option<Member>),
    /// The room was deleted, and with it its members.
    Gone(RoomId),
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }
}

impl Cache {
    pub fn room(&self, id: &RoomId) -> Result<Option<Room>, Ticket> {
        let mut shard = self.shard(id);
        let entry = shard.entry(id);
        entry.room.clone().ok_or(Ticket(entry.version))
    }

    pub fn member(&self, id: &RoomId, user: &UserId) -> Result<Option<Member>, Ticket> {
        let mut shard = self.shard(id);
        let entry = shard.entry(id);
        entry
            .members
            .get(user)
            .cloned()
            .ok_or(Ticket(entry.version))
    }

    /// Keeps a room read from the database.
    pub fn learn_room(&self, id: &RoomId, room: Option<Room>, ticket: Ticket) {
        let mut shard = self.shard(id);
        if let Some(entry) = shard.rooms.get_mut(id)
            && entry.version == ticket.0
        {
            entry.room = Some(room);
        }
    }

    /// Keeps a membership, or the lack of one, read from the database.
    pub fn learn_member(&self, id: &RoomId, user: &UserId, member: Option<Member>, ticket: Ticket) {
        let mut shard = self.shard(id);
        if let Some(entry) = shard.rooms.get_mut(id)
            && entry.version == ticket.0
            && entry.members.insert(user.clone(), member).is_none()
        {
            shard.entries += 1;
        }
    }

    /// Puts committed changes in, where their room is known.
    pub fn apply(&self, touched: &[Touched]) {
        for touched in touched {
            let id = match touched {
                Touched::Room(room) => &room.id,
                Touched::Member(id, ..) | Touched::Gone(id) => id,
            };
            let mut shard = self.shard(id);
            shard.last_version += 1;
            let version = shard.last_version;
            let Some(entry) = shard.rooms.get_mut(id) else {
                continue;
            };
            entry.version = version;
            match touched {
                Touched::Room(room) => entry.room = Some(Some(room.clone())),
                Touched::Member(_, user, member) => {
                    if entry.members.insert(user.clone(), member.clone()).is_none() {
                        shard.entries += 1;
                    }
                }
                Touched::Gone(_) => {
                    entry.room = Some(None);
                    entry.members.clear();
                }
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            lock(shard).clear();
        }
    }

    fn shard(&self, id: &RoomId) -> MutexGuard<'_, Shard> {
        let hash = usize::try_from(self.hasher.hash_one(id) % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[hash])
    }
}

impl Shard {
    /// The room's entry, made if there is none.
    fn entry(&mut self, id: &RoomId) -> &mut Entry {
        if self.entries >= ENTRIES_MAX {
            self.clear();
        }
        if !self.rooms.contains_key(id) {
            self.entries += 1;
            self.last_version += 1;
        }
        let version = self.last_version;
        self.rooms.entry(id.clone()).or_insert_with(|| Entry {
            version,
            ..Entry::default()
        })
    }

    fn clear(&mut self) {
        self.rooms.clear();
        self.entries = 0;
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
