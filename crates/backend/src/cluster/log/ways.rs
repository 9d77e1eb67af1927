//! How far an event has come: from the tail in Redis as long as it is not stored, then from MongoDB.
//!
//! Nothing is written for this on the way to the reader. What the worker stores with an event tells who published it and
//! when; that the broker had it for good is known from the time at which a shard queue gave it out, because a quorum queue
//! gives out nothing that a majority does not have.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::redis::{Pipeline, Value};
use protocol::{Event, MessageId, RoomId, Seq, Timestamp};

use super::{Core, entry};
use crate::cluster::relay;
use crate::cluster::store::Stored;
use crate::log::{Passed, Step, Way};
use crate::{Error, Result};

/// Rooms that Redis is asked about at once.
const ROOMS_AT_ONCE: usize = 500;
/// Rooms with something to be stored that are looked into, and how far, from their ends.
const TAILS_MAX: usize = 100;
const TAIL_EVENTS_MAX: usize = 5000;
/// Processes that are named.
const PODS_MAX: usize = 500;

/// What Redis has of an event that MongoDB may not have yet.
struct Waiting {
    event: Arc<Event>,
    is_safe: bool,
}

/// The marks of a room: its last seq, up to where it is stored, and up to where it is safe.
type Marks = (Option<u64>, Option<u64>, Option<u64>);

impl Core {
    pub(super) async fn ways(&self, id: MessageId, rooms: &[RoomId]) -> Result<Vec<Way>> {
        // First what is not stored: what is stored meanwhile is then found twice rather than not at all.
        let waiting = self.waiting(id, rooms).await;
        let stored = self.store.ways(id, rooms).await;
        let mut ways: BTreeMap<(RoomId, Seq), Way> = BTreeMap::new();
        let mut missing = None;
        match waiting {
            Ok(waiting) => ways.extend(waiting.into_iter().map(|one| keyed(way_of_waiting(one)))),
            Err(error) => missing = Some(error),
        }
        match stored {
            Ok(stored) => ways.extend(stored.into_iter().map(|one| keyed(way_of_stored(one)))),
            Err(error) => missing = Some(error),
        }
        if let Some(error) = missing.filter(|_| ways.is_empty()) {
            return Err(error);
        }
        let mut ways: Vec<Way> = ways.into_values().collect();
        self.name_pods(&mut ways).await;
        Ok(ways)
    }

    /// What Redis has under this id and has not been told to be stored.
    async fn waiting(&self, id: MessageId, rooms: &[RoomId]) -> Result<Vec<Waiting>> {
        let mut tails = Vec::new();
        for rooms in rooms.chunks(ROOMS_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(rooms.len());
            for room in rooms {
                pipeline
                    .cmd("HMGET")
                    .arg(self.redis.room_key(room, "head"))
                    .arg(&["seq", "persisted", "safe"]);
            }
            let marks: Vec<Marks> = self.redis.pipeline(&pipeline).await?;
            tails.extend(rooms.iter().zip(marks).filter_map(|(room, marks)| {
                let (Some(last), Some(persisted), Some(safe)) = marks else {
                    return None;
                };
                (last > persisted).then_some((room, persisted, safe))
            }));
        }
        let mut found = Vec::new();
        let mut is_cut = tails.len() > TAILS_MAX;
        for (room, persisted, safe) in tails.into_iter().take(TAILS_MAX) {
            let mut newest = ::redis::cmd("XREVRANGE");
            newest
                .arg(self.redis.room_key(room, "log"))
                .arg("+")
                .arg(format!("{}-0", persisted + 1))
                .arg("COUNT")
                .arg(TAIL_EVENTS_MAX);
            let entries: Value = self.redis.query(&newest).await?;
            let events = entry::events(room, &entries)?;
            is_cut |= events.len() >= TAIL_EVENTS_MAX;
            let of_id = events.into_iter().filter(|event| event.id == Some(id));
            found.extend(of_id.map(|event| Waiting {
                is_safe: event.seq.get() <= safe,
                event,
            }));
        }
        if is_cut && found.is_empty() {
            return Err(Error::unavailable(
                "too many events wait to be stored to look through them all",
            ));
        }
        Ok(found)
    }

    /// Adds who has readers in the rooms. Without Redis's word nobody is named.
    async fn name_pods(&self, ways: &mut [Way]) {
        let mut pipeline = Pipeline::with_capacity(ways.len());
        for way in &*ways {
            pipeline
                .cmd("ZRANGEBYSCORE")
                .arg(self.redis.room_key(&way.event.room, "pods"))
                .arg(Timestamp::now().as_millis())
                .arg("+inf")
                .arg("LIMIT")
                .arg(0)
                .arg(PODS_MAX);
        }
        if ways.is_empty() {
            return;
        }
        let routes: Result<Vec<Vec<String>>> = self.redis.pipeline(&pipeline).await;
        let Ok(routes) = routes else {
            return;
        };
        for (way, pods) in ways.iter_mut().zip(routes) {
            let mut relayed = way.steps.iter_mut();
            if let Some(relayed) = relayed.find(|passed| passed.step == Step::Relayed) {
                let names = pods.iter().map(|pod| relay::name(pod).to_owned());
                relayed.pods = names.collect();
            }
        }
    }
}

fn keyed(way: Way) -> ((RoomId, Seq), Way) {
    ((way.event.room.clone(), way.event.seq), way)
}

fn appended(event: &Event) -> Passed {
    Passed {
        at: Some(event.at),
        ..Passed::new(Step::Appended, true)
    }
}

fn way_of_waiting(waiting: Waiting) -> Way {
    let Waiting { event, is_safe } = waiting;
    let steps = vec![
        appended(&event),
        Passed::new(Step::Published, is_safe),
        Passed::new(Step::Confirmed, is_safe),
        Passed::new(Step::Relayed, is_safe),
        Passed::new(Step::Persisted, false),
    ];
    Way {
        event,
        is_safe,
        steps,
    }
}

fn way_of_stored(stored: Stored) -> Way {
    let event = Arc::new(stored.event);
    let mut published = Passed::new(Step::Published, true);
    let mut confirmed = Passed::new(Step::Confirmed, true);
    let mut persisted = Passed::new(Step::Persisted, true);
    if let Some(kept) = stored.way {
        published.at = kept.published_at;
        published.by = kept.pod;
        confirmed.at = Some(kept.delivered_at);
        persisted.at = Some(kept.stored_at);
        persisted.by = Some(kept.worker);
    }
    let relayed = Passed::new(Step::Relayed, true);
    Way {
        steps: vec![appended(&event), published, confirmed, relayed, persisted],
        event,
        is_safe: true,
    }
}
