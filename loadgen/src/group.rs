//! Rooms full of members, and runs of messages through them, at a rate or all at once.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::driver::{Begin, Driver};
use crate::histogram::Histogram;
use crate::process;
use crate::report::{progress, progress_done, short};
use crate::target::Target;
use crate::watch::{Faults, REFUSED, Watch};

/// Who is where and who talks.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub rooms: usize,
    pub members: usize,
    /// Members of each room that send.
    pub senders: usize,
    /// Length of the texts.
    pub bytes: usize,
}

pub struct Group {
    pub driver: Driver,
    pub watch: Watch,
    pub shape: Shape,
    /// The process under test, where known.
    pub pid: Option<u32>,
}

/// Messages to be sent.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Open loop: messages are due at this rate whatever the server does.
    Rate {
        per_sec: f64,
        warm_up: Duration,
        measure: Duration,
    },
    /// All due at the same moment.
    Burst { messages: usize },
}

/// What came of a run.
pub struct Outcome {
    pub messages: usize,
    pub expected: u64,
    pub delivered: u64,
    pub refused: u64,
    /// Deliveries per second in the measured time.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub ack_p99_ms: f64,
    /// Server time per delivery in the measured time.
    pub cpu_us: Option<f64>,
    /// Share of its core the server used, and of the measured time the driver did.
    pub server_busy: Option<f64>,
    pub driver_busy: f64,
    pub frame_bytes: f64,
    /// From the first message due to the last delivery.
    pub took: Duration,
    /// The run was cut short because latency had passed `HOPELESS`.
    pub cut: bool,
    /// Everything was delivered to everyone (and acked).
    pub complete: bool,
    pub faults: Faults,
    /// By the pod of the receiver.
    pub delivery_by_pod: Vec<Histogram>,
    latency: Value,
}

/// A run whose deliveries are this late cannot succeed any more.
const HOPELESS: Duration = Duration::from_millis(1500);
/// Without a delivery for this long what is missing counts as lost.
const SILENCE: Duration = Duration::from_secs(5);

/// A short name that other runs against the same server will not have.
pub fn fresh_name() -> String {
    let id = uuid::Uuid::now_v7().simple().to_string();
    format!("b{}{}", &id[4..12], &id[26..])
}

impl Group {
    /// Connects all members and joins them to their rooms.
    pub fn join(target: &Target, shape: Shape, pid: Option<u32>) -> Result<Self> {
        let name = fresh_name();
        let rooms = (0..shape.rooms)
            .map(|room| format!("{name}-{room}"))
            .collect();
        let watch = Watch::new(target, rooms, shape.members, shape.bytes);
        let mut group = Self {
            driver: Driver::new(&target.addrs)?,
            watch,
            shape,
            pid,
        };
        group.connect(&name, 256)?;
        group.settle(Duration::from_millis(300))?;
        Ok(group)
    }

    /// Opens a connection for every member, at most `window` of them on the way at a time, until all have joined.
    pub fn connect(&mut self, name: &str, window: usize) -> Result<()> {
        let Self { driver, watch, .. } = self;
        let count = watch.members.len();
        let mut opened = 0;
        let mut progressed = Instant::now();
        while watch.joined < count {
            let before = watch.joined;
            // A few at a time, so that those under way are not kept waiting by the opening of others.
            for _ in 0..64 {
                if opened < count && opened - watch.joined < window {
                    let path = watch.target.path(&format!("{name}-u{opened}"));
                    driver.open(&Begin::WebSocket(&path))?;
                    opened += 1;
                }
            }
            let more = opened < count && opened - watch.joined < window;
            let wait = if more {
                Duration::ZERO
            } else {
                Duration::from_millis(50)
            };
            driver.turn(wait, watch)?;
            if watch.closed > 0 || watch.faults.0.contains_key("error frame") {
                bail!(
                    "could not join all members: {}",
                    watch.faults.lines().join("; ")
                );
            }
            if watch.joined > before {
                progressed = Instant::now();
                progress(&format!("joined {} of {count}", watch.joined));
            } else if progressed.elapsed() > Duration::from_secs(20) {
                bail!(
                    "{} of {count} members joined, then nothing for 20 s",
                    watch.joined
                );
            }
        }
        progress_done();
        Ok(())
    }

