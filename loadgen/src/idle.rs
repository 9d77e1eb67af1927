//! What a connection costs that does nothing: memory while it is there, processor time to come and to come back.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::driver::Driver;
use crate::group::{Group, Shape, fresh_name};
use crate::process;
use crate::report::Report;
use crate::target::Target;
use crate::watch::Watch;

pub struct Outcome {
    pub connections: usize,
    pub rss_kib_each: f64,
    pub tcp_kib_each: f64,
    /// To connect, upgrade and join for the first time, which makes room and membership.
    pub first_cpu_us: f64,
    /// The same by somebody who is a member already.
    pub again_cpu_us: f64,
}

/// Connects `connections` members, `members` to a room, drops them and connects them again.
pub fn run(target: &Target, connections: usize, members: usize, pid: u32) -> Result<Outcome> {
    let shape = Shape {
        rooms: connections.div_ceil(members),
        members,
        senders: 1,
        bytes: 100,
    };
    let name = fresh_name();
    let rooms: Vec<String> = (0..shape.rooms)
        .map(|room| format!("{name}-{room}"))
        .collect();
    let count = (shape.rooms * members) as f64;
    // What a process allocates once is not what a connection costs.
    let warm_up = Shape {
        rooms: 10,
        members: 10,
        ..shape
    };
    drop(Group::join(target, warm_up, None)?);
    let mut first = None;
    let mut passes = Vec::new();
    for _ in 0..2 {
        wait_until_calm(pid)?;
        let (cpu, rss, tcp) = (
            process::cpu_us(pid)?,
            process::rss_kib(pid)?,
            process::tcp_kib()?,
        );
        let mut group = Group {
            driver: Driver::new(&target.addrs)?,
            watch: Watch::new(target, rooms.clone(), members, shape.bytes),
            shape,
            pid: Some(pid),
        };
        group.connect(&name, 64)?;
        group.settle(Duration::from_millis(500))?;
        wait_until_calm(pid)?;
        passes.push((process::cpu_us(pid)? - cpu) as f64 / count);
        first.get_or_insert((
            (process::rss_kib(pid)? as f64 - rss as f64) / count,
            (process::tcp_kib()? as f64 - tcp as f64) / count,
        ));
    }
    let (rss_kib_each, tcp_kib_each) = first.unwrap_or_default();
    Ok(Outcome {
        connections: count as usize,
        rss_kib_each,
        tcp_kib_each,
        first_cpu_us: passes[0],
        again_cpu_us: passes[1],
    })
}

/// Waits until a process has used no processor time for a while (at most 10 s).
pub fn wait_until_calm(pid: u32) -> Result<()> {
    let give_up = Instant::now() + Duration::from_secs(10);
    let mut before = process::cpu_us(pid)?;
    loop {
        std::thread::sleep(Duration::from_millis(250));
        let now = process::cpu_us(pid)?;
        if now - before <= 10_000 || Instant::now() > give_up {
            return Ok(());
        }
        before = now;
    }
}

impl Outcome {
    pub fn json(&self) -> serde_json::Value {
        json!({
            "connections": self.connections,
            "rss_kib_per_connection": self.rss_kib_each,
            "tcp_kib_per_connection_both_ends": self.tcp_kib_each,
            "cpu_us_first_join": self.first_cpu_us,
            "cpu_us_come_back": self.again_cpu_us,
        })
    }

    pub fn report(&self) -> Report {
        Report {
            title: format!("{} idle joined connections", self.connections),
            rows: vec![
                (
                    "RSS per connection",
                    format!("{:.1} KiB", self.rss_kib_each),
                ),
                (
                    "TCP memory per connection, both ends",
                    format!("{:.1} KiB", self.tcp_kib_each),
                ),
                (
                    "CPU to connect and join first",
                    format!("{:.0} µs", self.first_cpu_us),
                ),
                ("CPU to come back", format!("{:.0} µs", self.again_cpu_us)),
            ],
            json: self.json(),
            broken: Vec::new(),
        }
    }
}
