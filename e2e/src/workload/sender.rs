//! A sender: makes acts at a pace that does not depend on the server, keeps each until it is acked, and sends it again,
//! with the same id, after every error, timeout and lost connection; sometimes also when it was acked long ago.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::Incoming;
use client::engine::Act;
use protocol::{ErrorCode, MessageId, ServerFrame, Subscribe, SubscribeRoom, UserId};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::acts::Acts;
use super::world::{Link, Phase, World, between, frame};
use crate::history::{Answer, Said, Sent, Try};
use crate::http::{self, HttpError};

/// Acts that may wait for their ack; while there are so many, no new one is made.
const OUTBOX_MAX: usize = 40;
/// No answer after this time is none.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The longest wait that a server can ask for here: outages are to be measured, not slept through.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Acts that are sent once more in the end.
const AGAIN_MAX: usize = 20;

/// How a sender behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// New acts per second.
    pub per_sec: f64,
    /// Whether it reads the rooms too.
    pub subscribes: bool,
}

pub struct Sender {
    world: Arc<World>,
    habits: Habits,
    user: UserId,
    random: StdRng,
    acts: Acts,
    sent: Vec<Sent>,
    by_id: HashMap<MessageId, usize>,
    /// What is to be sent, by its place in `sent`.
    outbox: BTreeMap<usize, Due>,
    /// Acked acts that will be sent once more.
    again: Vec<(Instant, usize)>,
    link: Option<Link>,
    /// When to leave the pod although nothing is wrong.
    leave_at: Instant,
    next_act: Instant,
    failures: u32,
    /// Answers over HTTP, and whether they are for a forgery.
    answers: mpsc::Receiver<(usize, bool, Answer)>,
    to_answers: mpsc::Sender<(usize, bool, Answer)>,
    is_last_round: bool,
}

/// When an act is to be sent next.
struct Due {
    at: Instant,
    /// Tries on this connection that were not answered.
    unanswered: u32,
}

impl Sender {
    pub fn new(world: Arc<World>, user: UserId, habits: Habits, mut random: StdRng) -> Self {
        let (to_answers, answers) = mpsc::channel(256);
        let now = Instant::now();
        Self {
            acts: Acts::new(user.clone()),
            sent: Vec::new(),
            by_id: HashMap::new(),
            outbox: BTreeMap::new(),
            again: Vec::new(),
            link: None,
            leave_at: now + stay(&mut random),
            // Not all in the same instant.
            next_act: now + between(&mut random, Duration::ZERO, pause(habits)),
            failures: 0,
            answers,
            to_answers,
            is_last_round: false,
            world,
            habits,
            user,
            random,
        }
    }

    /// Sends until the session ends; what became of everything.
    pub async fn run(mut self) -> Vec<Sent> {
        let mut phase = self.world.phase.clone();
        loop {
            let now = Instant::now();
            let deadline = match &*phase.borrow_and_update() {
                Phase::Sending => None,
                Phase::Draining(deadline) | Phase::Reading(_, deadline) => Some(*deadline),
            };
            if let Some(deadline) = deadline {
                if now >= deadline {
                    break;
                }
                if self.outbox.is_empty() && self.ends() {
                    break;
                }
            }
            let wake = self.wake_at(deadline);
            let Some(link) = &mut self.link else {
                tokio::select! {
                    () = self.connect() => {}
                    _ = phase.changed() => {}
                }
                continue;
            };
            tokio::select! {
                incoming = link.next() => self.take(incoming),
                Some((index, is_forgery, answer)) = self.answers.recv() => {
                    self.answer(index, is_forgery, answer);
                }
                () = sleep_until(wake) => self.tick(deadline.is_none()).await,
                // A sender that has its fault forgotten is no sender.
                _ = phase.changed() => {}
            }
        }
        if let Some(link) = self.link {
            link.close().await;
        }
        self.sent
    }

    /// Everything was acked: some of it is sent once more, then this is the end.
    fn ends(&mut self) -> bool {
        if self.is_last_round {
            return true;
        }
        self.is_last_round = true;
        let now = Instant::now();
        let is_acked = |index: &usize| self.sent[*index].first_ack().is_some();
        let mut acked: Vec<usize> = (0..self.sent.len()).filter(is_acked).collect();
        for _ in 0..AGAIN_MAX.min(acked.len()) {
            let index = acked.swap_remove(self.random.random_range(0..acked.len()));
            self.outbox.insert(
                index,
                Due {
                    at: now,
                    unanswered: 0,
                },
            );
        }
        self.outbox.is_empty()
    }

