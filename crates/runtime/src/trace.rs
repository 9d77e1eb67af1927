//! Traces of messages, from the socket to the database, for an OTLP receiver.
//!
//! Few messages are traced, and which ones their ids decide: the last 56 bits of an id are the random value by which
//! OpenTelemetry samples consistently ("TraceState: Probability Sampling"), and the id of the message is the id of its trace.
//! So whoever knows a message's id finds its trace, and every process that meets the message comes to the same decision by
//! itself. Where a step needs the one before as its parent, the context travels along (W3C Trace Context, `traceparent`).
//!
//! Spans are those of `tracing` with the target [`TARGET`]; only they are exported. Without the feature `otlp`, and without
//! `DARDA_OTLP_ENDPOINT`, nothing is traced and nothing of it costs more than reading a number.

use tracing::Span;

use crate::env::Variable;

/// The target of spans that are exported.
pub const TARGET: &str = "darda::trace";

/// The header that says which span a request belongs to (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// The variables of tracing.
#[cfg(feature = "otlp")]
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "DARDA_OTLP_ENDPOINT",
        default: "",
        meaning: "Where traces are sent by OTLP over gRPC, such as http://collector:4317, or https:// (TLS). Without it nothing is traced.",
    },
    Variable {
        name: "DARDA_OTLP_CA_FILE",
        default: "",
        meaning: "Certificates (PEM) of the authorities to trust there, instead of the public ones.",
    },
    Variable {
        name: "DARDA_OTLP_RATIO",
        default: "0.01",
        meaning: "Which part of messages and requests is traced, from 0 to 1. A request whose sender records its trace is always traced.",
    },
];
#[cfg(not(feature = "otlp"))]
pub const VARIABLES: &[Variable] = &[];

/// The span that is current, if it is one that is exported.
#[must_use]
pub fn current() -> Span {
    if !is_on() {
        return Span::none();
    }
    let span = Span::current();
    if is_traced(&span) { span } else { Span::none() }
}

/// Whether a span is one that is exported.
#[must_use]
pub fn is_traced(span: &Span) -> bool {
    span.metadata().is_some_and(|meta| meta.target() == TARGET)
}

/// A span that is exported, under another; none where the other is none: `traced!(&parent, "insert", events = 3)`.
#[macro_export]
macro_rules! traced {
    ($parent:expr, $name:literal $(, $($fields:tt)*)?) => {{
        let parent: &$crate::trace::Parent = $parent;
        if parent.is_disabled() {
            $crate::trace::Parent::none()
        } else {
            $crate::trace::info_span!(target: $crate::trace::TARGET, parent: parent, $name $(, $($fields)*)?)
        }
    }};
}

#[doc(hidden)]
pub use tracing::{Span as Parent, info_span};

#[cfg(feature = "otlp")]
pub use otlp::*;
#[cfg(not(feature = "otlp"))]
pub use without::*;

/// What there is without the feature: nothing is traced.
#[cfg(not(feature = "otlp"))]
mod without {
    use super::Span;

    /// Whether anything is traced.
    #[must_use]
    pub const fn is_on() -> bool {
        false
    }

    /// Whether a message with this id is traced.
    #[must_use]
    pub const fn is_chosen(_id: u128) -> bool {
        false
    }

    /// Makes the first span of a message's trace.
    #[must_use]
    pub fn begin(_id: u128, _make: impl FnOnce() -> Span) -> Span {
        Span::none()
    }

    /// Makes a span under the one that a `traceparent` names.
    #[must_use]
    pub fn follow(_traceparent: &str, _make: impl FnOnce() -> Span) -> Span {
        Span::none()
    }

    /// Makes a span under the first one of a message's trace, if that message is traced.
    #[must_use]
    pub fn under(_id: u128, _make: impl FnOnce() -> Span) -> Span {
        Span::none()
    }

    /// Whether a `traceparent` says that its trace is recorded.
    #[must_use]
    pub const fn is_recorded(_traceparent: &str) -> bool {
        false
    }

