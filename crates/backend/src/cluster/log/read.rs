//! Reads: the end of a room from Redis, what is before it from MongoDB, joined by the chain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{Pipeline, Value};
use protocol::{Event, EventBody, RoomId, Seq, Timestamp, UserId};

use super::append::{FENCE_MAX, FENCE_MIN};
use super::entry::{self, list, number, place, text};
use super::{Core, Tail};
use crate::log::{Page, within_bounds};
use crate::{Error, Result};

/// How long somebody waits for a head that is certain.
const CERTAIN_WITHIN: Duration = Duration::from_secs(1);
/// Events read at once while all that are not stored yet are looked through.
const SCAN: usize = 1000;
/// How often events that only Redis has are read again because they were stored while they were read.
const UNSTORED_TRIES: usize = 5;

/// What Redis knows of a room.
enum Fetched {
    /// Nothing: either all of the room is in MongoDB, or Redis lost it.
    Cold,
    /// The room is closed for ever.
    Gone,
    Here(Here),
}

struct Here {
    /// Redis has every event after it.
    base: u64,
    safe: u64,
    seq: u64,
    persisted: u64,
    fence: u64,
    events: Vec<Arc<Event>>,
}

/// What MongoDB has after a place.
struct Stored {
    events: Vec<Arc<Event>>,
    /// An event is missing after the last one.
    ends_at_a_hole: bool,
}

impl Core {
    pub(super) async fn read(&self, room: &RoomId, after: u64, limit: usize) -> Result<Page> {
        let (tail, events) = self.page(room, after, limit).await?;
        Ok(Page {
            events,
            head: place(tail.head)?,
        })
    }

    /// The events after a place, and what is known of the end.
    pub(in crate::cluster) async fn after(
        &self,
        room: &RoomId,
        after: u64,
        limit: usize,
    ) -> Result<(Tail, Vec<Arc<Event>>)> {
        self.page(room, after, limit).await
    }

    /// The last event, and what is known of the end.
    pub(in crate::cluster) async fn last(&self, room: &RoomId) -> Result<(Tail, Vec<Arc<Event>>)> {
        self.page_before(room, Seq::MAX.get(), 1).await
    }

    /// What is known of the end.
    pub(in crate::cluster) async fn tail(&self, room: &RoomId) -> Result<Tail> {
        match self.fetch(room, 0, 0, 0).await? {
            Fetched::Here(here) => self.tail_of(room, &here).await,
            Fetched::Gone => Ok(Tail::default()),
            Fetched::Cold => self.stored_tail(room, Seq::MAX.get()).await,
        }
    }

    /// The last seqs that were given out in rooms, zero where Redis knows nothing.
    pub(in crate::cluster) async fn lasts(&self, rooms: &[RoomId]) -> Result<Vec<u64>> {
        let mut pipeline = Pipeline::with_capacity(rooms.len());
        for room in rooms {
            pipeline
                .cmd("HMGET")
                .arg(self.redis.room_key(room, "head"))
                .arg(&["gen", "seq"]);
        }
        let open = self.generations.current().await?.generation;
        let lasts: Vec<(Option<u64>, Option<u64>)> = self.redis.pipeline(&pipeline).await?;
        let last =
            |(of, seq): (Option<u64>, Option<u64>)| seq.filter(|_| of.is_some_and(|of| of >= open));
        Ok(lasts
            .into_iter()
            .map(|room| last(room).unwrap_or_default())
            .collect())
    }

    /// What Redis has of a room in the open generation. A Redis that was not looked at yet may be an older copy, and is not
    /// believed.
    async fn fetch(&self, room: &RoomId, after: u64, limit: usize, before: u64) -> Result<Fetched> {
        let open = self.generations.current().await?;
        let keys = self.keys(room);
        let numbers = [open.generation, after, limit as u64, before].map(|n| n.to_string());
        let arguments = numbers.each_ref().map(|number| number.as_bytes());
        let answer: Value = self
            .redis
            .call_in(&open.session, "log_read", &keys[..3], &arguments)
            .await?;
        let answer = list(&answer)?;
        match answer.first().map_or(Ok(""), text)? {
            "cold" => return Ok(Fetched::Cold),
            "gone" => return Ok(Fetched::Gone),
            _ => {}
        }
        let [_, base, safe, seq, persisted, fence, help, entries] = answer else {
            return Err(Error::Corrupt("redis: a short answer".to_owned()));
        };
        if number(help)? > 0
            && let Some(core) = self.me.upgrade()
        {
            tokio::spawn(core.help(room.clone()));
        }
        Ok(Fetched::Here(Here {
            base: number(base)?,
            safe: number(safe)?,
            seq: number(seq)?,
            persisted: number(persisted)?,
            fence: number(fence)?,
            events: entry::events(room, entries)?,
        }))
    }