    fn wake_at(&self, deadline: Option<Instant>) -> Instant {
        let dues = self.outbox.values().map(|due| due.at);
        let again = self.again.iter().map(|(at, _)| *at);
        let end = deadline.unwrap_or(self.next_act);
        dues.chain(again).fold(end.min(self.leave_at), Instant::min)
    }

    async fn connect(&mut self) {
        match self.world.connect(&self.user, &mut self.random).await {
            Ok(link) => {
                self.failures = 0;
                self.leave_at = Instant::now() + stay(&mut self.random);
                self.link = Some(link);
                self.greet().await;
            }
            Err(_) => {
                self.failures += 1;
                let most = Duration::from_millis(50 << self.failures.min(4));
                tokio::time::sleep(between(&mut self.random, most / 2, most)).await;
            }
        }
    }

    /// On a new connection everything that is not acked is sent again.
    async fn greet(&mut self) {
        if self.habits.subscribes {
            let wanted = |room: &protocol::RoomId| SubscribeRoom {
                room: room.clone(),
                after: None,
            };
            let subscribe = protocol::ClientFrame::Subscribe(Subscribe {
                reference: None,
                rooms: self.world.rooms.iter().map(wanted).collect(),
            });
            if let Some(link) = &mut self.link
                && !link.say(&subscribe).await
            {
                self.link = None;
            }
        }
        let now = Instant::now();
        for due in self.outbox.values_mut() {
            *due = Due {
                at: now,
                unanswered: 0,
            };
        }
    }

    /// Does what is due.
    async fn tick(&mut self, makes_new: bool) {
        let now = Instant::now();
        if makes_new && now >= self.next_act {
            let pause = pause(self.habits);
            self.next_act = now + between(&mut self.random, pause / 2, pause * 3 / 2);
            if self.outbox.len() < OUTBOX_MAX {
                self.begin(now).await;
            }
        }
        if now >= self.leave_at {
            self.leave_at = now + stay(&mut self.random);
            if let Some(link) = self.link.take() {
                link.close().await;
            }
            return;
        }
        let outbox = &mut self.outbox;
        self.again.retain(|(at, index)| {
            if *at <= now {
                outbox.entry(*index).or_insert(Due {
                    at: now,
                    unanswered: 0,
                });
            }
            *at > now
        });
        let is_due = |(index, due): (&usize, &Due)| (due.at <= now).then_some(*index);
        let due: Vec<usize> = self.outbox.iter().filter_map(is_due).collect();
        for index in due {
            self.attempt(index).await;
        }
    }

    async fn begin(&mut self, now: Instant) {
        let room = self.world.room(&mut self.random);
        let act = self.acts.next(room, &mut self.random);
        let index = self.sent.len();
        self.by_id.insert(act.id(), index);
        self.sent.push(Sent {
            from: self.user.clone(),
            act,
            tries: Vec::new(),
            answers: Vec::new(),
            forgeries: Vec::new(),
        });
        self.outbox.insert(
            index,
            Due {
                at: now,
                unanswered: 0,
            },
        );
        if self.random.random_bool(0.03) {
            // A finger that slipped.
            self.attempt(index).await;
        }
    }

    /// Hands an act to a server, once more if need be.
    async fn attempt(&mut self, index: usize) {
        let Some(due) = self.outbox.get_mut(&index) else {
            return;
        };
        if due.unanswered > 0 && (due.unanswered > 1 || self.random.random_bool(0.5)) {
            // It does not answer: elsewhere, then.
            self.link = None;
        }
        let Some(link) = &mut self.link else {
            return;
        };
        due.unanswered += 1;
        due.at = Instant::now() + ANSWER_MAX;
        let sent = &mut self.sent[index];
        let is_known = !sent.tries.is_empty();
        let at = self.world.clock.now();
        if let (Act::Send(send), true) = (&sent.act, is_known && self.random.random_bool(0.2)) {
            let send = send.clone();
            self.over_http(index, send, false);
            return;
        }
        let via = link.pod.name.clone();
        sent.tries.push(Try { at, via });
        if !link.say(&frame(&sent.act)).await {
            self.link = None;
        }
    }

