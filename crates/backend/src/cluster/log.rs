//! The log over Redis, RabbitMQ and MongoDB.
//!
//! [`Core`] takes appends ([`append`]), follows them to the broker ([`super::publisher`]) and reads what is safe
//! ([`read`]).

mod append;
pub(super) mod entry;
mod read;
mod ways;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use protocol::{Event, EventBody, MessageId, RoomId, Seq, Timestamp, UserId};
use runtime::trace;
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use super::generation::Generations;
use super::publisher::{Outcome, Placed, Publisher};
use super::relay::ClusterRelay;
use super::sequencer::Sequencer;
use super::store::Store;
use super::{Redis, Settings};
use crate::log::{Append, Appended, Page, Way};
use crate::{Error, Log, Result};

/// A caller who has no answer by now gets an error; repeating the act finds out what became of it.
const ANSWER_WITHIN: Duration = Duration::from_millis(1900);
/// Numbers of a generation.
pub(super) const RANGE: u64 = 1 << 32;

/// What the log knows of the end of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The last seq that was given out.
    pub seq: u64,
    /// Everything up to it is safe, as far as its generation goes.
    pub safe: u64,
    /// The last seq that can be read.
    pub head: u64,
}

/// An append on its way.
pub struct Request {
    pub append: Append,
    /// The body as it is stored.
    body: Vec<u8>,
    deadline: Instant,
    /// The generation, and the time of Redis in milliseconds, in which MongoDB was asked for the id and did not know it.
    looked_up: Option<(u64, u64)>,
    /// The message it is about was seen to live.
    target_lives: bool,
    /// What it is traced by.
    pub span: Span,
    reply: oneshot::Sender<Result<Appended>>,
}

impl Request {
    /// Whether nobody waits for an answer any more.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.reply.is_closed() || Instant::now() > self.deadline
    }

    /// Answers the caller, if they still wait.
    pub fn answer(self, answer: Result<Appended>) {
        let _ = self.reply.send(answer);
    }
}

/// Called with events before anybody in this process sees them.
pub type Hook = Box<dyn Fn(&Event) + Send + Sync>;

/// What is behind the port.
pub struct Core {
    me: Weak<Self>,
    redis: Redis,
    store: Store,
    generations: Arc<Generations>,
    publisher: OnceLock<Publisher>,
    relay: ClusterRelay,
    sequencer: Arc<Sequencer>,
    settings: Settings,
    /// Appends that wait, by room; a room that is in the map has a task that works through its queue.
    queues: Mutex<HashMap<RoomId, VecDeque<Request>>>,
    hook: OnceLock<Hook>,
    closed: AtomicBool,
    pub counters: Counters,
}

/// What happened, for metrics.
#[derive(Default)]
pub struct Counters {
    pub appended: AtomicU64,
    pub helped: AtomicU64,
    pub seeded: AtomicU64,
    pub doubted: AtomicU64,
}

