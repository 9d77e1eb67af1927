//! Raises the persisted marks of rooms in Redis, beside the storing: Redis may be away for as long as it likes.
//!
//! A mark only rises to the end of an unbroken chain. In the common case the chain goes on where this process saw it
//! end; otherwise MongoDB is asked. Rooms that nobody stores to, and those of a worker that died, are found by a walk
//! over all rooms, at the start, now and then, and when Redis is back.

mod chain;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backend::cluster::persisted::Head;
use backend::cluster::{Redis, Store, persisted};
use backend::{Error, Result};
use prometheus_client::metrics::counter::Counter;
use protocol::{RoomId, Seq};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use chain::Chain;

/// Batches that wait for their marks. What finds no room is found by a walk, soon.
const QUEUE_MAX: usize = 256;
/// Rooms that are remembered; past that all are forgotten and read again.
const ROOMS_MAX: usize = 50_000;
/// Marks raised at once.
const AT_ONCE_MAX: usize = 200;
/// The pause after marks were raised: what comes meanwhile shares the next ones.
const RAISE_PAUSE: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_secs(1);
/// How long a hole may close by itself before MongoDB is asked about it.
const HOLE_PATIENCE: Duration = Duration::from_secs(3);
/// How often all rooms are looked at.
const WALK_EVERY: Duration = Duration::from_secs(300);
/// And how soon when batches found no room: not at once, since it was too much already.
const WALK_SOON: Duration = Duration::from_secs(2);
/// Events that one question to MongoDB walks.
const LINKS_MAX: usize = 10_000;

/// A stored event's place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub room: RoomId,
    pub prev: Option<Seq>,
    pub seq: Seq,
}

/// Takes what was stored.
#[derive(Clone)]
pub struct Marks {
    batches: mpsc::Sender<Vec<Link>>,
    /// Some batch found no room.
    has_missed: Arc<AtomicBool>,
}

impl Marks {
    /// The handle, and the work to be run beside the storing. It ends when the last handle is gone.
    pub fn new(store: Store, redis: Redis, raised: Counter) -> (Self, impl Future<Output = ()>) {
        let (batches, receiver) = mpsc::channel(QUEUE_MAX);
        let has_missed = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            store,
            redis,
            has_missed: Arc::clone(&has_missed),
            rooms: HashMap::new(),
            walk_at: Instant::now(),
            is_away: false,
            raised,
        };
        let marks = Self {
            batches,
            has_missed,
        };
        (marks, keeper.run(receiver))
    }

    /// Never waits.
    pub fn stored(&self, links: Vec<Link>) {
        if self.batches.try_send(links).is_err() {
            self.has_missed.store(true, Ordering::Relaxed);
        }
    }
}

struct Keeper {
    store: Store,
    redis: Redis,
    has_missed: Arc<AtomicBool>,
    rooms: HashMap<RoomId, Room>,
    /// When all rooms are looked at next.
    walk_at: Instant,
    /// Whether the last call failed.
    is_away: bool,
    /// How many marks were raised.
    raised: Counter,
}

struct Room {
    chain: Chain,
    /// What Redis was told.
    raised: Seq,
    /// Since when there is a hole, or when MongoDB was last asked about it.
    hole_since: Option<Instant>,
}

impl Keeper {
    async fn run(mut self, mut stored: mpsc::Receiver<Vec<Link>>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batches = Vec::new();
        loop {
            tokio::select! {
                count = stored.recv_many(&mut batches, QUEUE_MAX) => {
                    if count == 0 {
                        return;
                    }
                    if let Err(error) = self.take(batches.drain(..).flatten().collect()).await {
                        self.fail(&error);
                    }
                    tokio::time::sleep(RAISE_PAUSE).await;
                }
                _ = tick.tick() => match self.look_after().await {
                    Ok(()) if self.is_away => {
                        info!("marks are raised again");
                        self.is_away = false;
                    }
                    Ok(()) => {}
                    Err(error) => self.fail(&error),
                }
            }
        }
    }

    /// What was lost by it is found by a walk, as soon as that succeeds.
    fn fail(&mut self, error: &Error) {
        if !self.is_away {
            warn!(%error, "marks cannot be raised for now");
        }
        self.is_away = true;
        self.walk_at = Instant::now();
    }