    /// Posts a message to any pod.
    fn over_http(&mut self, index: usize, send: protocol::Send, is_forgery: bool) {
        let pod = self.world.pod(&mut self.random);
        let Some(room) = send.room.clone() else {
            return;
        };
        if !is_forgery {
            let (at, via) = (self.world.clock.now(), pod.name.clone());
            self.sent[index].tries.push(Try { at, via });
        }
        let (world, user) = (self.world.clone(), self.user.clone());
        let answers = self.to_answers.clone();
        tokio::spawn(async move {
            let said = match world.http.send(&pod.address, &user, &room, &send).await {
                Ok(said) => said,
                // As good as no answer.
                Err(HttpError::Refused { .. } | HttpError::Broken(_)) => return,
            };
            let (at, via) = (world.clock.now(), pod.name);
            // The sender may have ended.
            let _ = answers
                .send((index, is_forgery, Answer { at, via, said }))
                .await;
        });
    }

    fn take(&mut self, incoming: Incoming) {
        let Some(link) = &self.link else {
            return;
        };
        let (at, via) = (self.world.clock.now(), link.pod.name.clone());
        let (id, said) = match incoming {
            Incoming::Closed { .. } => {
                self.link = None;
                return;
            }
            Incoming::Frame(ServerFrame::Ack {
                id,
                room,
                seq,
                at,
                duplicate,
            }) => (
                id,
                Said::Ack {
                    room,
                    seq,
                    at,
                    duplicate,
                },
            ),
            Incoming::Frame(ServerFrame::Error(error)) => {
                let Some(id) = error.id else {
                    return;
                };
                if let Some(wait) = error.retry_after_ms
                    && let Some(due) = self.by_id.get(&id).and_then(|i| self.outbox.get_mut(i))
                {
                    due.at = Instant::now() + Duration::from_millis(wait).min(WAIT_MAX);
                }
                let (code, message) = (error.code, error.message);
                (id, Said::Refused { code, message })
            }
            Incoming::Frame(ServerFrame::Goaway {
                reconnect_in_ms, ..
            }) => {
                let wait = Duration::from_millis(reconnect_in_ms).min(WAIT_MAX);
                self.leave_at = self.leave_at.min(Instant::now() + wait);
                return;
            }
            Incoming::Frame(_) | Incoming::Other => return,
        };
        if let Some(index) = self.by_id.get(&id) {
            self.answer(*index, false, Answer { at, via, said });
        }
    }

    fn answer(&mut self, index: usize, is_forgery: bool, answer: Answer) {
        if is_forgery {
            self.sent[index].forgeries.push(answer);
            return;
        }
        let now = Instant::now();
        let is_first = self.sent[index].first_ack().is_none();
        match &answer.said {
            Said::Ack { room, seq, .. } => {
                self.outbox.remove(&index);
                if is_first {
                    self.world.progress.acked(room, answer.at);
                    self.acts.acked(&self.sent[index].act, *seq);
                    self.plan_repetition(index, now);
                }
            }
            Said::Refused { code, .. } if code.is_retryable() => {
                if let Some(due) = self.outbox.get_mut(&index) {
                    // What the server asked for was noted when the refusal came in.
                    let least = if *code == ErrorCode::RateLimited {
                        500
                    } else {
                        50
                    };
                    let jitter = self.random.random_range(0..200);
                    let earliest = now + Duration::from_millis(least + jitter);
                    due.at = due.at.min(now + WAIT_MAX).max(earliest);
                    due.unanswered = 0;
                }
            }
            Said::Refused { .. } => {
                self.outbox.remove(&index);
            }
        }
        self.sent[index].answers.push(answer);
    }

    /// Some acts are sent again though they were acked: at once, a little later, much later. Some ids are tried with
    /// other content.
    fn plan_repetition(&mut self, index: usize, now: Instant) {
        let secs = match self.random.random_range(0..100) {
            0..4 => 0.0..0.5,
            4..7 => 2.0..10.0,
            7..9 => 15.0..60.0,
            9 => 60.0..180.0,
            10 => return self.forge(index),
            _ => return,
        };
        let wait = Duration::from_secs_f64(self.random.random_range(secs));
        self.again.push((now + wait, index));
    }

    fn forge(&mut self, index: usize) {
        if let Act::Send(send) = &self.sent[index].act
            && let Some(room) = &send.room
        {
            let forged = http::forged(room, send.id);
            self.over_http(index, forged, true);
        }
    }
}

/// How long a sender stays with a pod that works.
fn stay(random: &mut StdRng) -> Duration {
    between(random, Duration::from_secs(2), Duration::from_secs(30))
}

/// The mean time between two acts.
fn pause(habits: Habits) -> Duration {
    Duration::from_secs_f64(1.0 / habits.per_sec.max(0.01))
}
