//! Publishes events into the shard queues and says what became of each.
//!
//! One connection, one channel with confirms. What waits for the same generation and shard travels in one envelope. While
//! the broker is away events wait here, and are published again on the next connection: everything behind the broker
//! is idempotent.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use protocol::{Event, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::backoff::Backoff;
use super::breaker::Breaker;
use super::envelope::{Origin, Traces};
use super::relay::PodId;
use super::topology::{self, Topology};
use super::{Settings, envelope};
use crate::{Error, Result};

/// Events that may wait for the broker, over all rooms.
const WAITING_MAX: usize = 50_000;
/// Envelopes of one shard on their way at once. Few, so that what comes meanwhile shares the next one. Each has a channel
/// of its own: of several on one channel nobody could tell for sure which was returned.
const PER_WAY: usize = 2;
/// The broker takes an envelope within this time, unless it blocks publishers or is stopped.
const SEND_WITHIN: Duration = Duration::from_secs(1);
/// A confirm that does not come within this time means that the connection is dead.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// The first pause before connecting again, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What became of events of one generation.
#[derive(Debug)]
pub enum Outcome {
    /// They are in their shard queue, for good.
    Confirmed,
    /// They are not, and never will be by this publish: the exchange or its binding is gone.
    Unroutable,
    /// Not now: the queue is full.
    Full,
}

/// An event that has its place.
#[derive(Clone, Debug)]
pub struct Placed {
    pub event: Arc<Event>,
    /// The pods that have its room.
    pub pods: Arc<[String]>,
    /// From being handed over to the broker's confirm.
    pub span: Span,
}

/// Takes what became of events. Called by the publisher's task; must not block.
pub type Judge = Arc<dyn Fn(u64, Vec<Placed>, Outcome) + Send + Sync>;

struct Job {
    generation: u64,
    placed: Placed,
}

/// A handle on the publisher; cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    jobs: mpsc::UnboundedSender<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    waiting: AtomicUsize,
    blocked: AtomicBool,
    /// Generations below this one are over: their events are not published again.
    floor: AtomicU64,
    breaker: Breaker,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    envelopes: AtomicU64,
    confirmed: AtomicU64,
    unroutable: AtomicU64,
    refused: AtomicU64,
}

/// What a publisher has done since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were made.
    pub connections: u64,
    /// Envelopes that were sent, those sent again included.
    pub envelopes: u64,
    /// Events that the broker has for good.
    pub confirmed: u64,
    /// Events whose exchange was gone.
    pub unroutable: u64,
    /// Events for which a queue had no room.
    pub refused: u64,
}

impl Publisher {
    /// Starts the publisher; it ends with the token. What is not confirmed by then is published by whoever meets it next.
    #[must_use]
    pub fn start(
        settings: Settings,
        pod: &PodId,
        judge: Judge,
        shutdown: CancellationToken,
    ) -> Self {
        // Bounded by `admit`, so that a push never waits.
        let (jobs, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            waiting: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
            floor: AtomicU64::new(0),
            breaker: Breaker::new("rabbitmq"),
            counters: Counters::default(),
        });
        let run = Run {
            topology: Topology::new(&settings),
            settings,
            pod: pod.name().into(),
            judge,
            shared: Arc::clone(&shared),
            jobs: receiver,
            waiting: HashMap::new(),
            order: VecDeque::new(),
        };
        tokio::spawn(run.run(shutdown));
        Self { jobs, shared }
    }

    /// Whether another event can be taken, before it gets a place in a log.
    ///
    /// # Errors
    /// `Unavailable` while the broker is away or blocks publishers; `Overloaded` when too much waits.
    pub fn admit(&self) -> Result<()> {
        if self.shared.blocked.load(Ordering::Relaxed) {
            return Err(Error::unavailable(
                "rabbitmq: publishing is blocked (the broker is short of memory or disk)",
            ));
        }
        if self.shared.breaker.is_open() {
            let why = self.shared.breaker.trouble().unwrap_or_default();
            return Err(Error::unavailable(format!("rabbitmq is away: {why}")));
        }
        if self.shared.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
            return Err(Error::overloaded("too many events wait for the broker"));
        }
        Ok(())
    }

    /// Publishes an event that has its place.
    pub fn publish(&self, generation: u64, placed: Placed) {
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        if self.jobs.send(Job { generation, placed }).is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Events of generations below this one are not published any more: their exchanges are gone.
    pub fn raise_floor(&self, generation: u64) {
        self.shared.floor.fetch_max(generation, Ordering::Relaxed);
    }

    /// How the broker is, as this connection finds it.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if self.shared.blocked.load(Ordering::Relaxed) {
            return Some(
                "publishing is blocked (the broker is short of memory or disk)".to_owned(),
            );
        }
        self.shared.breaker.trouble()
    }

    /// How the broker is, for callers.
    #[must_use]
    pub fn breaker(&self) -> &Breaker {
        &self.shared.breaker
    }

    /// Whether the broker takes nothing because it is short of memory or disk.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.shared.blocked.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        Counts {
            connections: counters.connections.load(Ordering::Relaxed),
            envelopes: counters.envelopes.load(Ordering::Relaxed),
            confirmed: counters.confirmed.load(Ordering::Relaxed),
            unroutable: counters.unroutable.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
        }
    }

    /// Events that are not confirmed.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }
}

