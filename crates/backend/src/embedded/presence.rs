//! Presence of one process, in memory.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use protocol::{RoomId, SessionId, Status, Timestamp, UserId};

use super::Shared;
use crate::presence::{Present, UserStatus};
use crate::relay::Signal;
use crate::{Error, Presence, Relay, Result};

/// Users whose last time online is remembered.
const LAST_SEEN_MAX: usize = 100_000;
/// Who leaves a room stays visible in at most so many others without a change.
const ELSEWHERE_MAX: usize = 50;

pub(super) struct InMemory {
    state: Mutex<State>,
    relay: Arc<dyn Relay>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<SessionId, Session>,
    users: HashMap<UserId, User>,
    /// For each room the users that show there, and by how many sessions.
    rooms: HashMap<RoomId, BTreeMap<UserId, usize>>,
    last_seen: LastSeen,
}

struct Session {
    user: UserId,
    rooms: HashSet<RoomId>,
    idle: bool,
}

#[derive(Default)]
struct User {
    sessions: HashSet<SessionId>,
    idle: usize,
}

impl InMemory {
    pub fn new(relay: Arc<dyn Relay>, shared: Arc<Shared>) -> Self {
        Self {
            state: Mutex::default(),
            relay,
            shared,
        }
    }

    fn state(&self) -> Result<MutexGuard<'_, State>> {
        self.shared.check_open()?;
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Signals go out under the lock, so that each room hears of changes in their order.
    fn tell(&self, signals: impl IntoIterator<Item = Signal>) {
        for signal in signals {
            self.relay.signal(signal);
        }
    }
}

#[async_trait]
impl Presence for InMemory {
    async fn connect(&self, session: SessionId, user: &UserId, most: usize) -> Result<()> {
        let mut state = self.state()?;
        if state.sessions.contains_key(&session) {
            return Ok(());
        }
        let open = state.users.get(user).map_or(0, |user| user.sessions.len());
        if open >= most {
            return Err(Error::Refused(format!(
                "user {user} has {open} sessions already"
            )));
        }
        let before = state.status(user);
        state.sessions.insert(
            session,
            Session {
                user: user.clone(),
                rooms: HashSet::new(),
                idle: false,
            },
        );
        let known = state.users.entry(user.clone()).or_default();
        known.sessions.insert(session);
        state.last_seen.remove(user);
        let signals = state.changed(user, before);
        self.tell(signals);
        Ok(())
    }

    async fn disconnect(&self, session: SessionId) -> Result<()> {
        let mut state = self.state()?;
        let Some(Session { user, rooms, idle }) = state.sessions.remove(&session) else {
            return Ok(());
        };
        let before = state.status(&user);
        let now = Timestamp::now();
        let mut signals: Vec<_> = rooms
            .iter()
            .filter_map(|room| state.leave(room, &user, now))
            .collect();
        if let Some(known) = state.users.get_mut(&user) {
            known.sessions.remove(&session);
            known.idle -= usize::from(idle);
            if known.sessions.is_empty() {
                state.users.remove(&user);
                state.last_seen.insert(user.clone(), now);
            }
        }
        signals.extend(state.changed(&user, before));
        self.tell(signals);
        Ok(())
    }

    async fn enter(&self, session: SessionId, room: &RoomId) -> Result<()> {
        let mut state = self.state()?;
        let Some(known) = state.sessions.get_mut(&session) else {
            return Err(Error::NotFound(format!("session {session}")));
        };
        let user = known.user.clone();
        if !known.rooms.insert(room.clone()) {
            return Ok(());
        }
        let there = state.rooms.entry(room.clone()).or_default();
        let sessions = there.entry(user.clone()).or_default();
        *sessions += 1;
        if *sessions == 1 {
            let status = state.status(&user);
            self.tell([signal(room, &user, status, None)]);
        }
        Ok(())
    }

    async fn leave(&self, session: SessionId, room: &RoomId) -> Result<()> {
        let mut state = self.state()?;
        let Some(known) = state.sessions.get_mut(&session) else {
            return Ok(());
        };
        let user = known.user.clone();
        if known.rooms.remove(room)
            && let Some(signal) = state.leave(room, &user, Timestamp::now())
        {
            // A signal to a client does not name the room: who shares another with the user must not take them for gone.
            let status = state.status(&user);
            let elsewhere = state.rooms_of(&user).into_iter().take(ELSEWHERE_MAX);
            let elsewhere = elsewhere.map(|room| self::signal(room, &user, status, None));
            self.tell(std::iter::once(signal).chain(elsewhere));
        }
        Ok(())
    }

