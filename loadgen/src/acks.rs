//! Durable acks: senders that each keep a few messages on the way and send the next when one is acked. What could not be
//! taken now is sent again, with the same id.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::driver::{Begin, Driver, Handler, Outbox};
use crate::group::fresh_name;
use crate::histogram::Histogram;
use crate::process;
use crate::report::{Report, progress, progress_done, short};
use crate::stamp::Stamp;
use crate::target::{self, Kind, Protocol, Target};
use crate::watch::Faults;
use crate::words;

#[derive(Clone, Debug)]
pub struct Plan {
    pub senders: usize,
    /// Messages each sender has on the way.
    pub window: usize,
    pub rooms: Vec<String>,
    /// The senders' user, or each its own.
    pub user: Option<String>,
    pub text: Text,
    pub stop: Stop,
}

#[derive(Clone, Copy, Debug)]
pub enum Text {
    /// Of this many bytes.
    Stamped(usize),
    /// Words from a fixed vocabulary, for a search to find.
    Words,
}

#[derive(Clone, Copy, Debug)]
pub enum Stop {
    After(Duration),
    Messages(u64),
}

pub struct Outcome {
    pub acks: u64,
    pub rate: f64,
    pub latency: Histogram,
    pub cpu_us: Option<f64>,
    /// Messages that had to be sent again.
    pub again: u64,
    pub faults: Faults,
}

impl Plan {
    /// Senders over fresh rooms, each with one message on the way.
    pub fn closed_loop(senders: usize, rooms: usize, bytes: usize, time: Duration) -> Self {
        let name = fresh_name();
        Self {
            senders,
            window: 1,
            rooms: (0..rooms.min(senders))
                .map(|room| format!("{name}-{room}"))
                .collect(),
            user: None,
            text: Text::Stamped(bytes),
            stop: Stop::After(time),
        }
    }

    /// Texts of words into rooms in turn, from eight connections of one user.
    pub fn fill(rooms: Vec<String>, user: String, messages: u64, window: usize) -> Self {
        const CONNECTIONS: usize = 8;
        Self {
            senders: CONNECTIONS,
            window: window.div_ceil(CONNECTIONS),
            rooms,
            user: Some(user),
            text: Text::Words,
            stop: Stop::Messages(messages),
        }
    }
}

/// Sends as planned; the rooms must be new when `verify` is to compare what was acked with what the log holds.
pub fn run(target: &Target, plan: &Plan, pid: Option<u32>, verify: bool) -> Result<Outcome> {
    ensure!(target.protocol == Protocol::Darda, "only Darda acks");
    let mut driver = Driver::new(&target.addrs)?;
    let mut senders = Senders::new(plan, target::millis() - driver.now() / 1_000_000);
    let name = fresh_name();
    for sender in 0..plan.senders {
        let own = format!("{name}-u{sender}");
        let user = plan.user.as_deref().unwrap_or(&own);
        driver.open(&Begin::WebSocket(&target.path(user)))?;
    }
    let give_up = Instant::now() + Duration::from_secs(20);
    while senders.welcomed < plan.senders {
        driver.turn(Duration::from_millis(50), &mut senders)?;
        if Instant::now() > give_up || senders.closed {
            bail!(
                "the senders were not welcomed: {}",
                senders.faults.lines().join("; ")
            );
        }
    }
    // The first message of a room makes it and joins the sender; that is not what is measured.
    let warm_up = match plan.stop {
        Stop::After(_) => Duration::from_millis(500),
        Stop::Messages(_) => Duration::ZERO,
    };
    let began = driver.now();
    senders.measure_from = began + warm_up.as_nanos() as u64;
    let mut frame = Vec::new();
    for conn in 0..plan.senders {
        for _ in 0..plan.window {
            if senders.next(conn, driver.now(), &mut frame) {
                driver.send(conn, &frame);
            }
        }
    }
    let mut cpu = None;
    let mut progressed = (0, Instant::now());
    while !(senders.stopping && senders.on_the_way() == 0) {
        driver.turn(Duration::from_millis(20), &mut senders)?;
        let now = driver.now();
        while let Some((conn, index)) = senders.due(now) {
            if senders.put_again(conn, index, &mut frame) {
                driver.send(conn, &frame);
            }
        }
        if now >= senders.measure_from && cpu.is_none() {
            cpu = Some(pid.map(process::cpu_us).transpose()?);
        }
        if let Stop::After(time) = plan.stop {
            senders.stopping |= now >= senders.measure_from + time.as_nanos() as u64;
        }
        if senders.answered != progressed.0 {
            progressed = (senders.answered, Instant::now());
        } else if progressed.1.elapsed() > Duration::from_secs(10) || senders.closed {
            let missing = senders.on_the_way();
            senders.faults.add("no ack", || {
                format!("{missing} messages were never answered")
            });
            break;
        }
        if senders.answered.is_multiple_of(64) {
            progress(&format!("acked {}", senders.answered));
        }
    }
    progress_done();
    let took = driver.now().saturating_sub(senders.measure_from) as f64 / 1e9;
    let measured = senders.latency.count();
    let cpu_us = match (pid, cpu.flatten()) {
        (Some(pid), Some(before)) => {
            Some((process::cpu_us(pid)? - before) as f64 / measured.max(1) as f64)
        }
        _ => None,
    };
    if verify {
        let kept = count_messages(target, &plan.rooms)?;
        if kept != senders.acked {
            let acked = senders.acked;
            senders.faults.add("log differs", || {
                format!("{acked} acked, {kept} in the log")
            });
        }
    }
    Ok(Outcome {
        acks: senders.acked,
        rate: measured as f64 / took,
        latency: senders.latency,
        cpu_us,
        again: senders.again,
        faults: senders.faults,
    })
}