    /// Events as Redis has them, safe or not: only the fence of a room that was just seeded is read like this.
    pub(super) async fn entry_of_fence(
        &self,
        room: &RoomId,
        fence: u64,
    ) -> Result<Vec<Arc<Event>>> {
        let mut command = ::redis::cmd("XRANGE");
        let id = format!("{fence}-0");
        command
            .arg(self.redis.room_key(room, "log"))
            .arg(&id)
            .arg(&id);
        let entries: Value = self.redis.query(&command).await?;
        entry::events(room, &entries)
    }

    /// Whether the fence of the room is on its way to MongoDB: what is before it is not complete until it is there.
    async fn is_closing(&self, room: &RoomId, here: &Here) -> Result<bool> {
        Ok(here.fence > here.persisted && !self.store.is_stored(room, place(here.fence)?).await?)
    }

    async fn tail_of(&self, room: &RoomId, here: &Here) -> Result<Tail> {
        let head = if self.is_closing(room, here).await? {
            self.stored_tail(room, here.fence).await?.head
        } else {
            here.safe
        };
        Ok(Tail {
            seq: here.seq,
            safe: here.safe,
            head,
        })
    }

    /// The end of a room as MongoDB has it, before a place.
    async fn stored_tail(&self, room: &RoomId, before: u64) -> Result<Tail> {
        let last = self.store.before(room, place(before)?, 1).await?;
        let head = last.last().map_or(0, |event| event.seq.get());
        // What MongoDB has may stand behind a hole: of safety it says nothing.
        Ok(Tail {
            seq: head,
            safe: 0,
            head,
        })
    }

