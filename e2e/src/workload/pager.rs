//! A reader of pages over HTTP: walks through the logs, forward and backward, in pages of any size.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Event, RoomId, Seq, UserId};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::world::{Phase, Pod, World, between};
use crate::history::{Source, Step, View};
use crate::http::HttpError;

/// Pages of one walk.
const PAGES_MAX: usize = 12;
/// A room that one pod has is known to all of them by then.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
/// Attempts to get a page before the walk is given up.
const TRIES_MAX: u32 = 20;

pub struct Pager {
    world: Arc<World>,
    user: UserId,
    random: StdRng,
    views: Vec<View>,
    /// When a room was first read.
    found: BTreeMap<RoomId, Instant>,
}

impl Pager {
    pub fn new(world: Arc<World>, user: UserId, random: StdRng) -> Self {
        let views = Vec::new();
        Self {
            world,
            user,
            random,
            views,
            found: BTreeMap::new(),
        }
    }

    /// Walks until nothing is sent any more; everything that was seen.
    pub async fn run(mut self) -> Vec<View> {
        while !matches!(&*self.world.phase.borrow(), Phase::Reading(..)) {
            let room = self.world.room(&mut self.random);
            if self.random.random_bool(0.6) {
                self.forward(&room).await;
            } else {
                self.backward(&room).await;
            }
            sleep(between(&mut self.random, PAUSE.0, PAUSE.1)).await;
        }
        self.views
    }

    /// From somewhere to the end, by seqs or by cursors.
    async fn forward(&mut self, room: &RoomId) {
        let Some((_, head, _)) = self.page(room, "limit=1").await else {
            return;
        };
        let from = head.get().saturating_sub(self.random.random_range(0..600));
        let begin = if self.random.random_bool(0.3) {
            0
        } else {
            from
        };
        // A position in a range that a fence closed follows nothing; the one after it is found by reading.
        let begin = if head.get() >> 32 == begin >> 32 {
            Seq::new(begin)
        } else {
            Ok(Seq::ZERO)
        };
        let after = begin.unwrap_or_default();
        let mut view = self.view(room, after);
        let mut position = after;
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let limit = self.random.random_range(1..=200);
            let query = match cursor.take() {
                Some(cursor) => format!("after={after}&limit={limit}&cursor={cursor}"),
                None => format!("after={position}&limit={limit}"),
            };
            let Some((events, head, next)) = self.page(room, &query).await else {
                break;
            };
            if events.is_empty() && position < head {
                let at = self.world.clock.now();
                view.steps.push(Step::Stuck { at, head });
                break;
            }
            let is_end = next.is_none();
            position = events
                .last()
                .map_or(position, |event| event.seq.max(position));
            self.note(&mut view, events);
            if is_end {
                break;
            }
            cursor = next.filter(|_| self.random.random_bool(0.5));
        }
        self.views.push(view);
    }

    /// From the end some pages back. Pages that join become one view.
    async fn backward(&mut self, room: &RoomId) {
        let mut pages: Vec<Vec<Arc<Event>>> = Vec::new();
        let mut before: Option<Seq> = None;
        for _ in 0..PAGES_MAX / 3 {
            let limit = self.random.random_range(1..=200);
            let end = before.unwrap_or(Seq::MAX);
            let query = format!("before={end}&limit={limit}");
            let Some((events, ..)) = self.page(room, &query).await else {
                break;
            };
            let Some(first) = events.first() else {
                break;
            };
            before = Some(first.seq);
            pages.push(events);
        }
        let Some(first) = pages.last().and_then(|page| page.first()) else {
            return;
        };
        // What stands before a fence is not known from here.
        let after = first.prev.unwrap_or(first.seq.before());
        let mut view = self.view(room, after);
        for events in pages.into_iter().rev() {
            self.note(&mut view, events);
        }
        self.views.push(view);
    }

    fn view(&self, room: &RoomId, after: Seq) -> View {
        View {
            reader: self.user.to_string(),
            source: Source::Pages,
            room: room.clone(),
            after,
            steps: Vec::new(),
            to_the_end: false,
        }
    }

    fn note(&self, view: &mut View, events: Vec<Arc<Event>>) {
        let at = self.world.clock.now();
        let shown = events.into_iter().map(|event| Step::Shown {
            at,
            event: self.world.events.share(event),
        });
        view.steps.extend(shown);
    }

    /// A page of any pod, asked for again while the answer is to do so.
    async fn page(
        &mut self,
        room: &RoomId,
        query: &str,
    ) -> Option<(Vec<Arc<Event>>, Seq, Option<String>)> {
        for _ in 0..TRIES_MAX {
            if matches!(&*self.world.phase.borrow(), Phase::Reading(..)) {
                return None;
            }
            let Pod { address, name } = self.world.pod(&mut self.random);
            match self
                .world
                .http
                .events(&address, &self.user, room, query)
                .await
            {
                Ok(page) => {
                    self.found.entry(room.clone()).or_insert_with(Instant::now);
                    return Some((page.items, page.head, page.next));
                }
                // The room is made by those who write to it.
                Err(HttpError::Refused {
                    code: protocol::ErrorCode::NotFound,
                    ..
                }) if self
                    .found
                    .get(room)
                    .is_none_or(|at| at.elapsed() < KNOWN_WITHIN) => {}
                Err(error) if error.is_retryable() => {}
                Err(error) => {
                    let mut view = self.view(room, Seq::ZERO);
                    let at = self.world.clock.now();
                    let reason = format!("{name} refused ?{query}: {error}");
                    view.steps.push(Step::Closed { at, reason });
                    self.views.push(view);
                    return None;
                }
            }
            sleep(between(&mut self.random, PAUSE.0, PAUSE.1)).await;
        }
        None
    }
}

const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(400));
