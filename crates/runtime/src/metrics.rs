//! Metrics for Prometheus.
//!
//! A service registers its own `chat_…` metrics at its start and keeps handles to them; this module adds what every
//! process has, and writes the text that is scraped.

use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// All metrics of the process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<RwLock<Registry>>);

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Metrics {
    /// Metrics with what every process has: memory, files and their limits, processor time, start time, its clock, and its
    /// name and version.
    #[must_use]
    pub fn new(program: &'static str, version: &'static str) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        registry.register(
            "chat_build",
            "The program and its version",
            Info::new([("program", program), ("version", version)]),
        );
        let metrics = Self(Arc::new(RwLock::new(registry)));
        #[cfg(feature = "otlp")]
        crate::trace::register(&metrics);
        metrics
    }

    /// Lets a service register metrics. Names are written in full, without a counter's `_total`.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.0.write().unwrap_or_else(|e| e.into_inner()))
    }

    /// The text that is scraped.
    ///
    /// # Errors
    /// When a collector fails.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self.0.read().unwrap_or_else(|e| e.into_inner());
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// What Linux knows about this process. Metrics it does not tell are left out.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<f64>| {
            let Some(value) = value else {
                return Ok(());
            };
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        gauge(
            "process_resident_memory",
            "Memory in use",
            Some(&Unit::Bytes),
            resident_bytes(),
        )?;
        gauge(
            "chat_memory_limit",
            "Memory that the process may use: the limit of its container, or that of the machine",
            Some(&Unit::Bytes),
            memory_limit_bytes(),
        )?;
        gauge(
            "process_open_fds",
            "Open files and sockets",
            None,
            open_fds(),
        )?;
        gauge(
            "process_max_fds",
            "Files and sockets that may be open at once",
            None,
            max_fds(),
        )?;
        gauge(
            "process_start_time",
            "When the process began, since 1970",
            Some(&Unit::Seconds),
            start_secs(),
        )?;
        gauge(
            "chat_time",
            "What the clock of the process says, since 1970",
            Some(&Unit::Seconds),
            now_secs(),
        )?;
        if let Some(secs) = cpu_secs() {
            let metric = ConstCounter::new(secs);
            metric.encode(encoder.encode_descriptor(
                "process_cpu",
                "Processor time used",
                Some(&Unit::Seconds),
                metric.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

/// Linux reports times to programs in hundredths of a second, whatever its own clock is.
const TICKS_PER_SEC: f64 = 100.0;

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// A container sees its own limits where a machine has those of all.
fn memory_limit_bytes() -> Option<f64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = machine
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    let own = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    // Without a limit the file says a word, or a number beyond all memory.
    let own = own.iter().find_map(|file| {
        let limit = std::fs::read_to_string(file).ok()?;
        limit.trim().parse::<f64>().ok()
    });
    Some(own.map_or(kib * 1024.0, |limit| limit.min(kib * 1024.0)))
}

fn max_fds() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn now_secs() -> Option<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.ok().map(|now| now.as_secs_f64())
}

fn open_fds() -> Option<f64> {
    // One of them is the handle that lists them.
    Some(
        std::fs::read_dir("/proc/self/fd")
            .ok()?
            .count()
            .saturating_sub(1) as f64,
    )
}

/// Field `number` of `/proc/self/stat`, counted from 1 as its manual does.
fn stat(number: usize) -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in brackets that may hold anything.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_secs() -> Option<f64> {
    Some((stat(14)? + stat(15)?) / TICKS_PER_SEC)
}

fn start_secs() -> Option<f64> {
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + stat(22)? / TICKS_PER_SEC)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    fn value(text: &str, name: &str) -> f64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} is missing in {text}"))
            .parse()
            .unwrap()
    }

    #[test]
    fn the_process_and_the_service_are_measured() {
        let metrics = Metrics::new("x", "1");
        let sent = Counter::<u64>::default();
        metrics.register(|registry| registry.register("chat_sent", "Sent", sent.clone()));
        sent.inc();
        let text = metrics.render().unwrap();
        assert_eq!(value(&text, "chat_sent_total"), 1.0);
        assert!(
            text.contains("chat_build_info{program=\"x\",version=\"1\"} 1"),
            "{text}"
        );
        assert!(value(&text, "process_resident_memory_bytes") > 100_000.0);
        assert!(value(&text, "process_open_fds") >= 3.0);
        assert!(value(&text, "process_max_fds") > value(&text, "process_open_fds"));
        let (used, limit) = ("process_resident_memory_bytes", "chat_memory_limit_bytes");
        assert!(value(&text, limit) > value(&text, used));
        assert!(value(&text, "process_cpu_seconds_total") >= 0.0);
        let started = value(&text, "process_start_time_seconds");
        let now = now_secs().unwrap();
        assert!((now - started).abs() < 3600.0, "{started}");
        assert!((now - value(&text, "chat_time_seconds")).abs() < 60.0);
        assert!(text.ends_with("# EOF\n"));
    }
}