    /// Makes a span of two traces know each other.
    pub const fn link(_span: &Span, _other: &Span) {}

    /// The `traceparent` of a span that is exported.
    #[must_use]
    pub const fn traceparent(_span: &Span) -> Option<String> {
        None
    }

    /// Gives a span the name that it deserves.
    pub fn rename(_span: &Span, _name: String) {}

    /// The id of the trace that a span is of.
    #[must_use]
    pub const fn trace_id(_span: &Span) -> Option<String> {
        None
    }

    /// Says that what a span is of failed.
    pub const fn fail(_span: &Span) {}

    /// A step of a message's way that is over now.
    pub const fn passed(_id: u128, _step: &'static str, _begun_ms: i64) {}
}

#[cfg(feature = "otlp")]
mod otlp {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::fmt;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
    use std::sync::{Arc, OnceLock};
    use std::time::{Duration, SystemTime};

    use opentelemetry::propagation::TextMapPropagator as _;
    use opentelemetry::trace::{
        SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags,
        TraceId, TraceState, Tracer as _, TracerProvider as _,
    };
    use opentelemetry::{Context, KeyValue};
    use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
    use opentelemetry_otlp::{
        SpanExporter as OtlpExporter, WithExportConfig as _, WithTonicConfig as _,
    };
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::{
        BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, Sampler, SdkTracer,
        SdkTracerProvider, Span as SdkSpan, SpanData, SpanExporter, SpanProcessor,
    };
    use serde::Deserialize;
    use tracing::level_filters::LevelFilter;
    use tracing::{Span, Subscriber};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::registry::LookupSpan;

    use super::{TARGET, TRACEPARENT};
    use crate::env::{self, EnvError};
    use crate::metrics::Metrics;

    /// Values of 56 bits; no id is as large, so that it chooses none.
    const NONE: u64 = 1 << 56;
    /// Spans that wait for the receiver; more are dropped.
    const WAITING_MAX: usize = 4096;
    /// The longest time until a span is on its way.
    const SEND_EVERY: Duration = Duration::from_secs(2);
    /// The receiver takes spans within this time, or they are given up.
    const TAKEN_WITHIN: Duration = Duration::from_secs(5);
    /// Time for the last spans when the process ends.
    const FLUSH_WITHIN: Duration = Duration::from_secs(3);

    /// The smallest random value of an id that is traced.
    static THRESHOLD: AtomicU64 = AtomicU64::new(NONE);
    static IS_ON: AtomicBool = AtomicBool::new(false);
    static TRACER: OnceLock<SdkTracer> = OnceLock::new();
    /// Spans that are not on their way yet.
    static WAITING: AtomicUsize = AtomicUsize::new(0);
    static SENT: AtomicU64 = AtomicU64::new(0);
    static LOST: AtomicU64 = AtomicU64::new(0);

    thread_local! {
        /// The message whose first span this thread is making.
        static BEGUN: Cell<Option<u128>> = const { Cell::new(None) };
    }

    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        otlp_endpoint: Option<String>,
        #[serde(default)]
        otlp_ca_file: Option<PathBuf>,
        #[serde(default = "ratio")]
        otlp_ratio: f64,
    }

    fn ratio() -> f64 {
        0.01
    }

    /// Sends what waits when the process ends.
    #[derive(Debug)]
    pub struct Exporting(SdkTracerProvider);

