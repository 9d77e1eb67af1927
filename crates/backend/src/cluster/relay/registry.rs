//! The rooms this pod has, and its place on their routes in Redis: by them others know where to send events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::RoomId;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use super::{PodId, Upstream};
use crate::Result;
use crate::cluster::Redis;
use crate::cluster::backoff::Backoff;

/// A place on a route lasts so long, unless it is renewed.
pub const LEASE: Duration = Duration::from_secs(30);
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether the connection to Redis is another one.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A room that nobody has any more is kept for this long, because clients come back.
const LINGER: Duration = Duration::from_secs(2);
/// Rooms per call.
const BATCH: usize = 500;
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Where a room of this pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Somebody has it; it is not on the route.
    Wanted,
    /// Somebody has it, and it is on the route.
    Taken,
    /// Nobody has it; it is taken off the route at that time.
    Lingering(Instant),
    /// Nobody has it; it is about to be taken off the route.
    Leaving,
    /// Somebody has it again while it is being taken off the route.
    WantedAgain,
}

#[derive(Default)]
pub struct Registry {
    table: Mutex<Table>,
    /// There is something to do before the next look.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    places: HashMap<RoomId, Place>,
    /// Rooms that are [`Place::Wanted`], but for those that are being registered.
    wanted: BTreeSet<RoomId>,
    /// Rooms that are [`Place::Lingering`], or were, in order of time; rooms of the same moment in one entry.
    lingering: BTreeMap<Instant, Vec<RoomId>>,
    refresh: bool,
}

impl Registry {
    /// The first in this process has the room.
    pub fn watch(&self, room: &RoomId) {
        let mut table = self.table();
        match table.places.get_mut(room) {
            None => {
                table.places.insert(room.clone(), Place::Wanted);
                table.wanted.insert(room.clone());
                self.changed.notify_one();
            }
            Some(place @ Place::Lingering(_)) => *place = Place::Taken,
            Some(place @ Place::Leaving) => *place = Place::WantedAgain,
            Some(Place::Wanted | Place::Taken | Place::WantedAgain) => {}
        }
    }

    /// The last in this process has left the room.
    pub fn unwatch(&self, room: &RoomId) {
        self.table().unwatch(room, Instant::now());
    }

    /// All places are renewed at once.
    pub fn refresh(&self) {
        self.table().refresh = true;
        self.changed.notify_one();
    }

    /// How many rooms this pod has.
    pub fn len(&self) -> usize {
        self.table().places.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a pod's places.
pub struct Registrar {
    pub registry: Arc<Registry>,
    pub redis: Redis,
    pub pod: PodId,
    pub upstream: Arc<dyn Upstream>,
}

impl Registrar {
    /// Never ends by itself.
    pub async fn run(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let mut connection = 0;
        let mut refreshed = Instant::now();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = self.registry.changed.notified() => {}
            }
            // Another connection can lead to another Redis, which knows nothing of this pod.
            if let Ok(session) = self.redis.session().await
                && session.number != connection
            {
                connection = session.number;
                self.registry.table().refresh = true;
            }
            let is_due = refreshed.elapsed() >= REFRESH_EVERY;
            if self.registry.table().take_refresh() || is_due {
                match self.refresh().await {
                    Ok(()) => refreshed = Instant::now(),
                    Err(error) => {
                        self.registry.table().refresh = true;
                        self.wait(&error, &mut backoff).await;
                        continue;
                    }
                }
            }
            match self.register_wanted().await {
                Ok(()) => backoff.reset(),
                Err(error) => self.wait(&error, &mut backoff).await,
            }
            self.leave_due().await;
        }
    }

    async fn wait(&self, error: &crate::Error, backoff: &mut Backoff) {
        if backoff.is_fresh() {
            tracing::warn!(%error, "routes of rooms cannot be registered; trying again");
        }
        tokio::time::sleep(backoff.pause()).await;
        self.registry.changed.notify_one();
    }

    /// Takes places for all rooms that have none.
    async fn register_wanted(&self) -> Result<()> {
        loop {
            let rooms = self.registry.table().next_wanted();
            if rooms.is_empty() {
                return Ok(());
            }
            if let Err(error) = register(&self.redis, &self.pod, &rooms).await {
                self.registry.table().not_taken(rooms);
                return Err(error);
            }
            for room in rooms {
                if self.registry.table().taken(&room) {
                    self.upstream.watched(&room);
                }
            }
        }
    }

