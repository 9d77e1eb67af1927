//! The figures of the worker. Names are part of the product: dashboards and alerts are written against them.

use std::sync::atomic::{AtomicI64, Ordering};

use backend::cluster::store::Indexed;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use protocol::Timestamp;

const SECONDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Counters, gauges and histograms of one process.
#[derive(Debug)]
pub struct Metrics {
    pub events: Counter,
    pub writes: Counter,
    pub batch_seconds: Histogram,
    pub parked: Counter,
    pub violations: Counter,
    pub connections: Counter,
    pub failing: Gauge,
    pub marks: Counter,
    pub lag: Gauge<f64, std::sync::atomic::AtomicU64>,
    pub segments: Gauge,
    pub indexed: Gauge,
    pub index_bytes: Gauge,
    pub index_complete: Gauge,
    pub merges: Counter,
    pub walked: Counter,
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn register(metrics: &runtime::Metrics) -> Self {
        let this = Self {
            events: Counter::default(),
            writes: Counter::default(),
            batch_seconds: Histogram::new(SECONDS),
            parked: Counter::default(),
            violations: Counter::default(),
            connections: Counter::default(),
            failing: Gauge::default(),
            marks: Counter::default(),
            lag: Gauge::default(),
            segments: Gauge::default(),
            indexed: Gauge::default(),
            index_bytes: Gauge::default(),
            index_complete: Gauge::default(),
            merges: Counter::default(),
            walked: Counter::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "chat_persist_events",
                "Events stored, those that were stored before included",
                this.events.clone(),
            );
            registry.register(
                "chat_persist_writes",
                "Times events were stored, those of one or more batches at once",
                this.writes.clone(),
            );
            registry.register(
                "chat_persist_batch_seconds",
                "From a batch being complete to its acknowledgement",
                this.batch_seconds.clone(),
            );
            registry.register(
                "chat_persist_lag_seconds",
                "Age of the oldest event in hand that is not stored yet; 0 when nothing is",
                this.lag.clone(),
            );
            registry.register(
                "chat_parked",
                "Lines put into the parking queue because they cannot be stored",
                this.parked.clone(),
            );
            registry.register(
                "chat_log_violations",
                "Contradictions found in a log; must stay 0",
                this.violations.clone(),
            );
            registry.register(
                "chat_persist_connections",
                "Connections to the broker that were made",
                this.connections.clone(),
            );
            registry.register(
                "chat_persist_shards_failing",
                "Shards that this process cannot consume",
                this.failing.clone(),
            );
            registry.register(
                "chat_persist_marks",
                "Times a room's mark was raised in Redis, below which Redis may forget",
                this.marks.clone(),
            );
        });
        metrics.register(|registry| this.register_index(registry));
        this
    }

    fn register_index(&self, registry: &mut Registry) {
        registry.register(
            "chat_search_segments",
            "Segments that the index of search consists of",
            self.segments.clone(),
        );
        registry.register(
            "chat_search_messages",
            "Messages in the index of search; some count twice until their segments are merged",
            self.indexed.clone(),
        );
        registry.register(
            "chat_search_bytes",
            "Size of the index of search",
            self.index_bytes.clone(),
        );
        registry.register(
            "chat_search_complete",
            "1 when every stored message is in the index of search, 0 while that is being made so",
            self.index_complete.clone(),
        );
        registry.register(
            "chat_search_merges",
            "Times this process made one segment of several",
            self.merges.clone(),
        );
        registry.register(
            "chat_search_walked",
            "Stored events that this process looked at to complete or rebuild the index of search",
            self.walked.clone(),
        );
    }

    /// How the index of search is.
    pub fn set_index(&self, indexed: &Indexed) {
        let segments = i64::try_from(indexed.segments).unwrap_or(i64::MAX);
        self.segments.set(segments);
        self.indexed.set(indexed.messages);
        self.index_bytes.set(indexed.bytes);
        self.index_complete.set(indexed.is_complete.into());
    }
}

/// The time of the oldest event that a shard has in hand.
#[derive(Debug)]
pub struct InHand(AtomicI64);

const NOTHING: i64 = i64::MAX;

impl Default for InHand {
    fn default() -> Self {
        Self(AtomicI64::new(NOTHING))
    }
}

impl InHand {
    pub fn hold(&self, oldest: Timestamp) {
        self.0.store(oldest.as_millis(), Ordering::Relaxed);
    }

    pub fn release(&self) {
        self.0.store(NOTHING, Ordering::Relaxed);
    }

    /// Its age in seconds; zero when nothing is in hand.
    pub fn age(&self, now: Timestamp) -> f64 {
        match self.0.load(Ordering::Relaxed) {
            NOTHING => 0.0,
            at => (now.as_millis() - at).max(0) as f64 / 1000.0,
        }
    }
}