    async fn take(&mut self, links: Vec<Link>) -> Result<()> {
        self.meet(&links).await?;
        let mut touched: Vec<RoomId> = Vec::new();
        for Link { room, prev, seq } in links {
            if let Some(known) = self.rooms.get_mut(&room) {
                known.chain.add(prev, seq);
                if touched.last() != Some(&room) {
                    touched.push(room);
                }
            }
        }
        touched.sort_unstable();
        touched.dedup();
        let now = Instant::now();
        for room in &touched {
            if let Some(room) = self.rooms.get_mut(room) {
                let is_open = room.chain.has_hole();
                room.hole_since = is_open.then(|| room.hole_since.unwrap_or(now));
            }
        }
        self.raise(touched).await
    }

    /// Learns where the chains of rooms end that are not known yet. Those that Redis does not have need no mark.
    async fn meet(&mut self, links: &[Link]) -> Result<()> {
        if self.rooms.len() > ROOMS_MAX {
            self.rooms.clear();
            self.walk_at = Instant::now();
        }
        let mut new: Vec<RoomId> = links
            .iter()
            .filter(|link| !self.rooms.contains_key(&link.room))
            .map(|link| link.room.clone())
            .collect();
        new.sort_unstable();
        new.dedup();
        let marks = persisted::read(&self.redis, &new).await?;
        for (room, mark) in new.into_iter().zip(marks) {
            if let Some(mark) = mark {
                self.rooms.insert(room, Room::new(mark));
            }
        }
        Ok(())
    }

    /// Tells Redis about those of the rooms whose chains went on.
    async fn raise(&mut self, rooms: Vec<RoomId>) -> Result<()> {
        for rooms in rooms.chunks(AT_ONCE_MAX) {
            let marks: Vec<(RoomId, Seq)> = rooms
                .iter()
                .filter_map(|id| Some((id, self.rooms.get(id)?)))
                .filter(|(_, room)| room.chain.end() > room.raised)
                .map(|(id, room)| (id.clone(), room.chain.end()))
                .collect();
            persisted::raise(&self.redis, &marks).await?;
            self.raised.inc_by(marks.len() as u64);
            for (id, mark) in marks {
                if let Some(room) = self.rooms.get_mut(&id) {
                    room.raised = mark;
                }
            }
        }
        Ok(())
    }

    /// Tries again what failed, asks about holes that stay, and walks over all rooms when it is time.
    async fn look_after(&mut self) -> Result<()> {
        let behind: Vec<RoomId> = self
            .rooms
            .iter()
            .filter(|(_, room)| room.chain.end() > room.raised)
            .map(|(id, _)| id.clone())
            .collect();
        self.raise(behind).await?;
        self.close_holes().await?;
        // The last of a room leaves no hole behind.
        if self.has_missed.swap(false, Ordering::Relaxed) {
            self.walk_at = self.walk_at.min(Instant::now() + WALK_SOON);
        }
        if Instant::now() >= self.walk_at {
            self.walk().await?;
            self.walk_at = Instant::now() + WALK_EVERY;
        }
        Ok(())
    }

    async fn close_holes(&mut self) -> Result<()> {
        let now = Instant::now();
        let open: Vec<(RoomId, Seq)> = self
            .rooms
            .iter()
            .filter(|(_, room)| {
                let since = room.hole_since;
                since.is_some_and(|since| now.duration_since(since) > HOLE_PATIENCE)
            })
            .map(|(id, room)| (id.clone(), room.chain.end()))
            .take(AT_ONCE_MAX)
            .collect();
        let mut closed = Vec::new();
        for (id, from) in open {
            let end = self.store.contiguous(&id, from, LINKS_MAX).await?;
            if let Some(room) = self.rooms.get_mut(&id) {
                room.chain.go_to(end);
                room.hole_since = room.chain.has_hole().then_some(now);
                closed.push(id);
            }
        }
        self.raise(closed).await
    }

