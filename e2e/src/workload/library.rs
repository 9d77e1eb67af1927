//! The client library as a user of the session: it connects, resumes, mends holes and sends again by itself, through a
//! balancer, as behind the address of a service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::engine::{Act, Config, OutboxState, Saved};
use client::{Client, ClientConfig, Update};
use protocol::{MessageId, RoomId, Seq, SubscribeRoom, UserId};
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep_until};

use super::acts::Acts;
use super::balancer::Balancer;
use super::world::{Phase, World, between};
use crate::history::{Answer, Said, Sent, Source, Step, Try, View};

/// Acts on their way at a time; the library sends one per room.
const OUTBOX_MAX: usize = 6;
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(400));

pub struct Library {
    world: Arc<World>,
    user: UserId,
    random: StdRng,
    acts: Acts,
    sent: Vec<Sent>,
    waiting: BTreeMap<MessageId, usize>,
    views: BTreeMap<RoomId, View>,
    positions: BTreeMap<RoomId, Seq>,
}

impl Library {
    pub fn new(world: Arc<World>, user: UserId, random: StdRng) -> Self {
        let view = |room: &RoomId| View {
            reader: user.to_string(),
            source: Source::Library,
            room: room.clone(),
            after: Seq::ZERO,
            steps: Vec::new(),
            to_the_end: true,
        };
        Self {
            views: world
                .rooms
                .iter()
                .map(|room| (room.clone(), view(room)))
                .collect(),
            positions: BTreeMap::new(),
            acts: Acts::new(user.clone()),
            sent: Vec::new(),
            waiting: BTreeMap::new(),
            world,
            user,
            random,
        }
    }

    /// Sends and reads until the session ends.
    ///
    /// # Errors
    /// When there is no port for the balancer.
    pub async fn run(mut self) -> std::io::Result<(Vec<Sent>, Vec<View>)> {
        let balancer = Balancer::start(&self.world.pods).await?;
        let (handle, mut updates) = Client::connect(ClientConfig {
            url: balancer.address().socket_as(&self.user),
            engine: Config {
                connect_timeout_ms: 3000,
                request_timeout_ms: 3000,
                backoff_base_ms: 50,
                backoff_cap_ms: 500,
                ..Config::default()
            },
            saved: Saved::default(),
        });
        let wanted = |room: &RoomId| SubscribeRoom {
            room: room.clone(),
            after: Some(Seq::ZERO),
        };
        let rooms = self.world.rooms.iter().map(wanted).collect();
        let mut is_alive = handle.subscribe(rooms).await.is_ok();
        let mut phase = self.world.phase.clone();
        let mut next_act = Instant::now();
        while is_alive && !self.is_over() {
            let sends = matches!(&*phase.borrow_and_update(), Phase::Sending);
            let deadline = match &*self.world.phase.borrow() {
                Phase::Reading(_, deadline) => *deadline,
                _ => next_act,
            };
            tokio::select! {
                update = updates.next() => match update {
                    Some(update) => self.take(update),
                    None => is_alive = false,
                },
                () = sleep_until(next_act), if sends => {
                    next_act = Instant::now() + between(&mut self.random, PAUSE.0, PAUSE.1);
                    if self.waiting.len() < OUTBOX_MAX {
                        let act = self.begin();
                        is_alive = handle.submit(act).await.is_ok();
                    }
                }
                () = sleep_until(deadline), if !sends => next_act = Instant::now() + PAUSE.1,
                _ = phase.changed() => {}
            }
        }
        if is_alive {
            // What it has saved is of no use any more.
            let _ = handle.close().await;
        }
        Ok((self.sent, self.views.into_values().collect()))
    }

    fn is_over(&self) -> bool {
        let phase = self.world.phase.borrow();
        let Phase::Reading(heads, deadline) = &*phase else {
            return false;
        };
        let is_there = |(room, head): (&RoomId, &Seq)| {
            self.positions
                .get(room)
                .is_some_and(|position| position >= head)
        };
        let is_done = self.waiting.is_empty() && heads.iter().all(is_there);
        Instant::now() >= *deadline || is_done
    }

    fn begin(&mut self) -> Act {
        let room = self.world.room(&mut self.random);
        let act = self.acts.next(room, &mut self.random);
        self.waiting.insert(act.id(), self.sent.len());
        self.sent.push(Sent {
            from: self.user.clone(),
            act: act.clone(),
            tries: vec![Try {
                at: self.world.clock.now(),
                via: "library".into(),
            }],
            answers: Vec::new(),
            forgeries: Vec::new(),
        });
        act
    }

    fn take(&mut self, update: Update) {
        let at = self.world.clock.now();
        let (room, step) = match update {
            Update::Event(event) => {
                self.positions.insert(event.room.clone(), event.seq);
                let event = self.world.events.share(event);
                (event.room.clone(), Step::Shown { at, event })
            }
            Update::ResetRoom {
                room,
                position,
                head,
            } => {
                let reason = format!("the library forgot the room: {position} of {head}");
                (room, Step::Closed { at, reason })
            }
            Update::RoomClosed {
                room,
                reason,
                message,
            } => {
                let reason = format!("the library gave the room up: {reason:?} {message:?}");
                (room, Step::Closed { at, reason })
            }
            Update::Outbox { id, state } => return self.outbox(id, state),
            Update::Status(_) | Update::Lost { .. } | Update::Signal(_) => return,
        };
        if let Some(view) = self.views.get_mut(&room) {
            view.steps.push(step);
        }
    }

    fn outbox(&mut self, id: MessageId, state: OutboxState) {
        let at = self.world.clock.now();
        let Some(index) = self.waiting.get(&id).copied() else {
            return;
        };
        let said = match state {
            OutboxState::Sent {
                room,
                seq,
                at: time,
                duplicate,
            } => {
                self.waiting.remove(&id);
                self.world.progress.acked(&room, at);
                self.acts.acked(&self.sent[index].act, seq);
                Said::Ack {
                    room,
                    seq,
                    at: time,
                    duplicate,
                }
            }
            OutboxState::Failed { code, message } => {
                self.waiting.remove(&id);
                let message = format!("{code}: {message}");
                Said::Refused {
                    code: protocol::ErrorCode::Internal,
                    message,
                }
            }
            OutboxState::Waiting { code, .. } => Said::Refused {
                code,
                message: String::new(),
            },
            OutboxState::Queued | OutboxState::Sending => return,
        };
        let via = "library".into();
        self.sent[index].answers.push(Answer { at, via, said });
    }
}
