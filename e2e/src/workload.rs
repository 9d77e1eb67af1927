//! The clients of a session: senders and readers of many habits, over all pods, and how they begin and end together.

mod acts;
mod balancer;
mod library;
mod pager;
mod reader;
mod sender;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use protocol::{Event, RoomId, Seq, UserId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::history::{Clock, History, Injection, Sent, Source, Step, View};
use crate::http::Http;
use library::Library;
use pager::Pager;
use reader::{Habit, Reader};
use sender::{Habits, Sender};
use world::{Events, Leaves, Progress};

pub use world::{Phase, Pod, World};

/// Between the clients of a crowd when they come: their joins are writes.
const ARRIVAL: Duration = Duration::from_millis(15);

/// How many clients of which kind, and how busy they are.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// A word that makes the names of rooms and users this session's own.
    pub name: String,
    pub rooms: usize,
    pub senders: usize,
    /// New acts per second, all senders together.
    pub per_sec: f64,
    /// Readers over sockets; every third one is steady, restless, slow.
    pub readers: usize,
    pub pagers: usize,
    /// Users of the client library, who send and read.
    pub libraries: usize,
    /// Readers of one room each, who only stay connected; every fourth waits to be closed when a server leaves.
    pub crowd: usize,
    /// How long everything may take to be answered, and then to be read, when all is whole again.
    pub patience: Duration,
}

impl Plan {
    /// A plan for a small machine.
    #[must_use]
    pub fn new(seed: u64, name: impl Into<String>) -> Self {
        Self {
            seed,
            name: name.into(),
            rooms: 4,
            senders: 10,
            per_sec: 100.0,
            readers: 6,
            pagers: 1,
            libraries: 1,
            crowd: 0,
            patience: Duration::from_secs(60),
        }
    }
}

/// Clients at work.
pub struct Workload {
    world: Arc<World>,
    phase: watch::Sender<Phase>,
    patience: Duration,
    crowd: usize,
    judge: UserId,
    senders: JoinSet<Vec<Sent>>,
    readers: JoinSet<Vec<View>>,
    libraries: JoinSet<std::io::Result<(Vec<Sent>, Vec<View>)>>,
    begun: u64,
}

impl Workload {
    /// Starts all clients.
    ///
    /// # Errors
    /// When the plan's name does not fit into names of rooms and users.
    pub fn start(plan: &Plan, pods: Vec<Pod>) -> Result<Self> {
        ensure!(!pods.is_empty(), "there is no pod to talk to");
        let room = |n| RoomId::parse(&format!("{}-{n}", plan.name));
        let user = |kind: &str, n: usize| UserId::parse(&format!("{}-{kind}-{n}", plan.name));
        let (phase, watched) = watch::channel(Phase::Sending);
        let world = Arc::new(World {
            clock: Clock::start(),
            pods,
            rooms: (0..plan.rooms.max(1)).map(room).collect::<Result<_, _>>()?,
            http: Http::default(),
            phase: watched,
            progress: Progress::default(),
            events: Events::default(),
            leaves: Leaves::default(),
            arrived: watch::Sender::new(0),
        });
        let random = |user: &UserId| World::random(plan.seed, user.as_str());
        let (mut senders, mut readers) = (JoinSet::new(), JoinSet::new());
        let mut libraries = JoinSet::new();
        for n in 0..plan.senders {
            let user = user("sender", n)?;
            let habits = Habits {
                per_sec: plan.per_sec / plan.senders as f64,
                subscribes: n % 2 == 0,
            };
            let random = random(&user);
            senders.spawn(Sender::new(world.clone(), user, habits, random).run());
        }
        for n in 0..plan.readers {
            let user = user("reader", n)?;
            let habit = [Habit::Steady, Habit::Restless, Habit::Slow][n % 3];
            let random = random(&user);
            readers.spawn(Reader::new(world.clone(), user, habit, &world.rooms, random).run());
        }
        for n in 0..plan.crowd {
            let user = user("crowd", n)?;
            let habit = if n % 4 == 3 {
                Habit::Staying
            } else {
                Habit::Moving
            };
            let random = random(&user);
            let room = &world.rooms[n % world.rooms.len()..][..1];
            let reader = Reader::new(world.clone(), user, habit, room, random);
            let arrival = ARRIVAL * u32::try_from(n).unwrap_or(u32::MAX);
            readers.spawn(async move {
                sleep(arrival).await;
                reader.run().await
            });
        }
        for n in 0..plan.pagers {
            let user = user("pager", n)?;
            let random = random(&user);
            readers.spawn(Pager::new(world.clone(), user, random).run());
        }
        for n in 0..plan.libraries {
            let user = user("library", n)?;
            let random = random(&user);
            libraries.spawn(Library::new(world.clone(), user, random).run());
        }
        Ok(Self {
            begun: world.clock.now(),
            patience: plan.patience,
            crowd: plan.crowd,
            judge: user("judge", 0)?,
            world,
            phase,
            senders,
            readers,
            libraries,
        })
    }