/// One kind of envelope: generation and shard.
type Way = (u64, u16);

struct Run {
    settings: Settings,
    /// What this process is called.
    pod: Arc<str>,
    topology: Topology,
    judge: Judge,
    shared: Arc<Shared>,
    jobs: mpsc::UnboundedReceiver<Job>,
    waiting: HashMap<Way, VecDeque<Placed>>,
    /// Ways with something waiting, in turn.
    order: VecDeque<Way>,
}

/// Why a connection is given up.
enum End {
    Shutdown,
    Lost(String),
}

/// An envelope on its way.
struct Flying {
    way: Way,
    slot: usize,
    events: Vec<Placed>,
    since: Instant,
    confirm: PublisherConfirm,
}

struct Landed {
    way: Way,
    slot: usize,
    events: Vec<Placed>,
    took: Duration,
    answer: lapin::Result<Confirmation>,
}

impl Future for Flying {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landed> {
        let answer = ready!(Pin::new(&mut self.confirm).poll(cx));
        Poll::Ready(Landed {
            way: self.way,
            slot: self.slot,
            events: std::mem::take(&mut self.events),
            took: self.since.elapsed(),
            answer,
        })
    }
}

/// A connection in use.
struct Link {
    connection: Connection,
    /// By way and slot. An exchange that is gone costs the channel.
    channels: HashMap<(Way, usize), Channel>,
    flight: FuturesUnordered<Flying>,
    /// Which slots of a way have an envelope on its way.
    flying: HashMap<Way, [bool; PER_WAY]>,
    /// Generations below it are over.
    floor: u64,
}

impl Link {
    /// Generations that are over need their channels no more, except for what is still on its way.
    fn close_below(&mut self, floor: u64) {
        if floor > self.floor {
            self.floor = floor;
            let flying = &self.flying;
            self.channels
                .retain(|(way, _), _| way.0 >= floor || flying.contains_key(way));
        }
    }

    fn free_slot(&self, way: Way) -> Option<usize> {
        let slots = self.flying.get(&way).copied().unwrap_or_default();
        slots.iter().position(|is_taken| !is_taken)
    }

    async fn channel(&mut self, way: Way, slot: usize) -> Result<Channel> {
        if let Some(channel) = self.channels.get(&(way, slot)) {
            return Ok(channel.clone());
        }
        let channel = self
            .connection
            .create_channel()
            .await
            .map_err(|e| topology::trouble(&e))?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(|e| topology::trouble(&e))?;
        self.channels.insert((way, slot), channel.clone());
        Ok(channel)
    }
}