    /// Waits until nothing has arrived for `quiet`.
    pub fn settle(&mut self, quiet: Duration) -> Result<()> {
        let give_up = Instant::now() + Duration::from_secs(30);
        let (mut frames, mut since) = (self.watch.frames, Instant::now());
        while since.elapsed() < quiet && Instant::now() < give_up {
            self.driver.turn(quiet / 4, &mut self.watch)?;
            if self.watch.frames != frames {
                (frames, since) = (self.watch.frames, Instant::now());
            }
        }
        Ok(())
    }

    /// Sends the load and waits for its deliveries.
    pub fn run(&mut self, load: Load) -> Result<Outcome> {
        self.watch.begin_run();
        self.watch.faults = Faults::default();
        let start = self.driver.now();
        let (messages, interval, warm_up) = match load {
            Load::Rate {
                per_sec,
                warm_up,
                measure,
            } => {
                let messages = per_sec * (warm_up + measure).as_secs_f64();
                ((messages as usize).max(1), 1e9 / per_sec, warm_up)
            }
            Load::Burst { messages } => (messages, 0.0, Duration::ZERO),
        };
        let window_start = start + warm_up.as_nanos() as u64;
        let end = start + (messages as f64 * interval) as u64;
        self.watch.window = window_start..end.max(window_start + 1);
        let mut meter = Meter::default();
        if matches!(load, Load::Burst { .. }) {
            meter.begin(self)?;
        }
        let mut json = Vec::with_capacity(512);
        let mut sent = 0;
        let mut cut = false;
        let mut last_progress = Instant::now();
        while sent < messages && !cut {
            let now = self.driver.now();
            if now >= window_start && meter.began.is_none() {
                meter.begin(self)?;
            }
            let due_by_now = match load {
                Load::Burst { .. } => messages,
                Load::Rate { .. } => now
                    .checked_sub(start)
                    .map_or(0, |late| 1 + (late as f64 / interval) as usize),
            };
            // At most this many before looking at what has arrived.
            let batch_end = due_by_now.min(messages).min(sent + 256);
            while sent < batch_end {
                self.send(sent, start + (sent as f64 * interval) as u64, &mut json);
                sent += 1;
            }
            let next = start + (sent as f64 * interval) as u64;
            // The poll counts in whole milliseconds: it waits only when there is more time than that.
            let wait = next.saturating_sub(self.driver.now());
            let wait = if wait > 2_000_000 {
                wait - 1_500_000
            } else {
                0
            };
            self.driver
                .turn(Duration::from_nanos(wait), &mut self.watch)?;
            cut = self.watch.slowest > HOPELESS.as_nanos() as u64 || self.watch.closed > 0;
            if last_progress.elapsed() > Duration::from_millis(250) {
                last_progress = Instant::now();
                progress(&format!(
                    "sent {sent} of {messages}, delivered {}",
                    self.watch.delivered
                ));
            }
        }
        if matches!(load, Load::Rate { .. }) {
            meter.end(self)?;
        }
        self.drain()?;
        if matches!(load, Load::Burst { .. }) {
            meter.end(self)?;
        }
        progress_done();
        Ok(self.outcome(&meter, start, cut))
    }

    fn send(&mut self, index: usize, due: u64, json: &mut Vec<u8>) {
        let Shape {
            rooms,
            members,
            senders,
            bytes,
        } = self.shape;
        let room = index % rooms;
        let conn = room * members + index / rooms % senders;
        let stamp = self.watch.stamp(room, due);
        json.clear();
        self.watch
            .target
            .put_message(json, &self.watch.rooms[room], stamp, bytes);
        self.driver.send(conn, json);
    }

    /// Waits until all is delivered, or nothing more comes.
    fn drain(&mut self) -> Result<()> {
        let mut last = Instant::now();
        while !self.watch.complete() && last.elapsed() < SILENCE && self.watch.closed == 0 {
            let before = self.watch.frames;
            self.driver
                .turn(Duration::from_millis(20), &mut self.watch)?;
            if self.watch.frames != before {
                last = Instant::now();
            }
        }
        Ok(())
    }