    /// Renews all places; rooms whose place was gone may have missed something.
    async fn refresh(&self) -> Result<()> {
        let rooms = self.registry.table().on_routes();
        for rooms in rooms.chunks(BATCH) {
            let fresh = register(&self.redis, &self.pod, rooms).await?;
            for (room, is_fresh) in rooms.iter().zip(fresh) {
                if is_fresh && self.registry.table().is_on_route(room) {
                    self.upstream.watched(room);
                }
            }
        }
        Ok(())
    }

    /// Gives up the places of rooms that nobody has. When that fails they end by themselves.
    async fn leave_due(&self) {
        loop {
            let rooms = self.registry.table().next_leaving(Instant::now());
            if rooms.is_empty() {
                return;
            }
            for room in &rooms {
                self.upstream.unwatched(room);
            }
            let left = unregister(&self.redis, &self.pod, &rooms).await;
            if let Err(error) = left {
                tracing::debug!(%error, "routes of rooms are left to end by themselves");
            }
            let mut table = self.registry.table();
            for room in rooms {
                table.left(room);
            }
            if !table.wanted.is_empty() {
                self.registry.changed.notify_one();
            }
        }
    }
}

impl Table {
    fn unwatch(&mut self, room: &RoomId, now: Instant) {
        match self.places.get_mut(room) {
            Some(Place::Wanted) => {
                self.places.remove(room);
                self.wanted.remove(room);
            }
            Some(place @ Place::Taken) => {
                let until = now + LINGER;
                *place = Place::Lingering(until);
                self.lingering.entry(until).or_default().push(room.clone());
            }
            Some(place @ Place::WantedAgain) => *place = Place::Leaving,
            Some(Place::Lingering(_) | Place::Leaving) | None => {}
        }
    }

    fn take_refresh(&mut self) -> bool {
        std::mem::take(&mut self.refresh)
    }

    /// Some rooms that need a place.
    fn next_wanted(&mut self) -> Vec<RoomId> {
        let mut rooms = Vec::new();
        while rooms.len() < BATCH
            && let Some(room) = self.wanted.pop_first()
        {
            rooms.push(room);
        }
        rooms
    }

    /// A room has its place now. `false` if nobody wants it any more.
    fn taken(&mut self, room: &RoomId) -> bool {
        match self.places.get_mut(room) {
            Some(place @ Place::Wanted) => {
                *place = Place::Taken;
                true
            }
            // It went while the place was being taken: it has one and must be taken off.
            None => {
                let now = Instant::now();
                self.places.insert(room.clone(), Place::Lingering(now));
                self.lingering.entry(now).or_default().push(room.clone());
                true
            }
            Some(_) => false,
        }
    }

    /// Rooms that could not be registered are still wanted, unless they were left meanwhile.
    fn not_taken(&mut self, rooms: Vec<RoomId>) {
        for room in rooms {
            if self.places.get(&room) == Some(&Place::Wanted) {
                self.wanted.insert(room);
            }
        }
    }

    fn on_routes(&self) -> Vec<RoomId> {
        let places = self.places.iter();
        places
            .filter(|(_, place)| matches!(place, Place::Taken | Place::Lingering(_)))
            .map(|(room, _)| room.clone())
            .collect()
    }

    fn is_on_route(&self, room: &RoomId) -> bool {
        let place = self.places.get(room);
        matches!(place, Some(Place::Taken | Place::Lingering(_)))
    }

    /// Some rooms whose time has come.
    fn next_leaving(&mut self, now: Instant) -> Vec<RoomId> {
        let mut rooms = Vec::new();
        while rooms.len() < BATCH
            && let Some(mut first) = self.lingering.first_entry()
            && *first.key() <= now
        {
            let until = *first.key();
            let Some(room) = first.get_mut().pop() else {
                first.remove();
                continue;
            };
            if let Some(place) = self.places.get_mut(&room)
                && *place == Place::Lingering(until)
            {
                *place = Place::Leaving;
                rooms.push(room);
            }
        }
        rooms
    }