impl Core {
    pub(super) fn new(
        redis: Redis,
        store: Store,
        generations: Arc<Generations>,
        relay: ClusterRelay,
        sequencer: Arc<Sequencer>,
        settings: Settings,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            redis,
            store,
            generations,
            publisher: OnceLock::new(),
            relay,
            sequencer,
            settings,
            queues: Mutex::default(),
            hook: OnceLock::new(),
            closed: AtomicBool::new(false),
            counters: Counters::default(),
        })
    }

    /// Connects the publisher and what it says.
    pub(super) fn start(
        self: &Arc<Self>,
        publisher: Publisher,
        outcomes: mpsc::UnboundedReceiver<(u64, Vec<Placed>, Outcome)>,
        hook: Hook,
    ) {
        let _ = self.publisher.set(publisher);
        let _ = self.hook.set(hook);
        tokio::spawn(follow(Arc::downgrade(self), outcomes));
    }

    /// Takes no more appends.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether nobody waits for an answer any more.
    pub(super) fn is_settled(&self) -> bool {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.is_empty() && self.sequencer.nobody_waits()
    }

    fn publisher(&self) -> Result<&Publisher> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::unavailable("this process is ending"));
        }
        self.publisher
            .get()
            .ok_or_else(|| Error::unavailable("the log is not open yet"))
    }

    /// Events are about to be shown.
    pub fn passed(&self, events: &[Arc<Event>]) {
        if let Some(hook) = self.hook.get() {
            for event in events {
                hook(event);
            }
        }
    }

    /// The keys of a room, in the order of the functions.
    fn keys(&self, room: &RoomId) -> Vec<String> {
        [
            "head", "log", "pending", "ids", "idq", "gone", "pods", "ticket", "left",
        ]
        .map(|what| self.redis.room_key(room, what))
        .to_vec()
    }

    /// The key of the generation, then those of a room.
    fn keys_with_generation(&self, room: &RoomId) -> Vec<String> {
        let mut keys = vec![self.generations.key()];
        keys.extend(self.keys(room));
        keys
    }

    /// Tells Redis what the broker has, a batch at a time, then everybody else.
    async fn confirmed(self: &Arc<Self>, generation: u64, placed: Vec<Placed>) {
        let mut rooms: BTreeMap<RoomId, Vec<Placed>> = BTreeMap::new();
        for placed in placed {
            rooms
                .entry(placed.event.room.clone())
                .or_default()
                .push(placed);
        }
        // What a Redis says that was not looked at yet may be the word of a copy, and nobody else's.
        let open = self.generations.current().await;
        let number = generation.to_string();
        let confirms = rooms.into_iter().map(|(room, placed)| {
            let (open, number) = (&open, &number);
            async move {
                let seqs: Vec<String> = placed
                    .iter()
                    .map(|placed| placed.event.seq.to_string())
                    .collect();
                let mut arguments = vec![number.as_bytes()];
                arguments.extend(seqs.iter().map(|seq| seq.as_bytes()));
                let keys = self.keys(&room);
                let safe: Result<Option<u64>> = match open {
                    Ok(open) if open.generation == generation => {
                        self.redis
                            .call_in(&open.session, "log_confirm", &keys[..3], &arguments)
                            .await
                    }
                    Ok(_) => Ok(None),
                    Err(error) => Err(error.clone()),
                };
                (room, placed, safe)
            }
        });
        for (room, placed, safe) in join_all(confirms).await {
            let safe = match safe {
                Ok(Some(safe)) => safe,
                Ok(None) => {
                    // The room is in another generation: a message that the broker had routed, and not yet queued, when
                    // its exchange went may be behind the fence.
                    self.ask_again(placed);
                    continue;
                }
                // Without Redis's word nobody is answered or shown anything. The events are pending there: when it is
                // back, whoever meets them publishes them again, the senders' own look to begin with.
                Err(error) => {
                    tracing::debug!(%error, room.id = %room, "a confirm that Redis was not told of");
                    let last = placed.iter().map(|placed| placed.event.seq.get()).max();
                    self.sequencer.untold(&room, last.unwrap_or_default());
                    continue;
                }
            };
            let events: Vec<_> = placed
                .iter()
                .map(|placed| Arc::clone(&placed.event))
                .collect();
            self.sequencer.confirmed(&room, &events, safe);
            if let Some(last) = placed.last() {
                self.relay.forward(&last.pods, &events);
            }
        }
    }

    /// Events that never entered a queue, or may not have: their senders try again from the beginning.
    async fn doubted(self: &Arc<Self>, generation: u64, placed: Vec<Placed>) {
        if let Err(error) = self.generations.doubt(generation, true).await {
            tracing::debug!(%error, generation, "a generation without its exchange");
        }
        self.ask_again(placed);
    }

    /// Senders of events whose fate is not known begin anew.
    fn ask_again(self: &Arc<Self>, placed: Vec<Placed>) {
        self.counters
            .doubted
            .fetch_add(placed.len() as u64, Ordering::Relaxed);
        let events: Vec<_> = placed.into_iter().map(|placed| placed.event).collect();
        for waiter in self.sequencer.take_waiters(&events) {
            self.push(waiter.request);
        }
    }
}