impl Outcome {
    pub fn json(&self) -> Value {
        json!({
            "acks": self.acks,
            "acks_per_sec": self.rate,
            "ack": self.latency.json(),
            "server_cpu_us_per_ack": self.cpu_us,
            "sent_again": self.again,
        })
    }

    pub fn report(&self, title: String) -> Report {
        Report {
            title,
            rows: vec![
                ("acks", self.acks.to_string()),
                ("acks/s", short(self.rate)),
                (
                    "ack p50",
                    format!("{:.2} ms", self.latency.quantile_ms(0.5)),
                ),
                (
                    "ack p99",
                    format!("{:.2} ms", self.latency.quantile_ms(0.99)),
                ),
                ("sent again", self.again.to_string()),
                (
                    "server CPU per ack",
                    self.cpu_us
                        .map_or("-".to_owned(), |us| format!("{us:.1} µs")),
                ),
            ],
            json: self.json(),
            broken: self.faults.lines(),
        }
    }
}

struct Senders<'a> {
    plan: &'a Plan,
    /// Per connection: number and time of what is on the way, oldest first.
    on_the_way: Vec<VecDeque<(u32, u64)>>,
    sent: u32,
    acked: u64,
    answered: u64,
    welcomed: usize,
    measure_from: u64,
    stopping: bool,
    closed: bool,
    latency: Histogram,
    faults: Faults,
    run: u16,
    /// The driver's time 0, in milliseconds since the Unix epoch.
    epoch: u64,
    /// When, on which connection and what is sent again.
    waiting: VecDeque<(u64, usize, u32)>,
    again: u64,
}

/// What a server says of a message that it does not take.
#[derive(serde::Deserialize)]
struct Refused {
    id: Option<String>,
    retry_after_ms: Option<u64>,
}

impl<'a> Senders<'a> {
    fn new(plan: &'a Plan, epoch: u64) -> Self {
        Self {
            plan,
            on_the_way: vec![VecDeque::with_capacity(plan.window); plan.senders],
            sent: 0,
            acked: 0,
            answered: 0,
            welcomed: 0,
            measure_from: 0,
            stopping: false,
            closed: false,
            latency: Histogram::default(),
            faults: Faults::default(),
            run: fresh_run(),
            epoch,
            waiting: VecDeque::new(),
            again: 0,
        }
    }

    /// What it is time to send again.
    fn due(&mut self, now: u64) -> Option<(usize, u32)> {
        let (at, conn, index) = *self.waiting.front()?;
        if at > now {
            return None;
        }
        self.waiting.pop_front();
        Some((conn, index))
    }

    /// Writes a message once more; `false` when it was answered meanwhile.
    fn put_again(&mut self, conn: usize, index: u32, frame: &mut Vec<u8>) -> bool {
        let mut on_the_way = self.on_the_way[conn].iter();
        let Some((_, at)) = on_the_way.find(|(number, _)| *number == index) else {
            return false;
        };
        let at = *at;
        self.again += 1;
        self.put(conn, index, at, frame);
        true
    }

    /// Takes a refusal; `false` when the message need not be tried again.
    fn refused(&mut self, conn: usize, payload: &[u8], now: u64) -> bool {
        let Ok(Refused {
            id: Some(id),
            retry_after_ms: Some(pause),
        }) = serde_json::from_slice(payload)
        else {
            return false;
        };
        let Some((run, index)) = target::numbers(&id) else {
            return false;
        };
        if run != self.run {
            return false;
        }
        self.waiting
            .push_back((now + pause.saturating_mul(1_000_000), conn, index));
        true
    }

    fn on_the_way(&self) -> usize {
        self.on_the_way.iter().map(VecDeque::len).sum()
    }

    /// Writes the next message of a connection; `false` when there is none.
    fn next(&mut self, conn: usize, now: u64, frame: &mut Vec<u8>) -> bool {
        if let Stop::Messages(count) = self.plan.stop {
            self.stopping |= u64::from(self.sent) >= count;
        }
        if self.stopping {
            return false;
        }
        let index = self.sent;
        self.sent += 1;
        self.on_the_way[conn].push_back((index, now));
        self.put(conn, index, now, frame);
        true
    }

