//! The way of signals to other pods: to those that have the room, by routes that are at most a second old.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::RoomId;
use tokio::sync::Notify;

use super::outbox::Outbox;
use super::wire::{self, Kind, Sent};
use super::{PodId, registry};
use crate::cluster::Redis;
use crate::cluster::topology::EVERY_POD;
use crate::relay::Signal;

/// Signals that wait for their routes.
const QUEUE_MAX: usize = 8192;
/// Signals that are looked at together; their routes are one call.
const BATCH: usize = 512;
/// Routes are taken for true for this long.
const FRESH: Duration = Duration::from_secs(1);
/// Rooms whose routes are remembered.
const ROUTES_MAX: usize = 20_000;

#[derive(Default)]
pub struct Signals {
    queue: Mutex<Queue>,
    filled: Notify,
    routes: Mutex<HashMap<RoomId, Route>>,
}

#[derive(Default)]
struct Queue {
    signals: VecDeque<Sent>,
    dropped: u64,
}

#[derive(Clone)]
struct Route {
    pods: Arc<[String]>,
    at: Instant,
}

impl Signals {
    /// Takes a signal; the oldest goes when there are too many.
    pub fn push(&self, signal: Sent) {
        let mut queue = lock(&self.queue);
        if queue.signals.len() >= QUEUE_MAX {
            queue.signals.pop_front();
            queue.dropped += 1;
        }
        queue.signals.push_back(signal);
        drop(queue);
        self.filled.notify_one();
    }

    /// Signals that were given up.
    pub fn dropped(&self) -> u64 {
        lock(&self.queue).dropped
    }

    /// Signals that wait.
    pub fn len(&self) -> usize {
        lock(&self.queue).signals.len()
    }

    /// What somebody else found out.
    pub fn learn(&self, room: &RoomId, pods: &[String]) {
        let mut routes = lock(&self.routes);
        if routes.len() >= ROUTES_MAX {
            routes.retain(|_, route| route.at.elapsed() < FRESH);
        }
        if routes.len() >= ROUTES_MAX {
            routes.clear();
        }
        let at = Instant::now();
        match routes.get_mut(room) {
            Some(route) if *route.pods == *pods => route.at = at,
            _ => {
                let pods = pods.into();
                routes.insert(room.clone(), Route { pods, at });
            }
        }
    }

    /// Sends what is pushed. Never ends by itself.
    pub async fn run(&self, redis: &Redis, pod: &PodId, outbox: &Outbox) {
        loop {
            let signals = self.next().await;
            self.find_routes(redis, &signals).await;
            for signal in signals {
                self.send(&signal, pod, outbox);
            }
        }
    }

    async fn next(&self) -> Vec<Sent> {
        loop {
            {
                let mut queue = lock(&self.queue);
                let count = queue.signals.len().min(BATCH);
                if count > 0 {
                    return queue.signals.drain(..count).collect();
                }
            }
            self.filled.notified().await;
        }
    }

    /// Asks for the routes that are not known. While Redis is away the last known ones have to do.
    async fn find_routes(&self, redis: &Redis, signals: &[Sent]) {
        let mut rooms: Vec<RoomId> = {
            let routes = lock(&self.routes);
            let rooms = signals.iter().filter_map(|sent| room(&sent.signal));
            let is_known = |room: &RoomId| routes.get(room).is_some_and(|r| r.at.elapsed() < FRESH);
            rooms.filter(|room| !is_known(room)).cloned().collect()
        };
        rooms.sort_unstable();
        rooms.dedup();
        if rooms.is_empty() {
            return;
        }
        match registry::routes(redis, &rooms).await {
            Ok(found) => {
                for (room, pods) in rooms.iter().zip(found) {
                    self.learn(room, &pods);
                }
            }
            Err(error) => tracing::debug!(%error, "routes are not known; older ones have to do"),
        }
    }

    fn send(&self, sent: &Sent, pod: &PodId, outbox: &Outbox) {
        let Some(room) = room(&sent.signal) else {
            outbox.push(EVERY_POD, Kind::Signals, [wire::signal_line(sent)]);
            return;
        };
        let route = lock(&self.routes).get(room).cloned();
        let pods = route.iter().flat_map(|route| route.pods.iter());
        let mut others = pods.filter(|to| *to != pod.as_str()).peekable();
        if others.peek().is_none() {
            return;
        }
        let line = wire::signal_line(sent);
        for to in others {
            outbox.push(to, Kind::Signals, [line.clone()]);
        }
    }
}

/// The room whose pods hear of it; `None` when all pods do, because only they know where a user's sessions are.
fn room(signal: &Signal) -> Option<&RoomId> {
    match signal {
        Signal::Typing { room, .. }
        | Signal::Receipt { room, .. }
        | Signal::Presence { room, .. } => Some(room),
        Signal::Notice { .. } => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