    async fn walk(&mut self) -> Result<()> {
        let mut cursor = 0;
        loop {
            let (next, heads) = persisted::walk(&self.redis, cursor).await?;
            let behind = heads.into_iter().filter(|head| head.safe > head.persisted);
            for Head {
                room: id,
                persisted: mark,
                ..
            } in behind
            {
                let known = self.rooms.get(&id).map(|room| room.chain.end());
                let mut end = known.map_or(mark, |end| end.max(mark));
                loop {
                    let from = end;
                    end = self.store.contiguous(&id, from, LINKS_MAX).await?;
                    if end == from {
                        break;
                    }
                }
                if let Some(room) = self.rooms.get_mut(&id) {
                    room.chain.go_to(end);
                }
                if end > mark {
                    persisted::raise(&self.redis, &[(id, end)]).await?;
                    self.raised.inc();
                }
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

impl Room {
    fn new(mark: Seq) -> Self {
        Self {
            chain: Chain::new(mark),
            raised: mark,
            hole_since: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use backend::cluster::envelope::Origin;
    use backend::cluster::settings::{Endpoint, Settings};
    use backend::cluster::store::Delivered;
    use backend::cluster::{Mongo, migrations};
    use protocol::{Event, EventBody, MessageId, Timestamp, UserId};

    use super::*;
    use crate::batch::Batch;

    async fn mark(redis: &Redis, room: &RoomId) -> u64 {
        let mut get = ::redis::cmd("HGET");
        get.arg(redis.room_key(room, "head")).arg("persisted");
        redis.query(&get).await.unwrap()
    }

    async fn until_mark(redis: &Redis, room: &RoomId, wanted: u64) {
        while mark(redis, room).await != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The last events of a room leave no hole behind that would tell of them.
    #[tokio::test]
    async fn what_found_no_room_gets_its_mark_soon() {
        if let Some(what) = testbed::missing() {
            testbed::skipped(&what);
            return;
        }
        let servers = testbed::shared().await;
        let endpoint = |url: &str| Endpoint {
            url: url.to_owned(),
            verify: true,
            ca_file: None,
        };
        let settings = Settings {
            redis: endpoint(&servers.redis_url),
            rabbitmq: endpoint(&servers.rabbitmq_url),
            mongodb: endpoint(&servers.mongodb_uri),
            namespace: testbed::namespace(),
            shards: 1,
            backlog_max: 1000,
        };
        let mongo = Mongo::new(&settings).await.unwrap();
        migrations::migrate(&mongo).await.unwrap();
        let (store, redis) = (Store::new(mongo.clone()), Redis::new(&settings).unwrap());
        let room = RoomId::parse("general").unwrap();
        let last = QUEUE_MAX as u64 + 20;
        let event = |number| Event {
            room: room.clone(),
            seq: Seq::new(number).unwrap(),
            prev: Seq::new(number - 1).ok(),
            at: Timestamp::now(),
            from: UserId::parse("alice").ok(),
            id: Some(MessageId::generate()),
            body: EventBody::Message {
                text: "words".to_owned(),
                reply_to: None,
                meta: None,
            },
        };
        let mut batch = Batch::default();
        batch.events = (1..=last).map(event).collect();
        let delivered = Delivered {
            origin: Origin::default(),
            at: Timestamp::now(),
        };
        batch.deliveries = vec![delivered; batch.events.len()];
        let arrivals: Vec<_> = batch.arrivals().collect();
        store
            .insert_arrivals(&arrivals[..1], "worker")
            .await
            .unwrap();
        let mut head = ::redis::cmd("HSET");
        head.arg(redis.room_key(&room, "head"));
        for (field, value) in [("gen", 0), ("seq", last), ("at", 1), ("safe", last)] {
            head.arg(field).arg(value);
        }
        head.arg(&["persisted", "0", "base", "0"]);
        redis.query::<i64>(&head).await.unwrap();

        let (marks, keeper) = Marks::new(store.clone(), redis.clone(), Counter::default());
        let mut keeper = pin!(keeper);
        // Its first walk finds the first event.
        tokio::select! {
            () = &mut keeper => panic!("the handle is there"),
            () = until_mark(&redis, &room, 1) => {}
        }
        // While it is held up more comes than it can keep.
        store
            .insert_arrivals(&arrivals[1..], "worker")
            .await
            .unwrap();
        for event in &batch.events[1..] {
            let Event {
                room, prev, seq, ..
            } = event.clone();
            marks.stored(vec![Link { room, prev, seq }]);
        }
        let raised = tokio::time::timeout(Duration::from_secs(30), until_mark(&redis, &room, last));
        tokio::select! {
            () = &mut keeper => panic!("the handle is there"),
            raised = raised => raised.expect("the mark of the last event"),
        }
        mongo.database().drop().await.unwrap();
    }
}