    /// What is measured begins now: rooms are made and everybody is there.
    pub fn begin(&mut self) {
        self.begun = self.world.clock.now();
    }

    /// The clock of the session.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.world.clock
    }

    /// The rooms of the session.
    #[must_use]
    pub fn rooms(&self) -> &[RoomId] {
        &self.world.rooms
    }

    /// Waits until every room can be written again: an ack in each after `since`.
    ///
    /// # Errors
    /// When a room has none in time.
    pub async fn recovered(&self, since: u64) -> Result<()> {
        let (rooms, progress) = (&self.world.rooms, &self.world.progress);
        let everywhere = progress.everywhere(rooms, since, self.patience).await;
        everywhere.map_err(|room| {
            let secs = self.patience.as_secs();
            anyhow!("nothing was acked in {room} for {secs} s though everything was whole")
        })
    }

    /// Waits until all of the crowd have come.
    ///
    /// # Errors
    /// When somebody does not in time.
    pub async fn arrived(&self) -> Result<()> {
        let mut arrived = self.world.arrived.subscribe();
        let limit = self.patience + ARRIVAL * u32::try_from(self.crowd)?;
        let all = timeout(limit, arrived.wait_for(|count| *count >= self.crowd)).await;
        if all.is_err() {
            let count = *self.world.arrived.borrow();
            bail!("only {count} of a crowd of {} have come", self.crowd);
        }
        Ok(())
    }

    /// Lets the senders bring everything to an end, then the readers, and reads the logs. What was written down comes
    /// also when that fails.
    pub async fn finish(mut self, faults: Vec<Injection>) -> (History, Result<()>) {
        let mut history = History {
            sending: (self.begun, self.world.clock.now()),
            faults,
            ..History::default()
        };
        let ended = self.end(&mut history).await;
        (history, ended)
    }

    async fn end(&mut self, history: &mut History) -> Result<()> {
        self.tell(Phase::Draining(Instant::now() + self.patience));
        while let Some(sent) = self.senders.join_next().await {
            history.sent.extend(sent.context("a sender failed")?);
        }
        let first = self.logs().await;
        history.ends = first.as_ref().map(heads).unwrap_or_default();
        let heads = Arc::new(history.ends.clone());
        self.tell(Phase::Reading(heads, Instant::now() + self.patience));
        while let Some(views) = self.readers.join_next().await {
            history.views.extend(views.context("a reader failed")?);
        }
        history.leaves = self.world.leaves.take();
        while let Some(done) = self.libraries.join_next().await {
            let (sent, views) = done.context("a user of the library failed")??;
            history.sent.extend(sent);
            history.views.extend(views);
        }
        let view = |(room, log)| self.as_view(room, log);
        history.views.extend(first?.into_iter().map(view));
        history.logs = self.logs().await?;
        Ok(())
    }

    fn tell(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// All logs, asked for again until they can be had.
    async fn logs(&self) -> Result<BTreeMap<RoomId, Vec<Arc<Event>>>> {
        let deadline = Instant::now() + self.patience;
        let mut logs = BTreeMap::new();
        for room in &self.world.rooms {
            let mut pods = self.world.pods.iter().cycle();
            let log = loop {
                let pod = pods.next().context("there is no pod to talk to")?;
                match self.world.http.log(&pod.address, &self.judge, room).await {
                    Ok(log) => {
                        break log
                            .into_iter()
                            .map(|event| self.world.events.share(event))
                            .collect();
                    }
                    Err(error) if Instant::now() >= deadline => {
                        return Err(anyhow!("the log of {room} cannot be read: {error}"));
                    }
                    Err(_) => sleep(Duration::from_millis(200)).await,
                }
            };
            logs.insert(room.clone(), log);
        }
        Ok(logs)
    }

    fn as_view(&self, room: RoomId, log: Vec<Arc<Event>>) -> View {
        let at = self.world.clock.now();
        let shown = log.into_iter().map(|event| Step::Shown { at, event });
        View {
            reader: self.judge.to_string(),
            source: Source::Pages,
            room,
            after: Seq::ZERO,
            steps: shown.collect(),
            to_the_end: true,
        }
    }
}

fn heads(logs: &BTreeMap<RoomId, Vec<Arc<Event>>>) -> BTreeMap<RoomId, Seq> {
    let head = |(room, log): (&RoomId, &Vec<Arc<Event>>)| Some((room.clone(), log.last()?.seq));
    logs.iter().filter_map(head).collect()
}
