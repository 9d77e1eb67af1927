//! GET requests at a rate: how long until the answer is there, counted from when the request was due.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use crate::driver::{Begin, Driver, Handler, Outbox};
use crate::frame::head_end;
use crate::histogram::Histogram;
use crate::process;
use crate::report::{Report, short};
use crate::target::Target;
use crate::watch::Faults;
use crate::words::{self, Generator};

#[derive(Clone, Debug)]
pub struct Plan {
    /// `{n}` becomes a number from 1 to `number_max`, `{word}` a word of the vocabulary.
    pub path: String,
    pub number_max: u64,
    pub user: String,
    pub rate: f64,
    pub time: Duration,
    pub connections: usize,
}

pub struct Outcome {
    pub latency: Histogram,
    pub bytes: u64,
    pub cpu_us: Option<f64>,
    pub faults: Faults,
}

/// How long after the last request was due answers are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(target: &Target, plan: &Plan, pid: Option<u32>) -> Result<Outcome> {
    let mut driver = Driver::new(&target.addrs)?;
    let mut client = Client {
        waiting: VecDeque::new(),
        busy: vec![None; plan.connections],
        idle: (0..plan.connections).collect(),
        latency: Histogram::default(),
        answers: 0,
        bytes: 0,
        faults: Faults::default(),
    };
    for _ in 0..plan.connections {
        driver.open(&Begin::Plain)?;
    }
    let mut random = Generator::new(7);
    let cpu = pid.map(process::cpu_us).transpose()?;
    let count = ((plan.rate * plan.time.as_secs_f64()) as u64).max(1);
    let start = driver.now() + 1_000_000;
    let due = |index: u64| start + (index as f64 * 1e9 / plan.rate) as u64;
    let mut made = 0;
    let mut progressed = (0, Instant::now());
    while client.answers < count {
        while made < count && due(made) <= driver.now() {
            client
                .waiting
                .push_back((due(made), request(target, plan, &mut random)));
            made += 1;
        }
        while !client.idle.is_empty()
            && let Some((due, request)) = client.waiting.pop_front()
        {
            // The one that has waited longest: the server closes connections on which nothing comes.
            let conn = client.idle.remove(0);
            client.busy[conn] = Some(due);
            driver.send_raw(conn, &request);
        }
        let wait = if made < count {
            due(made).saturating_sub(driver.now())
        } else {
            50_000_000
        };
        let wait = if wait > 2_000_000 {
            wait - 1_500_000
        } else {
            0
        };
        driver.turn(Duration::from_nanos(wait), &mut client)?;
        if driver.now() > due(count) + PATIENCE.as_nanos() as u64 {
            let answers = client.answers;
            client.faults.add("too slow", || {
                format!("{answers} of {count} requests were answered")
            });
            break;
        }
        if client.answers != progressed.0 {
            progressed = (client.answers, Instant::now());
        } else if progressed.1.elapsed() > Duration::from_secs(10)
            || client.faults.0.contains_key("closed connection")
        {
            bail!(
                "no more answers after {}: {}",
                client.answers,
                client.faults.lines().join("; ")
            );
        }
    }
    let cpu_us = match (pid, cpu) {
        (Some(pid), Some(before)) => {
            Some((process::cpu_us(pid)? - before) as f64 / client.answers.max(1) as f64)
        }
        _ => None,
    };
    Ok(Outcome {
        latency: client.latency,
        bytes: client.bytes / client.answers.max(1),
        cpu_us,
        faults: client.faults,
    })
}

fn request(target: &Target, plan: &Plan, random: &mut Generator) -> Vec<u8> {
    let number = 1 + random.below(plan.number_max);
    let word = words::word(random.below(u64::from(words::VOCABULARY)) as u32);
    let path = plan
        .path
        .replace("{n}", &number.to_string())
        .replace("{word}", &word);
    let (host, user) = (target.addrs[0], &plan.user);
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nx-darda-user: {user}\r\nAccept: application/json\r\n\r\n").into_bytes()
}

impl Outcome {
    pub fn json(&self) -> serde_json::Value {
        json!({"latency": self.latency.json(), "bytes_per_answer": self.bytes, "server_cpu_us_per_request": self.cpu_us})
    }

    pub fn report(&self, plan: &Plan) -> Report {
        Report {
            title: format!("GET {} at {} a second", plan.path, plan.rate),
            rows: vec![
                ("answers", self.latency.count().to_string()),
                ("p50", format!("{:.2} ms", self.latency.quantile_ms(0.5))),
                ("p99", format!("{:.2} ms", self.latency.quantile_ms(0.99))),
                ("max", format!("{:.2} ms", self.latency.max_ms())),
                ("bytes per answer", short(self.bytes as f64)),
                (
                    "server CPU per request",
                    self.cpu_us
                        .map_or("-".to_owned(), |us| format!("{us:.0} µs")),
                ),
            ],
            json: self.json(),
            broken: self.faults.lines(),
        }
    }
}

struct Client {
    /// Requests that are due and have no connection yet.
    waiting: VecDeque<(u64, Vec<u8>)>,
    /// When the request on each connection was due.
    busy: Vec<Option<u64>>,
    idle: Vec<usize>,
    latency: Histogram,
    answers: u64,
    bytes: u64,
    faults: Faults,
}

impl Handler for Client {
    fn raw(&mut self, conn: usize, bytes: &[u8], now: u64, out: &mut Outbox) -> usize {
        let Some(length) = answer_bytes(bytes) else {
            return 0;
        };
        if !bytes.starts_with(b"HTTP/1.1 200") {
            self.faults.add("not 200", || {
                String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned()
            });
        }
        if let Some(due) = self.busy[conn].take() {
            self.latency.record(now.saturating_sub(due));
            self.answers += 1;
            self.bytes += length as u64;
        }
        if let Some((due, request)) = self.waiting.pop_front() {
            self.busy[conn] = Some(due);
            out.raw(&request);
        } else {
            self.idle.push(conn);
        }
        length
    }

    fn closed(&mut self, conn: usize, why: &str) {
        self.faults
            .add("closed connection", || format!("connection {conn}: {why}"));
    }
}

/// How long the answer at the start of `bytes` is, once all of it is there.
fn answer_bytes(bytes: &[u8]) -> Option<usize> {
    let end = head_end(bytes)?;
    let head = std::str::from_utf8(&bytes[..end])
        .ok()?
        .to_ascii_lowercase();
    if let Some((_, rest)) = head.split_once("\r\ncontent-length:") {
        let length: usize = rest.lines().next()?.trim().parse().ok()?;
        return (bytes.len() >= end + length).then_some(end + length);
    }
    if !head.contains("\r\ntransfer-encoding: chunked") {
        return Some(end);
    }
    let mut at = end;
    loop {
        let line = bytes[at..].windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at += line + 2 + size + 2;
        if bytes.len() < at {
            return None;
        }
        if size == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::answer_bytes;

    #[test]
    fn an_answer_ends_where_it_says() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x\r\n0123456789\r\n0\r\n\r\n";
        let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
        for answer in [&plain[..], chunked, empty] {
            let more = [answer, b"HTTP"].concat();
            assert_eq!(answer_bytes(&more), Some(answer.len()));
            for cut in 0..answer.len() {
                assert_eq!(answer_bytes(&answer[..cut]), None, "{cut}");
            }
        }
    }
}