    fn outcome(&mut self, meter: &Meter, start: u64, cut: bool) -> Outcome {
        let complete = self.watch.complete();
        if self.watch.closed == 0 {
            self.watch.verify();
        }
        let watch = &mut self.watch;
        let deliveries = meter.deliveries.max(1) as f64;
        Outcome {
            messages: watch.dues.len(),
            expected: watch.expected(),
            delivered: watch.delivered,
            refused: watch.refused,
            rate: meter.deliveries as f64 / meter.took.as_secs_f64().max(1e-9),
            p50_ms: watch.delivery.quantile_ms(0.5),
            p99_ms: watch.delivery.quantile_ms(0.99),
            ack_p99_ms: watch.ack.quantile_ms(0.99),
            cpu_us: meter.cpu_us.map(|us| us as f64 / deliveries),
            server_busy: meter
                .cpu_us
                .map(|us| us as f64 / meter.took.as_micros() as f64),
            driver_busy: 1.0 - meter.idle.as_secs_f64() / meter.took.as_secs_f64().max(1e-9),
            frame_bytes: watch.delivered_bytes as f64 / watch.delivered.max(1) as f64,
            took: Duration::from_nanos(watch.last_delivery_at.saturating_sub(start)),
            cut,
            complete,
            delivery_by_pod: std::mem::take(&mut watch.delivery_by_pod),
            latency: json!({"delivery": watch.delivery.json(), "ack": watch.ack.json()}),
            faults: std::mem::take(&mut watch.faults),
        }
    }
}

/// What happens between two points in time.
#[derive(Default)]
struct Meter {
    began: Option<(Instant, Duration, Option<u64>, u64)>,
    took: Duration,
    idle: Duration,
    cpu_us: Option<u64>,
    deliveries: u64,
}

impl Meter {
    fn begin(&mut self, group: &Group) -> Result<()> {
        let cpu = group.pid.map(process::cpu_us).transpose()?;
        self.began = Some((
            Instant::now(),
            group.driver.idle(),
            cpu,
            group.watch.delivered,
        ));
        Ok(())
    }

    fn end(&mut self, group: &Group) -> Result<()> {
        let Some((at, idle, cpu, delivered)) = self.began else {
            return Ok(());
        };
        self.took = at.elapsed();
        self.idle = group.driver.idle().saturating_sub(idle);
        self.deliveries = group.watch.delivered - delivered;
        if let (Some(pid), Some(cpu)) = (group.pid, cpu) {
            self.cpu_us = Some(process::cpu_us(pid)?.saturating_sub(cpu));
        }
        Ok(())
    }
}

impl Outcome {
    /// Whether the server kept up: everything delivered, and 99 of 100 within `p99_ms_max`.
    pub fn sustained(&self, p99_ms_max: f64) -> bool {
        self.complete && !self.cut && self.faults.0.is_empty() && self.p99_ms <= p99_ms_max
    }

    /// Promises that were broken, as opposed to load that was too high.
    pub fn broken(&self) -> Vec<String> {
        self.faults.lines_but(REFUSED)
    }

    pub fn json(&self) -> Value {
        json!({
            "messages": self.messages,
            "expected_deliveries": self.expected,
            "deliveries": self.delivered,
            "refused": self.refused,
            "deliveries_per_sec": self.rate,
            "latency": self.latency,
            "server_cpu_us_per_delivery": self.cpu_us,
            "server_busy": self.server_busy,
            "driver_busy": self.driver_busy,
            "frame_bytes": self.frame_bytes,
            "took_ms": self.took.as_secs_f64() * 1e3,
            "cut_short": self.cut,
            "complete": self.complete,
        })
    }

    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let unknown = || "- (no --pid)".to_owned();
        vec![
            ("messages", self.messages.to_string()),
            (
                "deliveries",
                format!("{} of {}", self.delivered, self.expected),
            ),
            ("messages refused", self.refused.to_string()),
            ("deliveries/s", short(self.rate)),
            ("delivery p50", format!("{:.2} ms", self.p50_ms)),
            ("delivery p99", format!("{:.2} ms", self.p99_ms)),
            ("ack p99", format!("{:.2} ms", self.ack_p99_ms)),
            (
                "server CPU per delivery",
                self.cpu_us.map_or_else(unknown, |us| format!("{us:.2} µs")),
            ),
            (
                "server busy",
                self.server_busy.map_or_else(unknown, percent),
            ),
            ("driver busy", percent(self.driver_busy)),
            ("bytes per frame", format!("{:.0}", self.frame_bytes)),
        ]
    }
}
