//! The relay between pods: events and signals go over the broker to the pods that have their room.
//!
//! A pod puts itself on the routes of its rooms in Redis ([`registry`]); the log's function answers each append with the
//! route, and what is appended goes to each pod's queue ([`outbox`], [`broker`]). All of it is a hint: nothing waits for
//! it, nothing is sent twice, and what cannot be sent is dropped and counted. The log finds out what is missing.

mod broker;
mod latest;
mod outbox;
mod registry;
mod signals;
mod wire;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::lapin::ConnectionStatus;
use protocol::{Event, RoomId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::latest::Latest;
use self::outbox::Outbox;
use self::registry::{Registrar, Registry};
use self::signals::Signals;
use self::wire::{Kind, Line, Sent};
use super::settings::Endpoint;
use super::topology::Topology;
use super::{Redis, Settings};
use crate::Relay;
use crate::embedded::relay::InProcess;
use crate::relay::{Signal, Sink};

/// How long a pod that ends tries to take itself off the routes.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// How long it tries to send what waits.
const FLUSH_MAX: Duration = Duration::from_millis(200);

/// A process, among those that share the servers. New with every start.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PodId(Arc<str>);

impl PodId {
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::new_v4().simple().to_string().into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What people call it: the beginning, as in logs and metrics.
    #[must_use]
    pub fn name(&self) -> &str {
        name(&self.0)
    }
}

/// What people call the process with an id.
#[must_use]
pub fn name(id: &str) -> &str {
    const LENGTH: usize = 8;
    id.get(..LENGTH).unwrap_or(id)
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who makes a sequence of what comes. Called from the relay's tasks; must not block.
pub trait Upstream: Send + Sync {
    /// Events that other pods appended, those of one message. In no order, some twice, some of rooms that this pod has left.
    fn remote(&self, events: Vec<Arc<Event>>);

    /// From now on others send what happens in the room. What happened before is missed. Called again when the route was
    /// lost and taken anew.
    fn watched(&self, room: &RoomId);

    /// Nobody here is in the room any more. Events of it may still come.
    fn unwatched(&self, room: &RoomId);

    /// Anything of any room may have been missed: the connection is a new one. Called after the first one too, because a
    /// room can be on a route before there is a queue.
    fn lost(&self);
}

/// The relay of a pod. Cheap to clone.
#[derive(Clone)]
pub struct ClusterRelay {
    inner: Arc<Inner>,
}

struct Inner {
    pod: PodId,
    rabbitmq: Endpoint,
    topology: Topology,
    redis: Redis,
    local: InProcess,
    registry: Arc<Registry>,
    outbox: Outbox,
    signals: Signals,
    latest: Latest,
    counters: Counters,
    listening: AtomicBool,
    /// The connection that speaks.
    speaker: Mutex<Option<ConnectionStatus>>,
    /// Messages are being written.
    sending: AtomicBool,
    /// Some have been.
    sent: Notify,
    /// Why there was no connection last time.
    trouble: Mutex<Option<String>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Counters {
    events_sent: AtomicU64,
    events_received: AtomicU64,
    signals_sent: AtomicU64,
    signals_received: AtomicU64,
    /// Lines that were taken to be sent when the connection ended.
    unsent: AtomicU64,
    broken: AtomicU64,
    reconnects: AtomicU64,
}

/// What a relay has done since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// To other pods, once for each.
    pub events_sent: u64,
    pub events_received: u64,
    pub signals_sent: u64,
    pub signals_received: u64,
    /// Events and signals that could not be sent to a pod.
    pub dropped: u64,
    /// What came and could not be read.
    pub broken: u64,
    /// Connections that were lost.
    pub reconnects: u64,
}

impl ClusterRelay {
    /// A relay that sends and hears nothing before [`ClusterRelay::start`]. It may be used at once.
    #[must_use]
    pub fn new(settings: &Settings, redis: Redis, pod: PodId) -> Self {
        let inner = Inner {
            pod,
            rabbitmq: settings.rabbitmq.clone(),
            topology: Topology::new(settings),
            redis,
            local: InProcess::default(),
            registry: Arc::default(),
            outbox: Outbox::default(),
            signals: Signals::default(),
            latest: Latest::default(),
            counters: Counters::default(),
            listening: AtomicBool::new(false),
            speaker: Mutex::default(),
            sending: AtomicBool::new(false),
            sent: Notify::new(),
            trouble: Mutex::default(),
            tasks: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Begins to connect. Two steps, because who is upstream also calls this relay.
    pub fn start(&self, upstream: Arc<dyn Upstream>) {
        let registrar = Registrar {
            registry: Arc::clone(&self.inner.registry),
            redis: self.inner.redis.clone(),
            pod: self.inner.pod.clone(),
            upstream: Arc::clone(&upstream),
        };
        let inner = Arc::clone(&self.inner);
        let signals = async move {
            inner
                .signals
                .run(&inner.redis, &inner.pod, &inner.outbox)
                .await;
        };
        lock(&self.inner.tasks).extend([
            tokio::spawn(broker::listen(Arc::clone(&self.inner), upstream)),
            tokio::spawn(broker::speak(Arc::clone(&self.inner))),
            tokio::spawn(registrar.run()),
            tokio::spawn(signals),
        ]);
    }

    /// Sends what waits, ends the connections and takes this pod off all routes. Takes little more than a second at most.
    pub async fn close(&self) {
        self.flush().await;
        let tasks = std::mem::take(&mut *lock(&self.inner.tasks));
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            // Ended by the abort.
            let _ = task.await;
        }
        let inner = &self.inner;
        let farewell = registry::unregister_all(&inner.registry, &inner.redis, &inner.pod);
        match tokio::time::timeout(FAREWELL_MAX, farewell).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the routes of this pod end by themselves"),
            Err(_) => tracing::debug!("the routes of this pod end by themselves"),
        }
    }

    /// Waits until everything is sent, not for long.
    async fn flush(&self) {
        let inner = &self.inner;
        let flushing = async {
            loop {
                let sent = inner.sent.notified();
                let is_empty = inner.signals.len() == 0 && inner.outbox.len_bytes() == 0;
                let is_sending = inner.sending.load(Relaxed);
                if inner.speaker().is_none() || is_empty && !is_sending {
                    return;
                }
                sent.await;
            }
        };
        if tokio::time::timeout(FLUSH_MAX, flushing).await.is_err() {
            tracing::debug!("some things were not told to other pods");
        }
    }

    #[must_use]
    pub fn pod(&self) -> &PodId {
        &self.inner.pod
    }

    /// Hands events to all sinks of this process, in the order called.
    pub fn deliver(&self, events: &[Arc<Event>]) {
        self.inner.local.events(events);
    }

    /// Sends events of a room to the other pods on its route.
    pub fn forward(&self, pods: &[String], events: &[Arc<Event>]) {
        let mut others = pods.iter().filter(|pod| *pod != self.inner.pod.as_str());
        let Some(first) = others.next() else {
            return;
        };
        let lines: Vec<Line> = events.iter().map(|event| wire::event_line(event)).collect();
        for pod in others {
            self.inner
                .outbox
                .push(pod, Kind::Events, lines.iter().cloned());
        }
        self.inner.outbox.push(first, Kind::Events, lines);
    }

    /// Relays a change of presence. Of two about the same user and room the one with the higher version stays, in whichever
    /// order they come.
    pub fn announce(&self, signal: Signal, version: u64) {
        self.inner.announce(signal.clone(), version);
        self.inner.signals.push(Sent {
            signal,
            version: Some(version),
        });
    }

    /// Where the room's signals go: what somebody has just learned saves a question.
    pub fn learn_routes(&self, room: &RoomId, pods: &[String]) {
        self.inner.signals.learn(room, pods);
    }

    /// Takes all places on routes again, soon: Redis may have lost them.
    pub fn refresh(&self) {
        self.inner.registry.refresh();
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        let counters = &self.inner.counters;
        Counts {
            events_sent: counters.events_sent.load(Relaxed),
            events_received: counters.events_received.load(Relaxed),
            signals_sent: counters.signals_sent.load(Relaxed),
            signals_received: counters.signals_received.load(Relaxed),
            dropped: counters.unsent.load(Relaxed)
                + self.inner.outbox.dropped()
                + self.inner.signals.dropped(),
            broken: counters.broken.load(Relaxed),
            reconnects: counters.reconnects.load(Relaxed),
        }
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.inner.outbox.len_bytes()
    }

    /// Rooms of this pod.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.inner.registry.len()
    }

    /// Whether nothing is heard from other pods.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        !self.inner.listening.load(Relaxed)
    }

    /// What is wrong with the connections, if something is.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let speaker = self.inner.speaker().clone();
        let is_listening = self.inner.listening.load(Relaxed);
        match speaker.filter(|speaker| is_listening && speaker.connected()) {
            Some(speaker) if speaker.blocked() => {
                Some("it takes no messages: it is short of memory or disk".to_owned())
            }
            Some(_) => None,
            None => {
                let why = self.inner.trouble().clone();
                Some(why.unwrap_or_else(|| "not connected yet".to_owned()))
            }
        }
    }
}

impl Relay for ClusterRelay {
    fn attach(&self, sink: Arc<dyn Sink>) {
        self.inner.local.attach(sink);
    }

    /// Only to this process: the log of this family knows the routes and calls [`ClusterRelay::forward`] itself.
    fn events(&self, events: &[Arc<Event>]) {
        self.deliver(events);
    }

    fn signal(&self, signal: Signal) {
        self.inner.local.signal(signal.clone());
        self.inner.signals.push(signal.into());
    }

    fn watch(&self, room: &RoomId) {
        self.inner.registry.watch(room);
    }

    fn unwatch(&self, room: &RoomId) {
        self.inner.registry.unwatch(room);
    }
}

impl Inner {
    fn announce(&self, signal: Signal, version: u64) {
        let to = |signal| self.local.signal(signal);
        self.latest.hand_on(signal, version, to);
    }

    fn speaker(&self) -> MutexGuard<'_, Option<ConnectionStatus>> {
        lock(&self.speaker)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        lock(&self.trouble)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