    async fn set_idle(&self, session: SessionId, idle: bool) -> Result<()> {
        let mut state = self.state()?;
        let Some(known) = state.sessions.get(&session) else {
            return Ok(());
        };
        if known.idle == idle {
            return Ok(());
        }
        let user = known.user.clone();
        let before = state.status(&user);
        if let Some(known) = state.sessions.get_mut(&session) {
            known.idle = idle;
        }
        if let Some(known) = state.users.get_mut(&user) {
            if idle {
                known.idle += 1;
            } else {
                known.idle -= 1;
            }
        }
        let signals = state.changed(&user, before);
        self.tell(signals);
        Ok(())
    }

    async fn status(&self, users: &[UserId]) -> Result<Vec<UserStatus>> {
        let state = self.state()?;
        Ok(users
            .iter()
            .map(|user| UserStatus {
                user: user.clone(),
                status: state.status(user),
                last_seen: state.last_seen.get(user),
            })
            .collect())
    }

    async fn present(&self, room: &RoomId, most: usize) -> Result<Present> {
        let state = self.state()?;
        Ok(state
            .rooms
            .get(room)
            .map_or_else(Present::default, |there| Present {
                users: there.keys().take(most).cloned().collect(),
                count: there.len() as u64,
            }))
    }
}

impl State {
    fn status(&self, user: &UserId) -> Status {
        match self.users.get(user) {
            None => Status::Offline,
            Some(user) if user.idle == user.sessions.len() => Status::Away,
            Some(_) => Status::Online,
        }
    }

    /// One session of the user less in the room; a signal when it was the last.
    fn leave(&mut self, room: &RoomId, user: &UserId, now: Timestamp) -> Option<Signal> {
        let there = self.rooms.get_mut(room)?;
        let sessions = there.get_mut(user)?;
        *sessions -= 1;
        if *sessions > 0 {
            return None;
        }
        there.remove(user);
        if there.is_empty() {
            self.rooms.remove(room);
        }
        Some(signal(room, user, Status::Offline, Some(now)))
    }

    /// The rooms the user shows in.
    fn rooms_of(&self, user: &UserId) -> HashSet<&RoomId> {
        let known = self.users.get(user);
        known
            .into_iter()
            .flat_map(|user| &user.sessions)
            .filter_map(|session| self.sessions.get(session))
            .flat_map(|session| &session.rooms)
            .collect()
    }

    /// A signal to every room the user shows in, when they went away or came back.
    fn changed(&self, user: &UserId, before: Status) -> Vec<Signal> {
        let status = self.status(user);
        if status == before {
            return Vec::new();
        }
        self.rooms_of(user)
            .into_iter()
            .map(|room| signal(room, user, status, None))
            .collect()
    }
}

fn signal(room: &RoomId, user: &UserId, status: Status, last_seen: Option<Timestamp>) -> Signal {
    Signal::Presence {
        room: room.clone(),
        user: user.clone(),
        status,
        last_seen,
    }
}

/// When users left, the latest [`LAST_SEEN_MAX`] of them.
#[derive(Default)]
struct LastSeen {
    times: HashMap<UserId, Timestamp>,
    /// In order of time. An entry whose time is not the one in `times` counts for nothing.
    order: VecDeque<(UserId, Timestamp)>,
}

impl LastSeen {
    fn get(&self, user: &UserId) -> Option<Timestamp> {
        self.times.get(user).copied()
    }

    fn remove(&mut self, user: &UserId) {
        self.times.remove(user);
    }

    fn insert(&mut self, user: UserId, at: Timestamp) {
        self.times.insert(user.clone(), at);
        self.order.push_back((user, at));
        while self.order.len() > LAST_SEEN_MAX {
            if let Some((user, at)) = self.order.pop_front()
                && self.times.get(&user) == Some(&at)
            {
                self.times.remove(&user);
            }
        }
    }
}
