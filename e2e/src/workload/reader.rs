//! A reader over sockets: keeps a position per room and nothing else, and writes down everything it is shown, with all
//! mistakes. It mends nothing: what a server leaves out stays out of the view.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client::Incoming;
use protocol::{
    ClientFrame, NoticeKind, RoomId, Seq, ServerFrame, Subscribe, SubscribeRoom, UserId,
};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::world::{Link, Phase, World, between};
use crate::history::{Clock, Leave, Micros, Source, Step, View, Why};

/// A head that was announced and does not come within this time, on a connection that is alive, will not come.
const STUCK_AFTER: Duration = Duration::from_secs(6);
/// How long a subscription may be without an answer, on a connection that is alive.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How a reader behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Stays where it is while that works.
    Steady,
    /// Leaves all the time, and sometimes reads again from where it was long ago, or only what comes from now on.
    Restless,
    /// Does not read at all for some seconds at a time.
    Slow,
    /// One of a crowd: stays, moves when it is asked to, and waits before it comes back, all as the protocol wants it.
    Moving,
    /// The same, but it does not listen when it is asked to move, and stays until it is closed.
    Staying,
}

impl Habit {
    fn is_of_a_crowd(self) -> bool {
        matches!(self, Self::Moving | Self::Staying)
    }
}

pub struct Reader {
    world: Arc<World>,
    user: UserId,
    habit: Habit,
    random: StdRng,
    views: BTreeMap<RoomId, Reading>,
    done: Vec<View>,
    /// Counts the `ref`s.
    asked: u64,
    /// Of a crowd: the connection that was left last, while there is none in its place.
    left: Option<Leave>,
    /// The connection that it was asked to leave, which goes on until there is another.
    former: Option<Former>,
    has_come: bool,
}

/// The view of a room that is being written.
struct Reading {
    view: View,
    /// Everything up to here was shown.
    position: Seq,
    subscription: Subscription,
    /// The head that was announced, and since when nothing has come.
    announced: Option<(Seq, Instant)>,
}

enum Subscription {
    /// To be asked for, not before a time.
    None(Instant),
    /// To be asked for somewhere else, while it is live.
    Changing(Option<Seq>),
    Asked {
        reference: String,
        wants: Wants,
        until: Instant,
    },
    Live,
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    /// At the position, which is this one: the view goes on.
    More(Seq),
    /// Somewhere else: another view begins.
    Other(Option<Seq>),
}

/// Why a connection was left.
enum Left {
    /// With the code, when it was closed.
    Broken(Option<u16>),
    Restless,
    Asked,
    TheEnd,
}

/// A connection that is read until there is another, only to know whether it lasts as long.
struct Former {
    reading: JoinHandle<()>,
    lost: Arc<OnceLock<Micros>>,
}

impl Former {
    fn keep(mut link: Link, clock: Clock) -> Self {
        let lost = Arc::new(OnceLock::new());
        let at = Arc::clone(&lost);
        let reading = tokio::spawn(async move {
            while !matches!(link.next().await, Incoming::Closed { .. }) {}
            let _ = at.set(clock.now());
        });
        Self { reading, lost }
    }