    /// A room has no place any more.
    fn left(&mut self, room: RoomId) {
        match self.places.get_mut(&room) {
            Some(place @ Place::WantedAgain) => {
                *place = Place::Wanted;
                self.wanted.insert(room);
            }
            Some(Place::Leaving) => {
                self.places.remove(&room);
            }
            _ => {}
        }
    }
}

fn keys(redis: &Redis, rooms: &[RoomId]) -> Vec<String> {
    let keys = rooms.iter().map(|room| redis.room_key(room, "pods"));
    keys.collect()
}

/// Takes or keeps a place on the routes; says for each whether there was none.
async fn register(redis: &Redis, pod: &PodId, rooms: &[RoomId]) -> Result<Vec<bool>> {
    let lease = LEASE.as_millis().to_string();
    let arguments = [pod.as_str().as_bytes(), lease.as_bytes()];
    redis
        .call("darda_relay_register", &keys(redis, rooms), &arguments)
        .await
}

async fn unregister(redis: &Redis, pod: &PodId, rooms: &[RoomId]) -> Result<()> {
    let arguments = [pod.as_str().as_bytes()];
    let keys = keys(redis, rooms);
    let left: Result<u64> = redis
        .call("darda_relay_unregister", &keys, &arguments)
        .await;
    left.map(drop)
}

/// Gives up all places of a pod that ends.
pub async fn unregister_all(registry: &Registry, redis: &Redis, pod: &PodId) -> Result<()> {
    let rooms: Vec<_> = std::mem::take(&mut registry.table().places)
        .into_keys()
        .collect();
    for rooms in rooms.chunks(BATCH) {
        unregister(redis, pod, rooms).await?;
    }
    Ok(())
}

/// The pods that have each of the rooms.
pub async fn routes(redis: &Redis, rooms: &[RoomId]) -> Result<Vec<Vec<String>>> {
    redis
        .call("darda_relay_routes", &keys(redis, rooms), &[])
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(text: &str) -> RoomId {
        RoomId::parse(text).unwrap()
    }

    /// The rooms that are registered and those that are taken off the routes in a round at `now`.
    fn round(registry: &Registry, now: Instant) -> (Vec<RoomId>, Vec<RoomId>) {
        let mut table = registry.table();
        let wanted = table.next_wanted();
        let taken = wanted.into_iter().filter(|room| table.taken(room));
        let taken = taken.collect();
        let leaving = table.next_leaving(now);
        for room in leaving.clone() {
            table.left(room);
        }
        (taken, leaving)
    }

    #[test]
    fn a_room_that_is_wanted_again_soon_keeps_its_place() {
        let (registry, now) = (Registry::default(), Instant::now());
        registry.watch(&room("a"));
        assert_eq!(round(&registry, now), (vec![room("a")], vec![]));
        registry.table().unwatch(&room("a"), now);
        registry.watch(&room("a"));
        assert_eq!(round(&registry, now + LINGER), (vec![], vec![]));
        let later = now + LINGER;
        registry.table().unwatch(&room("a"), later);
        assert_eq!(round(&registry, later), (vec![], vec![]));
        assert_eq!(round(&registry, later + LINGER), (vec![], vec![room("a")]));
        assert_eq!(registry.len(), 0);
    }

    #[test]
    fn a_room_that_is_left_while_it_is_registered_is_taken_off() {
        let registry = Registry::default();
        registry.watch(&room("a"));
        registry.watch(&room("b"));
        let wanted = registry.table().next_wanted();
        assert_eq!(wanted.len(), 2);
        registry.unwatch(&room("a"));
        assert!(registry.table().taken(&room("a")));
        assert!(registry.table().taken(&room("b")));
        assert_eq!(round(&registry, Instant::now()), (vec![], vec![room("a")]));
        assert_eq!(registry.len(), 1);
    }

    #[test]
    fn a_room_that_is_wanted_while_it_is_taken_off_is_registered_again() {
        let (registry, now) = (Registry::default(), Instant::now());
        registry.watch(&room("a"));
        round(&registry, now);
        registry.table().unwatch(&room("a"), now);
        assert_eq!(registry.table().next_leaving(now + LINGER), [room("a")]);
        registry.watch(&room("a"));
        registry.table().left(room("a"));
        assert_eq!(round(&registry, now), (vec![room("a")], vec![]));
    }
}