    async fn page(
        &self,
        room: &RoomId,
        after: u64,
        limit: usize,
    ) -> Result<(Tail, Vec<Arc<Event>>)> {
        let here = match self.fetch(room, after, limit, 0).await {
            Ok(Fetched::Gone) => return Ok((Tail::default(), Vec::new())),
            Ok(Fetched::Here(here)) => Some(here),
            Ok(Fetched::Cold) | Err(Error::Unavailable { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(here) = here else {
            return self.stored_page(room, after, limit, Seq::MAX.get()).await;
        };
        let tail = Tail {
            seq: here.seq,
            safe: here.safe,
            head: here.safe,
        };
        if after >= here.base && after >= here.fence {
            return Ok((tail, here.events));
        }
        if self.is_closing(room, &here).await? {
            let (before, events) = self.stored_page(room, after, limit, here.fence).await?;
            let head = before.head;
            return Ok((Tail { head, ..tail }, events));
        }
        if after >= here.base {
            return Ok((tail, here.events));
        }
        let stored = self.stored(room, after, here.base, limit).await?;
        let mut events = stored.events;
        let end = events.last().map_or(after, |event| event.seq.get());
        if events.len() < limit {
            let is_whole = end >= here.base || here.fence > here.base;
            if stored.ends_at_a_hole || !is_whole {
                return Err(not_yet());
            }
            let room_left = limit - events.len();
            events.extend(here.events.into_iter().take(room_left));
        }
        Ok((tail, events))
    }

    /// A page of MongoDB alone: what is whole.
    async fn stored_page(
        &self,
        room: &RoomId,
        after: u64,
        limit: usize,
        before: u64,
    ) -> Result<(Tail, Vec<Arc<Event>>)> {
        let mut tail = self.stored_tail(room, before).await?;
        let stored = self.stored(room, after, before - 1, limit).await?;
        if stored.ends_at_a_hole {
            let end = stored.events.last().map_or(after, |event| event.seq.get());
            tail.head = end;
        }
        Ok((tail, stored.events))
    }

    /// Events of MongoDB in (after, upto], without a hole. Numbers that are missing before a stored fence were never
    /// acknowledged; they are shown as voids.
    async fn stored(&self, room: &RoomId, after: u64, upto: u64, limit: usize) -> Result<Stored> {
        let mut closed = 0;
        loop {
            let found = self.store.after(room, place(after)?, limit).await?;
            let mut run = Run::new(Some(after), closed, limit);
            for event in found {
                if event.seq.get() > upto || run.is_full() || !run.take(event)? {
                    break;
                }
            }
            if self.knows_no_later_fence(room, &run, &mut closed).await? {
                return Ok(Stored {
                    ends_at_a_hole: run.ends_at_a_hole,
                    events: run.events,
                });
            }
        }
    }

    /// Whether nothing of a page hangs on a fence that was stored after it was read. What is before a fence is whole only
    /// to whoever reads it after the fence; so the page is read again, with what is known now.
    async fn knows_no_later_fence(
        &self,
        room: &RoomId,
        run: &Run,
        closed: &mut u64,
    ) -> Result<bool> {
        if !run.ends_at_a_hole && run.last_fence <= *closed {
            return Ok(true);
        }
        let fence = self.store.last_fence(room).await?.get();
        let is_known = fence <= *closed;
        *closed = fence;
        Ok(is_known)
    }

    pub(super) async fn read_before(
        &self,
        room: &RoomId,
        before: u64,
        limit: usize,
    ) -> Result<Page> {
        let (tail, events) = self.page_before(room, before, limit).await?;
        Ok(Page {
            events,
            head: place(tail.head)?,
        })
    }

    async fn page_before(
        &self,
        room: &RoomId,
        before: u64,
        limit: usize,
    ) -> Result<(Tail, Vec<Arc<Event>>)> {
        let here = match self.fetch(room, 0, limit, before.max(1)).await {
            Ok(Fetched::Gone) => return Ok((Tail::default(), Vec::new())),
            Ok(Fetched::Here(here)) => Some(here),
            Ok(Fetched::Cold) => None,
            Err(Error::Unavailable { .. }) => return self.stored_alone(room, before, limit).await,
            Err(error) => return Err(error),
        };
        let Some(here) = here else {
            let tail = self.stored_tail(room, Seq::MAX.get()).await?;
            return self.stored_end(room, tail, before, limit).await;
        };
        let mut tail = self.tail_of(room, &here).await?;
        if tail.head < here.safe {
            // The fence is not stored yet: nothing from it on can be shown.
            let before = before.min(here.fence);
            return self.stored_end(room, tail, before, limit).await;
        }
        tail.head = here.safe;
        let mut events = here.events;
        events.reverse();
        if events.len() < limit && here.base > 0 && before > 1 {
            let upto = before.min(here.base + 1);
            let stored = self.stored_before(room, upto, limit - events.len()).await?;
            let mut older = stored.events;
            let end = older.last().map_or(0, |event| event.seq.get());
            let lacks_the_end = upto > here.base && end < here.base && here.fence <= here.base;
            if lacks_the_end || stored.ends_at_a_hole {
                return Err(not_yet());
            }
            older.append(&mut events);
            events = older;
        }
        Ok((tail, events))
    }

    /// The same without Redis. What is just before a place that somebody knows may not be stored yet; only the end of all that
    /// is stored can be told for sure.
    async fn stored_alone(
        &self,
        room: &RoomId,
        before: u64,
        limit: usize,
    ) -> Result<(Tail, Vec<Arc<Event>>)> {
        let tail = self.stored_tail(room, Seq::MAX.get()).await?;
        let (tail, events) = self.stored_end(room, tail, before, limit).await?;
        let end = events.last().map_or(0, |event| event.seq.get());
        if before < Seq::MAX.get() && tail.head < before && end + 1 < before {
            return Err(Error::unavailable(
                "redis is away, and what was asked for is not stored yet",
            ));
        }
        Ok((tail, events))
    }

    /// The last events of MongoDB before a place, and the end of what is whole: an event may be stored while one before it
    /// is not.
    async fn stored_end(
        &self,
        room: &RoomId,
        mut tail: Tail,
        before: u64,
        limit: usize,
    ) -> Result<(Tail, Vec<Arc<Event>>)> {
        let stored = self.stored_before(room, before, limit).await?;
        if stored.ends_at_a_hole {
            if before <= tail.head {
                return Err(not_yet());
            }
            tail.head = stored.events.last().map_or(0, |event| event.seq.get());
        }
        Ok((tail, stored.events))
    }

    /// The last events of MongoDB before a place, holes before a stored fence shown as voids.
    async fn stored_before(&self, room: &RoomId, before: u64, limit: usize) -> Result<Stored> {
        let mut closed = 0;
        loop {
            let mut found = self.store.before(room, place(before)?, limit).await?;
            let begin = (found.len() < limit).then_some(0);
            let end = found.last().map_or(0, |event| event.seq.get());
            if end + 1 < before && before < Seq::MAX.get() {
                // What is between them is known from the event behind.
                found.extend(self.store.after(room, place(before - 1)?, 1).await?);
            }
            let mut run = Run::new(begin, closed, usize::MAX);
            for event in found {
                if !run.take(event)? {
                    break;
                }
            }
            if self.knows_no_later_fence(room, &run, &mut closed).await? {
                run.events.retain(|event| event.seq.get() < before);
                let excess = run.events.len().saturating_sub(limit);
                run.events.drain(..excess);
                return Ok(Stored {
                    ends_at_a_hole: run.ends_at_a_hole,
                    events: run.events,
                });
            }
        }
    }

    pub(super) async fn head(&self, room: &RoomId) -> Result<Seq> {
        let head = match self.fetch(room, 0, 0, 0).await {
            Ok(Fetched::Gone) => return Ok(Seq::ZERO),
            Ok(Fetched::Here(here)) => self.tail_of(room, &here).await?.head,
            Ok(Fetched::Cold) | Err(Error::Unavailable { .. }) => {
                self.stored_tail(room, Seq::MAX.get()).await?.head
            }
            Err(error) => return Err(error),
        };
        // What this process has shown is there, whoever does not know it yet.
        place(head.max(self.sequencer.told(room, head)))
    }

    /// The head, for whoever believes to have seen more: never below what anybody was shown. A room that Redis does not have
    /// gets its place first, and what was under way before is waited for.
    pub(super) async fn certain_head(&self, room: &RoomId) -> Result<Seq> {
        let until = Instant::now() + CERTAIN_WITHIN;
        let mut pause = FENCE_MIN;
        while Instant::now() < until {
            match self.fetch(room, 0, 0, 0).await? {
                Fetched::Gone => return Ok(Seq::ZERO),
                Fetched::Here(here) if !self.is_closing(room, &here).await? => {
                    return place(here.safe.max(self.sequencer.told(room, here.safe)));
                }
                Fetched::Here(_) => {}
                Fetched::Cold => {
                    let open = self.generations.current().await?;
                    self.seed(room, &open).await?;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FENCE_MAX);
        }
        Err(Error::unavailable(
            "what was sent before Redis was lost is still being stored",
        ))
    }

    /// Up to where MongoDB has all, and those events that only Redis has, after `after`, which `keep` picks: all of them, or the
    /// first `most`.
    async fn unstored(
        &self,
        room: &RoomId,
        after: u64,
        most: usize,
        keep: impl Fn(&Event) -> bool,
    ) -> Result<(u64, Vec<Arc<Event>>)> {
        'again: for _ in 0..UNSTORED_TRIES {
            let here = match self.fetch(room, 0, 0, 0).await {
                Ok(Fetched::Here(here)) => here,
                Ok(_) | Err(Error::Unavailable { .. }) => return Ok((Seq::MAX.get(), Vec::new())),
                Err(error) => return Err(error),
            };
            if self.is_closing(room, &here).await? {
                return Ok((here.fence - 1, Vec::new()));
            }
            let mut kept: Vec<Arc<Event>> = Vec::new();
            let mut at = here.persisted.max(after);
            while at < here.safe && kept.len() < most {
                // Meanwhile these may have been stored and trimmed; then MongoDB has them, and they count there.
                let Fetched::Here(more) = self.fetch(room, at, SCAN, 0).await? else {
                    continue 'again;
                };
                if more.base > at {
                    continue 'again;
                }
                let Some(last) = more.events.last() else {
                    break;
                };
                at = last.seq.get();
                kept.extend(more.events.into_iter().filter(|event| keep(event)));
            }
            return Ok((here.persisted, kept));
        }
        Err(Error::unavailable(
            "the room is stored faster than it can be read",
        ))
    }

    pub(super) async fn related(&self, room: &RoomId, targets: &[Seq]) -> Result<Vec<Arc<Event>>> {
        let targets: BTreeSet<Seq> = targets.iter().copied().collect();
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        // First what is not stored: what is stored meanwhile is then found twice rather than not at all.
        let is_about = |event: &Event| event.body.target().is_some_and(|of| targets.contains(&of));
        let (_, unstored) = self.unstored(room, 0, usize::MAX, is_about).await?;
        if matches!(self.fetch(room, 0, 0, 0).await, Ok(Fetched::Gone)) {
            return Ok(Vec::new());
        }
        let wanted: Vec<Seq> = targets.iter().copied().collect();
        let mut found: BTreeMap<Seq, Arc<Event>> = BTreeMap::new();
        for event in self.store.related(room, &wanted).await? {
            found.insert(event.seq, Arc::new(event));
        }
        found.extend(unstored.into_iter().map(|event| (event.seq, event)));
        Ok(within_bounds(found.into_values().collect(), &targets))
    }

    pub(super) async fn first_at(&self, room: &RoomId, at: Timestamp) -> Result<Seq> {
        let (persisted, unstored) = self.unstored(room, 0, 1, |event| event.at >= at).await?;
        if let Some(seq) = self.store.first_at(room, at).await?
            && seq.get() <= persisted
        {
            return Ok(seq);
        }
        if let Some(event) = unstored.first() {
            return Ok(event.seq);
        }
        Ok(self.head(room).await?.next())
    }

    pub(super) async fn unread(
        &self,
        room: &RoomId,
        user: &UserId,
        after: u64,
        most: u64,
    ) -> Result<u64> {
        let of_others = |event: &Event| {
            matches!(event.body, EventBody::Message { .. }) && event.from.as_ref() != Some(user)
        };
        let enough = usize::try_from(most).unwrap_or(usize::MAX);
        let (persisted, unstored) = self.unstored(room, after, enough, of_others).await?;
        let stored = if after < persisted {
            let (after, upto) = (place(after)?, place(persisted)?);
            self.store.unread(room, user, after, upto, most).await?
        } else {
            0
        };
        Ok((stored + unstored.len() as u64).min(most))
    }
}

/// Stored events that are put together.
struct Run {
    events: Vec<Arc<Event>>,
    /// The last place that is accounted for; nothing before the first event when it does not matter where that is.
    end: Option<u64>,
    /// Before this fence all that will ever be there was there before the events were read.
    closed: u64,
    limit: usize,
    last_fence: u64,
    ends_at_a_hole: bool,
}

impl Run {
    fn new(end: Option<u64>, closed: u64, limit: usize) -> Self {
        Self {
            events: Vec::new(),
            end,
            closed,
            limit,
            last_fence: 0,
            ends_at_a_hole: false,
        }
    }

    fn is_full(&self) -> bool {
        self.events.len() >= self.limit
    }

    /// Adds the next event. `false` when one before it is missing.
    fn take(&mut self, event: Event) -> Result<bool> {
        let seq = event.seq.get();
        if event.body == (EventBody::Fence {}) {
            self.last_fence = seq;
        }
        let prev = event.prev.map(Seq::get);
        if let (Some(end), Some(prev)) = (self.end, prev)
            && prev > end
        {
            if seq >= self.closed {
                self.ends_at_a_hole = true;
                return Ok(false);
            }
            let room_left = self.limit - self.events.len();
            self.events.extend(voids(&event, end, prev, room_left)?);
        }
        if !self.is_full() {
            self.events.push(Arc::new(event));
        }
        self.end = Some(seq);
        Ok(true)
    }
}

fn not_yet() -> Error {
    Error::unavailable("mongodb: the primary does not have yet what was stored")
}

/// The numbers in (end, prev], which hold nothing.
fn voids(before: &Event, end: u64, prev: u64, most: usize) -> Result<Vec<Arc<Event>>> {
    (end + 1..=prev)
        .take(most)
        .map(|seq| {
            Ok(Arc::new(Event {
                room: before.room.clone(),
                seq: place(seq)?,
                prev: Some(place(seq - 1)?),
                at: before.at,
                from: None,
                id: None,
                body: EventBody::Void {},
            }))
        })
        .collect()
}
