//! Walks through a room's log: which part a request asks for, and the events of it that are wanted.

use std::sync::Arc;

use backend::Log;
use protocol::{Event, EventBody, RoomId, Seq, Timestamp};
use rest::{Refusal, cursor};
use serde::{Deserialize, Serialize};

/// The most events one request looks at. A page may come out short, or empty, where hardly any are wanted; its `next`
/// goes on behind them.
const EVENTS_SEEN_MAX: usize = 4_000;
/// The most events read at once.
const READ_MAX: usize = 500;

/// Where a walk begins and which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Up from here, this one not included.
    After(Seq),
    /// Down from here, this one not included.
    Before(Seq),
}

/// The part of a log that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Nothing at or below this.
    pub floor: Seq,
    /// Nothing at or above this.
    pub ceiling: Option<Seq>,
}

/// How a request says which part it wants.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    pub after: Option<Seq>,
    pub before: Option<Seq>,
    pub around: Option<Seq>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub cursor: Option<&'a str>,
}

/// What was found, ascending, and where to go on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub events: Vec<Arc<Event>>,
    pub next: Option<Start>,
    /// The end of what could be read.
    pub head: Seq,
}

impl Found {
    /// The opaque form of `next`.
    pub fn cursor(&self) -> Option<String> {
        self.next.as_ref().map(cursor::encode)
    }
}

/// A walk through one room's log.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    log: &'a dyn Log,
    room: &'a RoomId,
    /// Which events are wanted.
    wanted: fn(&EventBody) -> bool,
    window: Window,
}

impl<'a> Walk<'a> {
    /// A walk through the part that was asked for.
    pub async fn new(
        log: &'a dyn Log,
        room: &'a RoomId,
        wanted: fn(&EventBody) -> bool,
        asked: &Asked<'_>,
    ) -> Result<Self, Refusal> {
        let mut floor = asked.after.unwrap_or_default();
        let mut ceiling = asked.before;
        if let Some(since) = asked.since {
            floor = floor.max(log.first_at(room, since).await?.before());
        }
        if let Some(until) = asked.until {
            let end = log.first_at(room, until).await?;
            ceiling = Some(ceiling.map_or(end, |ceiling| ceiling.min(end)));
        }
        let window = Window { floor, ceiling };
        Ok(Self {
            log,
            room,
            wanted,
            window,
        })
    }

    /// Takes the page that was asked for: what the cursor names, else what lies around a seq, else the first of the
    /// part if its beginning was named (or `from_start`), else the last.
    pub async fn page(
        &self,
        asked: &Asked<'_>,
        from_start: bool,
        limit: usize,
    ) -> Result<Found, Refusal> {
        if let Some(text) = asked.cursor {
            return self.go(cursor::decode(text)?, limit).await;
        }
        if let Some(middle) = asked.around {
            return self.around(middle, limit).await;
        }
        let has_floor = asked.after.is_some() || asked.since.is_some();
        let has_ceiling = asked.before.is_some() || asked.until.is_some();
        let start = if has_floor || (from_start && !has_ceiling) {
            Start::After(self.window.floor)
        } else {
            Start::Before(Seq::MAX)
        };
        self.go(start, limit).await
    }

    async fn go(&self, start: Start, limit: usize) -> Result<Found, Refusal> {
        match start {
            Start::After(after) => self.up(after.max(self.window.floor), limit).await,
            Start::Before(before) => {
                let before = self.window.ceiling.map_or(before, |end| end.min(before));
                self.down(before, limit).await
            }
        }
    }

    /// Half of the page from below the middle, the rest from the middle on. It goes on in both directions, by `before`
    /// and `after`, so it has no `next`.
    async fn around(&self, middle: Seq, limit: usize) -> Result<Found, Refusal> {
        let mut events = match limit / 2 {
            0 => Vec::new(),
            half => self.go(Start::Before(middle), half).await?.events,
        };
        let rest = limit - events.len();
        let above = self.go(Start::After(middle.before()), rest).await?;
        events.extend(above.events);
        Ok(Found {
            events,
            next: None,
            head: above.head,
        })
    }

    async fn up(&self, mut after: Seq, limit: usize) -> Result<Found, Refusal> {
        let mut found = Found::default();
        let mut seen = 0;
        loop {
            let page = self.log.read(self.room, after, batch(limit, seen)).await?;
            found.head = page.head;
            let Some(last) = page.events.last() else {
                return Ok(found);
            };
            let end = last.seq;
            seen += page.events.len();
            for event in page.events {
                if self.window.ceiling.is_some_and(|end| event.seq >= end) {
                    return Ok(found);
                }
                after = event.seq;
                if (self.wanted)(&event.body) {
                    found.events.push(event);
                }
                if found.events.len() == limit {
                    break;
                }
            }
            if after == end && end >= page.head {
                return Ok(found);
            }
            if found.events.len() == limit || seen >= EVENTS_SEEN_MAX {
                found.next = Some(Start::After(after));
                return Ok(found);
            }
        }
    }

    async fn down(&self, mut before: Seq, limit: usize) -> Result<Found, Refusal> {
        let mut found = Found::default();
        let mut seen = 0;
        'walk: loop {
            let read = batch(limit, seen);
            let page = self.log.read_before(self.room, before, read).await?;
            found.head = page.head;
            seen += page.events.len();
            // The lowest event of a log has nothing before it.
            let is_last = page
                .events
                .first()
                .is_none_or(|first| first.prev == Some(Seq::ZERO));
            let lowest = page.events.first().map(|first| first.seq);
            for event in page.events.into_iter().rev() {
                if event.seq <= self.window.floor {
                    break 'walk;
                }
                before = event.seq;
                if (self.wanted)(&event.body) {
                    found.events.push(event);
                }
                if found.events.len() == limit {
                    break;
                }
            }
            if is_last && lowest.is_none_or(|lowest| lowest == before) {
                break;
            }
            if found.events.len() == limit || seen >= EVENTS_SEEN_MAX {
                if before > self.window.floor.next() {
                    found.next = Some(Start::Before(before));
                }
                break;
            }
        }
        found.events.reverse();
        Ok(found)
    }
}

/// Little at first, because most of a log is messages, and more where it is not.
fn batch(limit: usize, seen: usize) -> usize {
    let wish = if seen == 0 {
        limit + limit / 4 + 1
    } else {
        READ_MAX
    };
    wish.min(READ_MAX)
}

/// Whether this is somebody's words.
pub fn is_message(body: &EventBody) -> bool {
    matches!(body, EventBody::Message { .. })
}

/// Whether this is anything at all.
pub fn is_any(_: &EventBody) -> bool {
    true
}