    impl Exporting {
        /// Sends the last spans, within seconds. Nothing is traced afterwards.
        pub async fn end(self) {
            IS_ON.store(false, Ordering::Relaxed);
            THRESHOLD.store(NONE, Ordering::Relaxed);
            // It waits with its thread for what this runtime does.
            let flushed =
                tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH_WITHIN));
            match tokio::time::timeout(FLUSH_WITHIN, flushed).await {
                Ok(Ok(Ok(()))) => {}
                _ => tracing::warn!("the last traces could not be sent"),
            }
        }
    }

    /// The layer that exports spans, when it is configured. Within a runtime of tokio, which sends them.
    ///
    /// # Errors
    /// When one of the variables is bad.
    pub(crate) fn start<S>(
        program: &'static str,
        version: &'static str,
    ) -> Result<Option<(impl Layer<S> + use<S>, Exporting)>, EnvError>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let config: Config = env::read("DARDA_")?;
        let threshold = threshold(config.otlp_ratio)?;
        let Some(endpoint) = config.otlp_endpoint else {
            return Ok(None);
        };
        let bad = |reason: String| EnvError::new("DARDA_OTLP_ENDPOINT", reason);
        if !["http://", "https://"]
            .iter()
            .any(|scheme| endpoint.starts_with(scheme))
        {
            let reason = "must be a URL such as http://collector:4317 (OTLP over gRPC)";
            return Err(bad(reason.to_owned()));
        }
        let is_secure = endpoint.starts_with("https://");
        let mut exporter = OtlpExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(TAKEN_WITHIN);
        if is_secure {
            // By itself it trusts nobody.
            exporter = exporter.with_tls_config(trust(config.otlp_ca_file)?);
        }
        let exporter = exporter.build().map_err(|error| bad(error.to_string()))?;
        let limits = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING_MAX)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let exporter = Watched {
            inner: exporter,
            is_failing: Arc::default(),
        };
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(limits)
            .build();
        // What is more is in OTEL_RESOURCE_ATTRIBUTES, which the builder reads.
        let resource = Resource::builder()
            .with_service_name(program)
            .with_attribute(KeyValue::new("service.namespace", "darda"))
            .with_attribute(KeyValue::new("service.version", version))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Bounded(processor))
            .with_id_generator(Ids::default())
            // Only what is chosen gets a span at all.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("darda");
        let _ = TRACER.set(tracer.clone());
        THRESHOLD.store(threshold, Ordering::Relaxed);
        IS_ON.store(true, Ordering::Relaxed);
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO));
        Ok(Some((layer, Exporting(provider))))
    }

    /// The public authorities, or those of a file.
    fn trust(file: Option<PathBuf>) -> Result<ClientTlsConfig, EnvError> {
        let trust = ClientTlsConfig::new();
        let Some(file) = file else {
            return Ok(trust.with_webpki_roots());
        };
        let bad = |reason: String| EnvError::new("DARDA_OTLP_CA_FILE", reason);
        let pem = std::fs::read_to_string(&file)
            .map_err(|error| bad(format!("cannot read {}: {error}", file.display())))?;
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            let reason = format!("{} has no certificate in PEM", file.display());
            return Err(bad(reason));
        }
        Ok(trust.ca_certificate(Certificate::from_pem(pem)))
    }

    /// The threshold of OpenTelemetry's consistent probability sampling: what is not smaller is chosen.
    fn threshold(ratio: f64) -> Result<u64, EnvError> {
        if !(0.0..=1.0).contains(&ratio) {
            let reason = "must be from 0 to 1, such as 0.01 for one in a hundred";
            return Err(EnvError::new("DARDA_OTLP_RATIO", reason));
        }
        Ok(((1.0 - ratio) * NONE as f64).round() as u64)
    }

    /// Whether anything is traced.
    #[must_use]
    pub fn is_on() -> bool {
        IS_ON.load(Ordering::Relaxed)
    }

    /// Whether a message with this id is traced.
    #[must_use]
    pub fn is_chosen(id: u128) -> bool {
        let random = (id as u64) & (NONE - 1);
        // Both halves name something, and neither may be zero.
        random >= THRESHOLD.load(Ordering::Relaxed) && (id as u64) != 0 && (id >> 64) != 0
    }

    /// Makes the first span of a message's trace. The id of the trace is that of the message, and the id of the span its second
    /// half, so that others can name both as the parent of theirs. A message that is sent again has it twice.
    #[must_use]
    pub fn begin(id: u128, make: impl FnOnce() -> Span) -> Span {
        let span = make();
        // Its ids are made when they are first asked for. Neither half of one may be zero.
        let is_fit = (id as u64) != 0 && (id >> 64) != 0;
        BEGUN.set(is_fit.then_some(id));
        let context = span.context();
        BEGUN.set(None);
        span.record(
            "trace_id",
            context.span().span_context().trace_id().to_string(),
        );
        span
    }

    /// Makes a span under the one that a `traceparent` names.
    #[must_use]
    pub fn follow(traceparent: &str, make: impl FnOnce() -> Span) -> Span {
        let span = make();
        // It is new, and if it is disabled there is nothing to be done.
        let _ = span.set_parent(parse(traceparent));
        let trace_id = span.context().span().span_context().trace_id();
        span.record("trace_id", trace_id.to_string());
        span
    }

    /// Makes a span under the first one of a message's trace, if that message is traced.
    #[must_use]
    pub fn under(id: u128, make: impl FnOnce() -> Span) -> Span {
        if !is_chosen(id) {
            return Span::none();
        }
        let span = make();
        let _ = span.set_parent(first_of(id));
        span
    }

    /// Whether a `traceparent` says that its trace is recorded.
    #[must_use]
    pub fn is_recorded(traceparent: &str) -> bool {
        is_on() && parse(traceparent).span().span_context().is_sampled()
    }

    /// Makes a span of one trace point to one of another.
    pub fn link(span: &Span, other: &Span) {
        if super::is_traced(other) && !span.is_disabled() {
            span.add_link(other.context().span().span_context().clone());
        }
    }

    /// The `traceparent` of a span that is exported.
    #[must_use]
    pub fn traceparent(span: &Span) -> Option<String> {
        if span.is_disabled() {
            return None;
        }
        let mut carrier = HashMap::new();
        TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
        carrier.remove(TRACEPARENT)
    }

    fn parse(traceparent: &str) -> Context {
        let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
        TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
    }

    /// Gives a span the name that it deserves, now that it is known.
    pub fn rename(span: &Span, name: String) {
        if !span.is_disabled() {
            span.context().span().update_name(name);
        }
    }

    /// The id of the trace that a span is of, if it is exported: 32 hex digits.
    #[must_use]
    pub fn trace_id(span: &Span) -> Option<String> {
        if span.is_disabled() {
            return None;
        }
        let context = span.context();
        Some(context.span().span_context().trace_id().to_string())
    }

    /// Says that what a span is of failed.
    pub fn fail(span: &Span) {
        if !span.is_disabled() {
            span.context().span().set_status(Status::error(""));
        }
    }

    /// A step of a message's way that is over now, under the first span of its trace. It began so many milliseconds after the
    /// beginning of 1970.
    pub fn passed(id: u128, step: &'static str, begun_ms: i64) {
        let begun = SystemTime::UNIX_EPOCH + Duration::from_millis(begun_ms.max(0).unsigned_abs());
        let Some(tracer) = TRACER.get().filter(|_| is_on()) else {
            return;
        };
        let span = SpanBuilder::from_name(step)
            .with_kind(SpanKind::Internal)
            .with_start_time(begun);
        // It ends when it is dropped.
        drop(tracer.build_with_context(span, &first_of(id)));
    }

    /// The first span of a message's trace, which another process may have made.
    fn first_of(id: u128) -> Context {
        Context::new().with_remote_span_context(SpanContext::new(
            TraceId::from_bytes(id.to_be_bytes()),
            SpanId::from_bytes((id as u64).to_be_bytes()),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        ))
    }

    /// The lines of `/metrics`.
    pub(crate) fn register(metrics: &Metrics) {
        if is_on() {
            metrics.register(|registry| registry.register_collector(Box::new(Counts)));
        }
    }

    #[derive(Debug)]
    struct Counts;

    impl prometheus_client::collector::Collector for Counts {
        fn encode(
            &self,
            mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
        ) -> Result<(), fmt::Error> {
            use prometheus_client::encoding::EncodeMetric as _;
            use prometheus_client::metrics::counter::ConstCounter;
            for (name, help, count) in [
                (
                    "chat_otlp_spans_sent",
                    "Spans that the receiver of traces took",
                    &SENT,
                ),
                (
                    "chat_otlp_spans_lost",
                    "Spans that it did not take, or for which there was no room to wait for it",
                    &LOST,
                ),
            ] {
                let count = ConstCounter::new(count.load(Ordering::Relaxed));
                let kind = count.metric_type();
                count.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
            }
            Ok(())
        }
    }

    /// Random ids, but those of the first span of a message.
    #[derive(Debug, Default)]
    struct Ids(RandomIdGenerator);

    impl IdGenerator for Ids {
        fn new_trace_id(&self) -> TraceId {
            match BEGUN.get() {
                Some(id) => TraceId::from_bytes(id.to_be_bytes()),
                None => self.0.new_trace_id(),
            }
        }

        fn new_span_id(&self) -> SpanId {
            match BEGUN.get() {
                Some(id) => SpanId::from_bytes((id as u64).to_be_bytes()),
                None => self.0.new_span_id(),
            }
        }
    }

    /// Counts those for which there is no room, which the processor behind it would drop without a word.
    #[derive(Debug)]
    struct Bounded(BatchSpanProcessor);

    impl SpanProcessor for Bounded {
        fn on_start(&self, span: &mut SdkSpan, context: &Context) {
            self.0.on_start(span, context);
        }

        fn on_end(&self, span: SpanData) {
            if WAITING.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
                WAITING.fetch_sub(1, Ordering::Relaxed);
                LOST.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.0.on_end(span);
        }

        fn force_flush(&self) -> OTelSdkResult {
            self.0.force_flush()
        }

        fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
            self.0.shutdown_with_timeout(timeout)
        }

        fn set_resource(&mut self, resource: &Resource) {
            self.0.set_resource(resource);
        }
    }

    /// Says once that the receiver is away, and once that it is back.
    #[derive(Debug)]
    struct Watched {
        inner: OtlpExporter,
        is_failing: Arc<AtomicBool>,
    }

    impl SpanExporter for Watched {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            WAITING.fetch_sub(batch.len(), Ordering::Relaxed);
            let count = batch.len() as u64;
            let exported = self.inner.export(batch).await;
            match &exported {
                Ok(()) => {
                    SENT.fetch_add(count, Ordering::Relaxed);
                    if self.is_failing.swap(false, Ordering::Relaxed) {
                        tracing::info!("traces are sent again");
                    }
                }
                Err(error) => {
                    LOST.fetch_add(count, Ordering::Relaxed);
                    if !self.is_failing.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "traces cannot be sent; they are dropped until they can");
                    }
                }
            }
            exported
        }

        fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
            self.inner.shutdown_with_timeout(timeout)
        }

        fn set_resource(&mut self, resource: &Resource) {
            self.inner.set_resource(resource);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_ratio_is_a_threshold() {
            assert_eq!(threshold(1.0).unwrap(), 0);
            assert_eq!(threshold(0.0).unwrap(), NONE);
            assert_eq!(threshold(0.5).unwrap(), NONE / 2);
            for bad in [-0.1, 1.1, f64::NAN] {
                assert_eq!(threshold(bad).unwrap_err().name, "DARDA_OTLP_RATIO");
            }
        }

        #[test]
        fn a_traceparent_says_whether_its_trace_is_recorded() {
            let sampled = |text: &str| parse(text).span().span_context().is_sampled();
            let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
            assert!(sampled(&format!("{trace}-01")));
            assert!(!sampled(&format!("{trace}-00")));
            for bad in ["", "00", "00-0-0-01", &"0".repeat(10_000)] {
                assert!(!sampled(bad), "{bad}");
            }
        }
    }
}