    /// Writes the message that was due at a time.
    fn put(&self, conn: usize, index: u32, at: u64, frame: &mut Vec<u8>) {
        // One user may be in all rooms; of many, each keeps to one.
        let place = match self.plan.user {
            Some(_) => index as usize,
            None => conn,
        };
        let room = &self.plan.rooms[place % self.plan.rooms.len()];
        frame.clear();
        // The same when it is written again.
        let id = target::message_id(self.run, index, self.epoch + at / 1_000_000);
        target::put_send_head(frame, id, room);
        match self.plan.text {
            Text::Stamped(bytes) => Stamp {
                run: self.run,
                index,
                due: at,
            }
            .put_text(frame, bytes),
            Text::Words => words::Generator::new(index.into()).put_text(frame, 12),
        }
        frame.extend(b"\"}");
    }

    fn answered(&mut self, conn: usize, index: u32, now: u64, out: &mut Outbox) -> bool {
        let on_the_way = &mut self.on_the_way[conn];
        let Some(place) = on_the_way.iter().position(|(number, _)| *number == index) else {
            self.faults.add("unexpected ack", || {
                format!("message {index} on connection {conn}")
            });
            return false;
        };
        let (_, at) = on_the_way.remove(place).expect("the place was just found");
        self.answered += 1;
        if at >= self.measure_from {
            self.latency.record(now - at);
        }
        let mut frame = Vec::with_capacity(256);
        if self.next(conn, now, &mut frame) {
            out.text(&frame);
        }
        true
    }
}

/// Ids of two plans run by one process must not meet.
fn fresh_run() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
    static RUNS: AtomicU16 = AtomicU16::new(40_000);
    RUNS.fetch_add(1, Relaxed)
}

impl Handler for Senders<'_> {
    fn text(&mut self, conn: usize, payload: &[u8], now: u64, out: &mut Outbox) {
        match target::kind(payload) {
            Kind::Welcome => self.welcomed += 1,
            Kind::Ack => {
                if let Some((run, index)) = target::acked(payload)
                    && run == self.run
                    && self.answered(conn, index, now, out)
                {
                    self.acked += 1;
                }
            }
            Kind::Error if self.refused(conn, payload, now) => {}
            Kind::Error => {
                self.faults.add("error frame", || {
                    String::from_utf8_lossy(payload).into_owned()
                });
                // Without this the sender would wait for ever; what was refused is not acked.
                if let Some(&(index, _)) = self.on_the_way[conn].front() {
                    self.stopping = true;
                    self.answered(conn, index, now, out);
                }
            }
            _ => {}
        }
    }

    fn closed(&mut self, conn: usize, why: &str) {
        self.closed = true;
        self.faults
            .add("closed connection", || format!("sender {conn}: {why}"));
    }
}

/// Reads rooms from their beginning to their head and counts the messages; a hole is a fault.
fn count_messages(target: &Target, rooms: &[String]) -> Result<u64> {
    let mut driver = Driver::new(&target.addrs)?;
    let mut reader = Reader {
        target,
        rooms: rooms.iter().map(|room| (room.clone(), (0, None))).collect(),
        messages: 0,
        trouble: None,
    };
    let path = target.path(&format!("{}-r", fresh_name()));
    driver.open(&Begin::WebSocket(&path))?;
    let mut progressed = (0, Instant::now());
    while !reader
        .rooms
        .values()
        .all(|(position, head)| head.is_some_and(|head| *position >= head))
    {
        driver.turn(Duration::from_millis(50), &mut reader)?;
        if let Some(trouble) = &reader.trouble {
            bail!("the log could not be read back: {trouble}");
        }
        if reader.messages != progressed.0 {
            progressed = (reader.messages, Instant::now());
        }
        ensure!(
            progressed.1.elapsed() < Duration::from_secs(10),
            "the log could not be read back: nothing came for 10 s"
        );
    }
    Ok(reader.messages)
}

struct Reader<'a> {
    target: &'a Target,
    /// Position and head of each room.
    rooms: HashMap<String, (u64, Option<u64>)>,
    messages: u64,
    trouble: Option<String>,
}

#[derive(serde::Deserialize)]
struct Seen {
    room: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    prev: Option<u64>,
    #[serde(default)]
    head: u64,
    #[serde(default)]
    kind: String,
}

impl Handler for Reader<'_> {
    fn text(&mut self, _conn: usize, payload: &[u8], _now: u64, out: &mut Outbox) {
        let kind = target::kind(payload);
        if kind == Kind::Welcome {
            for room in self.rooms.keys() {
                out.text(self.target.join(room, Some(0)).as_bytes());
            }
        }
        if !matches!(kind, Kind::Subscribed | Kind::Event | Kind::Error) {
            return;
        }
        let words = || String::from_utf8_lossy(payload).into_owned();
        let Ok(seen) = serde_json::from_slice::<Seen>(payload) else {
            self.trouble = Some(words());
            return;
        };
        let Some((position, head)) = self.rooms.get_mut(&seen.room) else {
            return;
        };
        match kind {
            Kind::Subscribed => *head = Some(seen.head),
            Kind::Event if seen.prev.is_none_or(|prev| prev == *position) => {
                *position = seen.seq;
                self.messages += u64::from(seen.kind == "message");
            }
            _ => self.trouble = Some(words()),
        }
    }

    fn closed(&mut self, _conn: usize, why: &str) {
        self.trouble = Some(why.to_owned());
    }
}
