//! The figures of the gateway. Names are part of the product: dashboards and alerts are written against them.

use std::time::Duration;

use backend::log::Appended;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use protocol::{CloseCode, ErrorCode, MessageId};
use runtime::trace;
use tracing::Span;

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    pub code: u32,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    pub code: &'static str,
}

/// What became of a request that was forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ForwardLabels {
    pub outcome: &'static str,
}

/// Where to look at one of those that were measured.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TraceLabels {
    pub trace_id: String,
}

/// Counters, gauges and histograms of one process.
#[derive(Debug)]
pub struct Metrics {
    pub connections: Gauge,
    pub connections_opened: Counter,
    pub subscriptions: Gauge,
    pub slow_sessions: Gauge,
    pub closes: Family<CloseLabels, Counter>,
    pub refusals: Family<RefusalLabels, Counter>,
    pub history_forwards: Family<ForwardLabels, Counter>,
    pub send_failures: Family<RefusalLabels, Counter>,
    pub appended: Counter,
    pub duplicates: Counter,
    pub deliveries: Counter,
    pub delivered_bytes: Counter,
    pub signals_dropped: Counter,
    pub catch_ups: Counter,
    pub resume_gaps: Counter,
    pub log_violations: Counter,
    pub send_ack: HistogramWithExemplars<TraceLabels>,
    pub delivery: HistogramWithExemplars<TraceLabels>,
}

const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn register(metrics: &runtime::metrics::Metrics) -> Self {
        let this = Self {
            connections: Gauge::default(),
            connections_opened: Counter::default(),
            subscriptions: Gauge::default(),
            slow_sessions: Gauge::default(),
            closes: Family::default(),
            refusals: Family::default(),
            history_forwards: Family::default(),
            send_failures: Family::default(),
            appended: Counter::default(),
            duplicates: Counter::default(),
            deliveries: Counter::default(),
            delivered_bytes: Counter::default(),
            signals_dropped: Counter::default(),
            catch_ups: Counter::default(),
            resume_gaps: Counter::default(),
            log_violations: Counter::default(),
            send_ack: HistogramWithExemplars::new(SECONDS.into_iter()),
            delivery: HistogramWithExemplars::new(SECONDS.into_iter()),
        };
        metrics.register(|registry| {
            registry.register(
                "chat_connections",
                "Open WebSocket connections",
                this.connections.clone(),
            );
            registry.register(
                "chat_connections_opened",
                "WebSocket connections that began",
                this.connections_opened.clone(),
            );
            registry.register(
                "chat_subscriptions",
                "Rooms subscribed to, over all connections",
                this.subscriptions.clone(),
            );
            registry.register(
                "chat_slow_sessions",
                "Subscriptions that read from the log because their reader is behind",
                this.slow_sessions.clone(),
            );
            registry.register(
                "chat_closes",
                "Connections closed by the server, by close code",
                this.closes.clone(),
            );
            registry.register(
                "chat_refusals",
                "Requests over sockets that were refused, by error code",
                this.refusals.clone(),
            );
            registry.register(
                "chat_history_forwards",
                "Requests forwarded to history-service: answered, unavailable, overloaded",
                this.history_forwards.clone(),
            );
            registry.register(
                "chat_send_failures",
                "Sends, edits, deletions and reactions that failed for no fault of the client, by error code",
                this.send_failures.clone(),
            );
            registry.register(
                "chat_events_appended",
                "Events that got a place in a log",
                this.appended.clone(),
            );
            registry.register(
                "chat_duplicate_sends",
                "Sends whose id was known already",
                this.duplicates.clone(),
            );
            registry.register(
                "chat_deliveries",
                "Events handed to sessions",
                this.deliveries.clone(),
            );
            registry.register(
                "chat_delivered_bytes",
                "Bytes of events handed to sessions",
                this.delivered_bytes.clone(),
            );
            registry.register(
                "chat_signals_dropped",
                "Typing, presence and receipts that found no room in a queue",
                this.signals_dropped.clone(),
            );
            registry.register(
                "chat_catch_ups",
                "Times a subscription fell behind and turned to the log",
                this.catch_ups.clone(),
            );
            registry.register(
                "chat_resume_gap",
                "Pages of a log that did not begin where the reader was; must stay 0",
                this.resume_gaps.clone(),
            );
            registry.register(
                "chat_log_violations",
                "Contradictions found in a log; must stay 0",
                this.log_violations.clone(),
            );
            registry.register(
                "chat_send_ack_seconds",
                "From a send's arrival to its place in the log being durable",
                this.send_ack.clone(),
            );
            registry.register(
                "chat_delivery_seconds",
                "From an event's append to its being written to sockets, once per batch",
                this.delivery.clone(),
            );
        });
        this.begin_at_zero();
        this
    }

    /// A series that begins with its first event hides that event from whoever looks at increases.
    fn begin_at_zero(&self) {
        for code in ErrorCode::ALL {
            let labels = RefusalLabels {
                code: code.as_str(),
            };
            self.refusals.get_or_create(&labels).inc_by(0);
            if is_ours(code) {
                self.send_failures.get_or_create(&labels).inc_by(0);
            }
        }
        for code in CloseCode::ALL {
            let code = u32::from(code.as_u16());
            self.closes.get_or_create(&CloseLabels { code }).inc_by(0);
        }
        for outcome in ["answered", "unavailable", "overloaded"] {
            let labels = ForwardLabels { outcome };
            self.history_forwards.get_or_create(&labels).inc_by(0);
        }
    }

    /// Counts the outcome of an append, and where it is traced.
    pub fn appended(&self, result: &backend::Result<Appended>, took: Duration, span: &Span) {
        match result {
            Ok(Appended {
                duplicate: true, ..
            }) => {
                self.duplicates.inc();
            }
            Ok(_) => {
                self.appended.inc();
                let traced = trace::trace_id(span).map(|trace_id| TraceLabels { trace_id });
                self.send_ack.observe(took.as_secs_f64(), traced, None);
            }
            Err(backend::Error::Corrupt(_)) => {
                self.log_violations.inc();
            }
            Err(_) => {}
        }
    }

    /// Notes how late the last event of what was handed to sessions is, and the trace of an event of it.
    pub fn delivered(&self, late_ms: i64, traced: Option<MessageId>) {
        let traced = traced.map(|id| TraceLabels {
            trace_id: format!("{:032x}", id.as_uuid().as_u128()),
        });
        self.delivery.observe(late_ms as f64 / 1000.0, traced, None);
    }

    /// Counts a send, or another act on messages, that failed for no fault of the client.
    pub fn failed(&self, code: ErrorCode) {
        if is_ours(code) {
            let code = code.as_str();
            let failures = self.send_failures.get_or_create(&RefusalLabels { code });
            failures.inc();
        }
    }

    /// Counts a connection that the server closes.
    pub fn closed(&self, code: CloseCode) {
        let code = u32::from(code.as_u16());
        self.closes.get_or_create(&CloseLabels { code }).inc();
    }

    /// Counts a refusal.
    pub fn refused(&self, code: ErrorCode) {
        let code = code.as_str();
        self.refusals.get_or_create(&RefusalLabels { code }).inc();
    }
}

/// Whether a refusal is no fault of who asked.
fn is_ours(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Unavailable | ErrorCode::Overloaded | ErrorCode::Internal
    )
}
