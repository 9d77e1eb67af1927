//! The figures of the family. Each is counted where it happens and read when somebody scrapes. Names are part of the
//! product: dashboards and alerts are written against them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use runtime::health;

use super::breaker::Breaker;
use super::generation::Generations;
use super::log::Core;
use super::publisher::Publisher;
use super::relay::ClusterRelay;
use super::{Mongo, Redis};

/// What a process of the family reads at a scrape.
pub(super) struct Figures {
    pub redis: Redis,
    pub mongo: Mongo,
    pub publisher: Publisher,
    pub relay: ClusterRelay,
    pub generations: Arc<Generations>,
    pub core: Arc<Core>,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut to = Writer(encoder);
        named(&mut to, self.relay.pod().name())?;
        self.generation(&mut to)?;
        let own = [
            self.redis.breaker(),
            self.publisher.breaker(),
            self.mongo.breaker(),
        ];
        breakers(&mut to, &own)?;
        self.log(&mut to)?;
        self.publishing(&mut to)?;
        self.relaying(&mut to)
    }
}

impl Figures {
    fn generation(&self, to: &mut Writer<'_>) -> fmt::Result {
        generation(to, self.generations.last())?;
        to.counter(
            "chat_generations_raised",
            "Generations that this process began because Redis or an exchange had lost something",
            self.generations.raised(),
        )
    }

    fn log(&self, to: &mut Writer<'_>) -> fmt::Result {
        let counters = &self.core.counters;
        let mut counter =
            |name, help, value: &AtomicU64| to.counter(name, help, value.load(Relaxed));
        counter(
            "chat_log_numbered",
            "Events that Redis gave a number",
            &counters.appended,
        )?;
        counter(
            "chat_log_helped",
            "Events of others that this process published because their publisher had not",
            &counters.helped,
        )?;
        counter(
            "chat_log_doubted",
            "Events whose senders began anew because their generation was over",
            &counters.doubted,
        )?;
        counter(
            "chat_log_seeded",
            "Times a room got its place in a generation",
            &counters.seeded,
        )
    }

    fn publishing(&self, to: &mut Writer<'_>) -> fmt::Result {
        let counts = self.publisher.counts();
        to.gauge(
            "chat_publish_waiting",
            "Events that no broker has confirmed yet",
            self.publisher.waiting() as f64,
        )?;
        to.gauge(
            "chat_publish_blocked",
            "Whether the broker takes nothing because it is short of memory or disk",
            f64::from(u8::from(self.publisher.is_blocked())),
        )?;
        to.counter(
            "chat_publish_connections",
            "Connections that the publisher made",
            counts.connections,
        )?;
        to.counter(
            "chat_publish_envelopes",
            "Envelopes sent to shard queues, those sent again included",
            counts.envelopes,
        )?;
        to.counter(
            "chat_publish_confirmed",
            "Events that the broker has for good",
            counts.confirmed,
        )?;
        to.counter(
            "chat_publish_unroutable",
            "Events whose exchange or binding was gone",
            counts.unroutable,
        )?;
        to.counter(
            "chat_publish_refused",
            "Events for which a shard queue had no room",
            counts.refused,
        )
    }

    fn relaying(&self, to: &mut Writer<'_>) -> fmt::Result {
        let counts = self.relay.counts();
        to.gauge(
            "chat_relay_rooms",
            "Rooms that other processes send events of to this one",
            self.relay.rooms() as f64,
        )?;
        to.gauge(
            "chat_relay_queued_bytes",
            "Events and signals that wait to be sent to other processes",
            self.relay.queued_bytes() as f64,
        )?;
        to.counter(
            "chat_relay_events_sent",
            "Events sent to other processes, once for each",
            counts.events_sent,
        )?;
        to.counter(
            "chat_relay_events_received",
            "Events that other processes sent",
            counts.events_received,
        )?;
        to.counter(
            "chat_relay_signals_sent",
            "Signals sent to other processes, once for each",
            counts.signals_sent,
        )?;
        to.counter(
            "chat_relay_signals_received",
            "Signals that other processes sent",
            counts.signals_received,
        )?;
        to.counter(
            "chat_relay_dropped",
            "Events and signals that could not be sent to a process; it reads events from the log",
            counts.dropped,
        )?;
        to.counter(
            "chat_relay_broken",
            "Things that other processes sent and that cannot be read",
            counts.broken,
        )?;
        to.counter(
            "chat_relay_reconnects",
            "Connections of the relay that were lost",
            counts.reconnects,
        )
    }
}

/// What a persistence worker reads at a scrape, beside what it counts itself.
pub struct OfWorker {
    /// What the worker is called.
    pub name: Arc<str>,
    pub redis: Redis,
    pub mongo: Mongo,
    /// The generation that Redis had when somebody last looked.
    pub generation: Arc<AtomicU64>,
}

impl fmt::Debug for OfWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfWorker").finish_non_exhaustive()
    }
}

impl Collector for OfWorker {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut to = Writer(encoder);
        named(&mut to, &self.name)?;
        generation(&mut to, self.generation.load(Relaxed))?;
        breakers(&mut to, &[self.redis.breaker(), self.mongo.breaker()])
    }
}

fn named(to: &mut Writer<'_>, name: &str) -> fmt::Result {
    let mut family = to.0.encode_descriptor(
        "chat_pod",
        "What this process is called where others name it",
        None,
        MetricType::Info,
    )?;
    let labels = [("pod", name)];
    Info::new(labels).encode(family.encode_family(&NO_LABELS)?)
}

const NO_LABELS: [(&str, &str); 0] = [];

fn generation(to: &mut Writer<'_>, generation: u64) -> fmt::Result {
    to.gauge(
        "chat_generation",
        "The generation of the log: rises when Redis lost something",
        generation as f64,
    )
}

fn breakers(to: &mut Writer<'_>, breakers: &[&Breaker]) -> fmt::Result {
    let labels = |breaker: &Breaker| [("dependency", breaker.name())];
    let mut family = to.0.encode_descriptor(
        "chat_breaker_open",
        "Whether calls to a dependency are refused at once",
        None,
        MetricType::Gauge,
    )?;
    for breaker in breakers {
        let is_open = breaker.state_of_calls() == health::Breaker::Open;
        let value = ConstGauge::new(i64::from(is_open));
        value.encode(family.encode_family(&labels(breaker))?)?;
    }
    let mut family = to.0.encode_descriptor(
        "chat_breaker_opened",
        "Times that calls to a dependency began to be refused",
        None,
        MetricType::Counter,
    )?;
    for breaker in breakers {
        let value = ConstCounter::new(breaker.opened());
        value.encode(family.encode_family(&labels(breaker))?)?;
    }
    let mut family = to.0.encode_descriptor(
        "chat_dependency_call_seconds",
        "From a call to a dependency to its answer, or to its being given up",
        None,
        MetricType::Histogram,
    )?;
    for breaker in breakers {
        let calls = breaker.calls();
        calls.encode(family.encode_family(&labels(breaker))?)?;
    }
    Ok(())
}

/// Writes metrics without labels.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = ConstCounter::new(value);
        metric.encode(
            self.0
                .encode_descriptor(name, help, None, metric.metric_type())?,
        )
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let metric = ConstGauge::new(value);
        metric.encode(
            self.0
                .encode_descriptor(name, help, None, metric.metric_type())?,
        )
    }
}