    /// When it ended, if it has.
    fn lost(&self) -> Option<Micros> {
        self.lost.get().copied()
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Reader {
    pub fn new(
        world: Arc<World>,
        user: UserId,
        habit: Habit,
        rooms: &[RoomId],
        random: StdRng,
    ) -> Self {
        let now = Instant::now();
        let views = rooms.iter().map(|room| {
            let view = View {
                reader: user.to_string(),
                source: Source::Socket,
                room: room.clone(),
                after: Seq::ZERO,
                steps: Vec::new(),
                to_the_end: false,
            };
            let reading = Reading {
                view,
                position: Seq::ZERO,
                subscription: Subscription::None(now),
                announced: None,
            };
            (room.clone(), reading)
        });
        Self {
            views: views.collect(),
            done: Vec::new(),
            asked: 0,
            left: None,
            former: None,
            has_come: false,
            world,
            user,
            habit,
            random,
        }
    }

    /// Reads until the session ends; everything that was seen.
    pub async fn run(mut self) -> Vec<View> {
        let mut failures = 0;
        while !self.is_over() {
            match self.world.connect(&self.user, &mut self.random).await {
                Ok(link) => {
                    failures = 0;
                    let (link, left) = self.serve(link).await;
                    self.leaves(&left);
                    match left {
                        Left::TheEnd => break,
                        Left::Asked => self.former = Some(Former::keep(link, self.world.clock)),
                        Left::Restless if self.random.random_bool(0.5) => link.close().await,
                        Left::Restless => drop(link),
                        Left::Broken(_) => {
                            drop(link);
                            self.wait_after(failures).await;
                        }
                    }
                }
                Err(_) => {
                    failures += 1;
                    self.wait_after(failures).await;
                }
            }
        }
        // Who has read everything was not away, whatever the last connection was at.
        let back = self.has_all().then(|| self.world.clock.now());
        self.comes_back(back);
        let mut views = self.done;
        for (_, reading) in self.views {
            let to_the_end = true;
            views.push(View {
                to_the_end,
                ..reading.view
            });
        }
        views
    }

    /// Writes down that a connection is left, if this is one of a crowd.
    fn leaves(&mut self, left: &Left) {
        let why = match left {
            Left::Broken(Some(code)) => Why::Closed(*code),
            Left::Broken(None) => Why::Broken,
            Left::Asked => Why::Asked,
            Left::Restless | Left::TheEnd => return,
        };
        if self.habit.is_of_a_crowd() {
            let at = self.world.clock.now();
            // Who is away already is so since then.
            self.left.get_or_insert(Leave {
                at,
                why,
                without: (why != Why::Asked).then_some(at),
                back: None,
            });
        }
    }

    /// Waits before the next attempt, after so many that failed.
    async fn wait_after(&mut self, failures: u32) {
        let (least, most) = if self.habit.is_of_a_crowd() {
            let most = Duration::from_millis(250 << failures.min(7));
            (Duration::ZERO, most.min(BACKOFF_MAX))
        } else if failures == 0 {
            return;
        } else {
            let most = Duration::from_millis(100 << failures.min(3));
            (most / 2, most)
        };
        sleep(between(&mut self.random, least, most)).await;
    }

    /// Whether there is nothing left to read, or no time left.
    fn is_over(&self) -> bool {
        let phase = self.world.phase.borrow();
        let Phase::Reading(_, deadline) = &*phase else {
            return false;
        };
        Instant::now() >= *deadline || self.has_all()
    }

    /// Whether everything was read that there will be.
    fn has_all(&self) -> bool {
        let phase = self.world.phase.borrow();
        let Phase::Reading(heads, _) = &*phase else {
            return false;
        };
        let is_there = |(room, reading): (&RoomId, &Reading)| {
            heads.get(room).is_none_or(|head| reading.position >= *head)
        };
        self.views.iter().all(is_there)
    }

    /// One connection.
    async fn serve(&mut self, mut link: Link) -> (Link, Left) {
        let begun = Instant::now();
        for reading in self.views.values_mut() {
            reading.subscription = Subscription::None(begun);
            reading.announced = None;
        }
        let mut change_at = begun + self.stay();
        let mut is_asked = false;
        let mut heard_at = begun;
        let mut phase = self.world.phase.clone();
        loop {
            if self.is_over() {
                return (link, Left::TheEnd);
            }
            let is_reading = matches!(&*phase.borrow_and_update(), Phase::Reading(..));
            let now = Instant::now();
            if now >= heard_at + link.silence_max() || self.is_unanswered(now) || self.is_stuck(now)
            {
                return (link, Left::Broken(None));
            }
            if is_asked && now >= change_at {
                return (link, Left::Asked);
            }
            if now >= change_at && !is_reading {
                change_at = now + self.stay();
                match self.habit {
                    Habit::Steady | Habit::Moving | Habit::Staying => {}
                    Habit::Slow => {
                        let pause = between(&mut self.random, PAUSE.0, PAUSE.1);
                        sleep(pause).await;
                        // It was this side that did not listen.
                        heard_at = Instant::now();
                        for reading in self.views.values_mut() {
                            reading.announced = None;
                            if let Subscription::Asked { until, .. } = &mut reading.subscription {
                                *until += pause;
                            }
                        }
                    }
                    Habit::Restless if self.random.random_bool(0.3) => self.begin_anew(),
                    Habit::Restless => return (link, Left::Restless),
                }
            }
            if !self.subscribe(&mut link, now).await {
                return (link, Left::Broken(None));
            }
            let wake = self.wake_at(heard_at + link.silence_max(), change_at);
            tokio::select! {
                incoming = link.next() => {
                    heard_at = Instant::now();
                    match incoming {
                        Incoming::Closed { code, .. } => return (link, Left::Broken(code)),
                        Incoming::Frame(ServerFrame::Goaway { reconnect_in_ms, .. })
                            if self.habit == Habit::Moving =>
                        {
                            is_asked = true;
                            change_at = heard_at + Duration::from_millis(reconnect_in_ms);
                        }
                        Incoming::Frame(frame) => self.take(&link, frame),
                        Incoming::Other => {}
                    }
                }
                () = sleep_until(wake) => {}
                _ = phase.changed() => {}
            }
        }
    }

    fn stay(&mut self) -> Duration {
        let (least, most) = match self.habit {
            Habit::Steady | Habit::Moving | Habit::Staying => (20.0, 60.0),
            Habit::Restless => (0.2, 4.0),
            Habit::Slow => (1.0, 5.0),
        };
        Duration::from_secs_f64(self.random.random_range(least..most))
    }

    fn wake_at(&self, silence: Instant, change_at: Instant) -> Instant {
        let mut wake = silence.min(change_at);
        if let Phase::Reading(_, deadline) = &*self.world.phase.borrow() {
            wake = wake.min(*deadline);
        }
        for reading in self.views.values() {
            wake = wake.min(match &reading.subscription {
                Subscription::None(at) => *at,
                Subscription::Asked { until, .. } => *until,
                Subscription::Changing(_) | Subscription::Live => wake,
            });
            if let Some((_, since)) = reading.announced {
                wake = wake.min(since + STUCK_AFTER);
            }
        }
        wake
    }

    /// Reads one room again from somewhere else, on the same connection.
    fn begin_anew(&mut self) {
        let room = self.world.room(&mut self.random);
        let Some(reading) = self.views.get_mut(&room) else {
            return;
        };
        if !matches!(reading.subscription, Subscription::Live) {
            return;
        }
        let shown = &reading.view.steps;
        let after = match shown.get(self.random.random_range(0..shown.len().max(1))) {
            Some(Step::Shown { event, .. }) if self.random.random_bool(0.6) => Some(event.seq),
            _ => None,
        };
        reading.subscription = Subscription::Changing(after);
    }

    /// Asks for every room that is not subscribed to. False when the connection is broken.
    async fn subscribe(&mut self, link: &mut Link, now: Instant) -> bool {
        let mut rooms = Vec::new();
        self.asked += 1;
        for (room, reading) in &mut self.views {
            let wants = match &reading.subscription {
                Subscription::None(at) if *at <= now => Wants::More(reading.position),
                Subscription::Changing(after) => Wants::Other(*after),
                _ => continue,
            };
            let after = match wants {
                Wants::More(position) => Some(position),
                Wants::Other(after) => after,
            };
            reading.subscription = Subscription::Asked {
                reference: self.asked.to_string(),
                wants,
                until: now + ANSWER_MAX,
            };
            rooms.push(SubscribeRoom {
                room: room.clone(),
                after,
            });
        }
        if rooms.is_empty() {
            return true;
        }
        let reference = Some(self.asked.to_string());
        link.say(&ClientFrame::Subscribe(Subscribe { reference, rooms }))
            .await
    }

    fn take(&mut self, link: &Link, frame: ServerFrame) {
        let at = self.world.clock.now();
        let now = Instant::now();
        match frame {
            ServerFrame::Event(event) => {
                if let Some(reading) = self.views.get_mut(&event.room) {
                    reading.position = reading.position.max(event.seq);
                    if let Some((head, since)) = &mut reading.announced {
                        *since = now;
                        if *head <= event.seq {
                            reading.announced = None;
                        }
                    }
                    let event = self.world.events.share(event);
                    reading.view.steps.push(Step::Shown { at, event });
                }
            }
            ServerFrame::Subscribed(answer) => self.subscribed(link, &answer),
            ServerFrame::Error(error) => {
                let about = |reading: &Reading| match &reading.subscription {
                    Subscription::Asked { reference, .. } => {
                        Some(reference) == error.reference.as_ref()
                    }
                    _ => false,
                };
                for (room, reading) in &mut self.views {
                    if !about(reading) || error.room.as_ref().is_some_and(|meant| meant != room) {
                        continue;
                    }
                    if !error.code.is_retryable() {
                        let reason = format!("{}: {}", error.code.as_str(), error.message);
                        reading.view.steps.push(Step::Closed { at, reason });
                    }
                    let wait =
                        Duration::from_millis(error.retry_after_ms.unwrap_or(200).clamp(50, 1000));
                    reading.subscription = Subscription::None(now + wait);
                }
            }
            ServerFrame::Heads { rooms } => {
                for (room, head) in rooms {
                    if let Some(reading) = self.views.get_mut(&room)
                        && matches!(reading.subscription, Subscription::Live)
                        && reading.position < head
                    {
                        let since = reading.announced.map_or(now, |(_, since)| since);
                        reading.announced = Some((head, since));
                    }
                }
            }
            ServerFrame::Notice {
                kind: kind @ (NoticeKind::RoomRemoved | NoticeKind::RoomDeleted),
                room: Some(room),
            } => {
                if let Some(reading) = self.views.get_mut(&room) {
                    let reason = format!("a notice of {kind:?}");
                    reading.view.steps.push(Step::Closed { at, reason });
                }
            }
            _ => {}
        }
    }

    fn subscribed(&mut self, link: &Link, answer: &protocol::Subscribed) {
        let at = self.world.clock.now();
        let Some(reading) = self.views.get_mut(&answer.room) else {
            return;
        };
        let Subscription::Asked {
            reference, wants, ..
        } = &reading.subscription
        else {
            return;
        };
        if Some(reference) != answer.reference.as_ref() {
            return;
        }
        let asked = match *wants {
            Wants::More(position) => position,
            Wants::Other(after) => {
                let after = after.unwrap_or(answer.after);
                let next = View {
                    after,
                    steps: Vec::new(),
                    reader: reading.view.reader.clone(),
                    source: Source::Socket,
                    room: answer.room.clone(),
                    to_the_end: false,
                };
                self.done.push(std::mem::replace(&mut reading.view, next));
                after
            }
        };
        reading.subscription = Subscription::Live;
        reading.announced = None;
        reading.position = asked;
        reading.view.steps.push(Step::Resumed {
            at,
            via: link.pod.name.clone(),
            asked,
            after: answer.after,
            head: answer.head,
        });
        let is_live = |reading: &Reading| matches!(reading.subscription, Subscription::Live);
        if self.habit.is_of_a_crowd() && self.views.values().all(is_live) {
            if !std::mem::replace(&mut self.has_come, true) {
                self.world.arrived.send_modify(|count| *count += 1);
            }
            self.comes_back(Some(at));
        }
    }

    /// Writes down that there is a connection again, if there was one before, or that there is none to the end.
    fn comes_back(&mut self, back: Option<Micros>) {
        let lost = self.former.take().and_then(|former| former.lost());
        let left = self.left.take().map(|leave| Leave {
            without: leave.without.or(lost),
            back,
            ..leave
        });
        self.world.leaves.extend(left);
    }

    /// Writes down that a subscription waits for too long. To ask again on the same connection would be answered twice.
    fn is_unanswered(&mut self, now: Instant) -> bool {
        let at = self.world.clock.now();
        let mut is_unanswered = false;
        for reading in self.views.values_mut() {
            if let Subscription::Asked { until, .. } = reading.subscription
                && until <= now
            {
                reading.view.steps.push(Step::Unanswered { at });
                is_unanswered = true;
            }
        }
        is_unanswered
    }

    /// Writes down that something announced did not come.
    fn is_stuck(&mut self, now: Instant) -> bool {
        let at = self.world.clock.now();
        let mut is_stuck = false;
        for reading in self.views.values_mut() {
            let stuck = reading
                .announced
                .filter(|(_, since)| now >= *since + STUCK_AFTER);
            if let Some((head, _)) = stuck {
                reading.view.steps.push(Step::Stuck { at, head });
                reading.announced = None;
                is_stuck = true;
            }
        }
        is_stuck
    }
}

/// The longest wait between two attempts to come back.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a slow reader does not read.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(3500));