/// Follows what the publisher says. What is confirmed gathers while Redis is told of what was before.
async fn follow(
    core: Weak<Core>,
    mut outcomes: mpsc::UnboundedReceiver<(u64, Vec<Placed>, Outcome)>,
) {
    let mut batch = Vec::new();
    while outcomes.recv_many(&mut batch, 256).await > 0 {
        let Some(core) = core.upgrade() else {
            return;
        };
        let mut confirmed: BTreeMap<u64, Vec<Placed>> = BTreeMap::new();
        for (generation, placed, outcome) in batch.drain(..) {
            match outcome {
                Outcome::Confirmed => confirmed.entry(generation).or_default().extend(placed),
                Outcome::Unroutable => {
                    let core = Arc::clone(&core);
                    tokio::spawn(async move { core.doubted(generation, placed).await });
                }
                Outcome::Full => {
                    let events: Vec<_> = placed.into_iter().map(|placed| placed.event).collect();
                    for waiter in core.sequencer.take_waiters(&events) {
                        // They are pending, and may be published later: nobody may take them for refused.
                        waiter.request.answer(Err(Error::unavailable(
                            "rabbitmq: its queue is full; the same id finds out what becomes of the act",
                        )));
                    }
                }
            }
        }
        for (generation, placed) in confirmed {
            core.confirmed(generation, placed).await;
        }
    }
}

/// The port.
pub struct ClusterLog(pub(super) Arc<Core>);

#[async_trait]
impl Log for ClusterLog {
    async fn append(&self, append: Append) -> Result<Appended> {
        if matches!(append.body, EventBody::Fence {} | EventBody::Void {}) {
            return Err(Error::Refused(
                "fences and voids are the log's own".to_owned(),
            ));
        }
        self.0.publisher()?.admit()?;
        let body = serde_json::to_vec(&append.body)
            .map_err(|e| Error::Corrupt(format!("an act that is no JSON: {e}")))?;
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + ANSWER_WITHIN;
        self.0.push(Request {
            append,
            body,
            deadline,
            looked_up: None,
            target_lives: false,
            span: trace::current(),
            reply,
        });
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Error::unavailable(
                "the act is not known to be stored yet; the same id finds out",
            )),
        }
    }

    async fn read(&self, room: &RoomId, after: Seq, limit: usize) -> Result<Page> {
        self.0.read(room, after.get(), limit).await
    }

    async fn read_before(&self, room: &RoomId, before: Seq, limit: usize) -> Result<Page> {
        self.0.read_before(room, before.get(), limit).await
    }

    async fn head(&self, room: &RoomId) -> Result<Seq> {
        self.0.head(room).await
    }

    async fn certain_head(&self, room: &RoomId) -> Result<Seq> {
        self.0.certain_head(room).await
    }

    async fn related(&self, room: &RoomId, targets: &[Seq]) -> Result<Vec<Arc<Event>>> {
        self.0.related(room, targets).await
    }

    async fn first_at(&self, room: &RoomId, at: Timestamp) -> Result<Seq> {
        self.0.first_at(room, at).await
    }

    async fn unread(&self, room: &RoomId, user: &UserId, after: Seq, most: u64) -> Result<u64> {
        self.0.unread(room, user, after.get(), most).await
    }

    async fn ways(&self, id: MessageId, rooms: &[RoomId]) -> Result<Vec<Way>> {
        self.0.ways(id, rooms).await
    }

    async fn forget(&self, room: &RoomId) -> Result<()> {
        self.0.store.forget(room).await?;
        for _ in 0..3 {
            let open = self.0.generations.current().await?;
            let generation = open.generation.to_string();
            let keys = self.0.keys_with_generation(room);
            let done: String = self
                .0
                .redis
                .call_in(&open.session, "log_forget", &keys, &[generation.as_bytes()])
                .await?;
            if done == "ok" {
                return Ok(());
            }
            self.0.generations.doubt(open.generation, false).await?;
        }
        Err(Error::unavailable("generations change too often"))
    }
}

impl Core {
    /// Puts a request at the end of its room's queue.
    fn push(self: &Arc<Self>, request: Request) {
        let room = request.append.room.clone();
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        match queues.get_mut(&room) {
            Some(queue) => queue.push_back(request),
            None => {
                queues.insert(room.clone(), VecDeque::from([request]));
                tokio::spawn(Arc::clone(self).work(room));
            }
        }
    }
}