impl Run {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        loop {
            let begun = Instant::now();
            match self.connection(&shutdown).await {
                End::Shutdown => return,
                End::Lost(why) => {
                    tracing::debug!(why, "the publisher's connection ended");
                    self.shared.breaker.failed(why);
                }
            }
            if begun.elapsed() > PAUSE_MAX {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn connection(&mut self, shutdown: &CancellationToken) -> End {
        let connecting = connect(&self.settings, &self.topology);
        let connection = tokio::select! {
            connected = connecting => match connected {
                Ok(connection) => connection,
                Err(error) => return End::Lost(error.to_string()),
            },
            () = shutdown.cancelled() => return End::Shutdown,
        };
        self.shared.breaker.succeeded();
        let connections = &self.shared.counters.connections;
        connections.fetch_add(1, Ordering::Relaxed);
        let mut link = Link {
            connection,
            channels: HashMap::new(),
            flight: FuturesUnordered::new(),
            flying: HashMap::new(),
            floor: 0,
        };
        let end = self.serve(&mut link, shutdown).await;
        self.shared.blocked.store(false, Ordering::Relaxed);
        // What is not confirmed is published again, first.
        for flying in link.flight {
            self.put_back(flying.way, flying.events);
        }
        if matches!(end, End::Shutdown) {
            // How it ends no longer matters.
            let _ = link.connection.close(200, "done".into()).await;
        }
        end
    }

    async fn serve(&mut self, link: &mut Link, shutdown: &CancellationToken) -> End {
        let mut news = Box::pin(link.connection.events_listener());
        let mut look = tokio::time::interval(Duration::from_millis(500));
        let mut batch = Vec::new();
        let mut blocked = false;
        loop {
            if !blocked && let Err(error) = self.send_what_waits(link).await {
                return End::Lost(error.to_string());
            }
            tokio::select! {
                count = self.jobs.recv_many(&mut batch, envelope::EVENTS_MAX) => {
                    for job in batch.drain(..) {
                        self.wait(job);
                    }
                    if count == 0 {
                        // Every handle is gone: nothing will come any more.
                        if link.flight.is_empty() && self.order.is_empty() {
                            return End::Shutdown;
                        }
                        look.tick().await;
                    }
                }
                Some(landed) = link.flight.next() => {
                    if let Err(why) = self.landed(link, landed) {
                        return End::Lost(why);
                    }
                }
                Some(event) = news.next() => match event {
                    lapin::Event::ConnectionBlocked(why) => {
                        tracing::warn!(why, "rabbitmq blocks publishers");
                        blocked = true;
                        self.shared.blocked.store(true, Ordering::Relaxed);
                    }
                    lapin::Event::ConnectionUnblocked => {
                        tracing::info!("rabbitmq takes messages again");
                        blocked = false;
                        self.shared.blocked.store(false, Ordering::Relaxed);
                    }
                    lapin::Event::Error(error) if !link.connection.status().connected() => {
                        return End::Lost(error.to_string());
                    }
                    _ => {}
                },
                _ = look.tick() => {
                    if !link.connection.status().connected() {
                        return End::Lost("the connection was closed".to_owned());
                    }
                    let late = link.flight.iter().any(|flying| flying.since.elapsed() > CONFIRM_WITHIN);
                    if late && !blocked {
                        return End::Lost("no confirm in time".to_owned());
                    }
                }
                () = shutdown.cancelled() => return End::Shutdown,
            }
        }
    }

    fn wait(&mut self, job: Job) {
        let way = (
            job.generation,
            envelope::shard(&job.placed.event.room, self.topology.shards),
        );
        let queue = self.waiting.entry(way).or_default();
        if queue.is_empty() {
            self.order.push_back(way);
        }
        queue.push_back(job.placed);
    }

    fn put_back(&mut self, way: Way, events: Vec<Placed>) {
        let queue = self.waiting.entry(way).or_default();
        if queue.is_empty() {
            self.order.push_back(way);
        }
        for event in events.into_iter().rev() {
            queue.push_front(event);
        }
    }

    /// Sends envelopes while few enough are on their way: what comes meanwhile gathers for the next ones.
    async fn send_what_waits(&mut self, link: &mut Link) -> Result<()> {
        let floor = self.shared.floor.load(Ordering::Relaxed);
        link.close_below(floor);
        for _ in 0..self.order.len() {
            let Some(way) = self.order.pop_front() else {
                break;
            };
            if way.0 < floor {
                let events = self.waiting.remove(&way).unwrap_or_default();
                self.judged(way.0, events.into(), Outcome::Unroutable);
                continue;
            }
            let Some(slot) = link.free_slot(way) else {
                self.order.push_back(way);
                continue;
            };
            let (events, body) = self.take(way);
            if self.waiting.contains_key(&way) {
                self.order.push_back(way);
            }
            self.send(link, way, slot, events, &body).await?;
        }
        Ok(())
    }

    async fn send(
        &mut self,
        link: &mut Link,
        way: Way,
        slot: usize,
        events: Vec<Placed>,
        body: &[u8],
    ) -> Result<()> {
        let (generation, shard) = way;
        let traces = Traces::of(events.iter().map(|placed| &placed.span));
        let sending = async {
            let channel = link.channel(way, slot).await?;
            channel
                .basic_publish(
                    self.topology.persist_exchange(generation).into(),
                    shard.to_string().into(),
                    BasicPublishOptions {
                        mandatory: true,
                        ..BasicPublishOptions::default()
                    },
                    body,
                    properties(&self.pod, traces),
                )
                .await
                .map_err(|e| topology::trouble(&e))
        };
        let sent = tokio::time::timeout(SEND_WITHIN, sending).await;
        let confirm = match sent {
            Ok(Ok(confirm)) => confirm,
            Ok(Err(error)) => {
                self.put_back(way, events);
                if !link.connection.status().connected() {
                    return Err(error);
                }
                // Only this channel, because of an envelope before: what became of that one will tell.
                link.channels.remove(&(way, slot));
                return Ok(());
            }
            Err(_) => {
                self.put_back(way, events);
                return Err(Error::unavailable("the broker takes no more bytes"));
            }
        };
        let envelopes = &self.shared.counters.envelopes;
        envelopes.fetch_add(1, Ordering::Relaxed);
        link.flying.entry(way).or_default()[slot] = true;
        link.flight.push(Flying {
            way,
            slot,
            events,
            since: Instant::now(),
            confirm,
        });
        Ok(())
    }

    /// The next envelope of a way.
    fn take(&mut self, way: Way) -> (Vec<Placed>, Vec<u8>) {
        let (mut events, mut body) = (Vec::new(), Vec::new());
        if let Some(queue) = self.waiting.get_mut(&way) {
            while events.len() < envelope::EVENTS_MAX && body.len() < envelope::BYTES_MAX {
                let Some(placed) = queue.pop_front() else {
                    break;
                };
                envelope::push(&mut body, &placed.event);
                events.push(placed);
            }
            if queue.is_empty() {
                self.waiting.remove(&way);
            }
        }
        (events, body)
    }

    fn landed(&mut self, link: &mut Link, landed: Landed) -> std::result::Result<(), String> {
        let Landed {
            way,
            slot,
            events,
            took,
            answer,
        } = landed;
        self.shared.breaker.took(took);
        if let Some(slots) = link.flying.get_mut(&way) {
            slots[slot] = false;
            if !slots.contains(&true) {
                link.flying.remove(&way);
            }
        }
        match answer {
            Ok(Confirmation::Ack(None)) => self.judged(way.0, events, Outcome::Confirmed),
            Ok(Confirmation::Ack(Some(_))) => self.unroutable(way.0, events),
            Ok(Confirmation::Nack(_)) => self.judged(way.0, events, Outcome::Full),
            Ok(Confirmation::NotRequested) => {
                self.put_back(way, events);
                return Err("the broker does not confirm".to_owned());
            }
            Err(error) if is_not_found(&error) => {
                tracing::debug!(%error, generation = way.0, "a generation's exchange is gone");
                link.channels.remove(&(way, slot));
                self.unroutable(way.0, events);
            }
            Err(error) => {
                self.put_back(way, events);
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    /// Events of a generation whose exchange is gone, with what else waits for it.
    fn unroutable(&mut self, generation: u64, mut events: Vec<Placed>) {
        let ways: Vec<Way> = self
            .waiting
            .keys()
            .copied()
            .filter(|way| way.0 == generation)
            .collect();
        for way in ways {
            self.order.retain(|other| *other != way);
            events.extend(self.waiting.remove(&way).unwrap_or_default());
        }
        self.judged(generation, events, Outcome::Unroutable);
    }

    fn judged(&self, generation: u64, mut events: Vec<Placed>, outcome: Outcome) {
        let failed = !matches!(outcome, Outcome::Confirmed);
        for placed in &mut events {
            // It is over.
            let span = std::mem::replace(&mut placed.span, Span::none());
            if failed {
                runtime::trace::fail(&span);
            }
        }
        let counters = &self.shared.counters;
        let counter = match outcome {
            Outcome::Confirmed => &counters.confirmed,
            Outcome::Unroutable => &counters.unroutable,
            Outcome::Full => &counters.refused,
        };
        counter.fetch_add(events.len() as u64, Ordering::Relaxed);
        self.shared
            .waiting
            .fetch_sub(events.len(), Ordering::Relaxed);
        (self.judge)(generation, events, outcome);
    }
}

/// Whether the channel was closed because the exchange does not exist.
fn is_not_found(error: &lapin::Error) -> bool {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => {
            *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
        }
        _ => false,
    }
}

async fn connect(settings: &Settings, topology: &Topology) -> Result<Connection> {
    let connection = topology::connect(&settings.rabbitmq, "darda publisher").await?;
    let channel = connection
        .create_channel()
        .await
        .map_err(|e| topology::trouble(&e))?;
    topology.declare(&channel).await?;
    // Only for the declarations.
    let _ = channel.close(200, "declared".into()).await;
    Ok(connection)
}

fn properties(pod: &Arc<str>, traces: Traces) -> BasicProperties {
    let origin = Origin {
        pod: Some(Arc::clone(pod)),
        at: Some(Timestamp::now()),
    };
    let mut headers = FieldTable::default();
    headers.insert(
        envelope::VERSION_HEADER.into(),
        AMQPValue::LongUInt(envelope::VERSION),
    );
    origin.put(&mut headers);
    traces.put(&mut headers);
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type(envelope::CONTENT_TYPE.into())
        .with_headers(headers)
}
