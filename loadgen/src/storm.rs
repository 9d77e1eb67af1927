//! Everybody comes back at once: clients that missed messages reconnect together, and each must get exactly what it
//! missed, in order.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::driver::Driver;
use crate::group::{Group, Load, Shape, fresh_name};
use crate::histogram::Histogram;
use crate::idle::wait_until_calm;
use crate::process;
use crate::report::Report;
use crate::target::{Protocol, Target};
use crate::watch::{Faults, Watch};

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub clients: usize,
    pub rooms: usize,
    /// Messages each client misses.
    pub missed: usize,
    pub bytes: usize,
}

pub struct Outcome {
    pub plan: Plan,
    /// From the first connect until the last client has everything.
    pub last_has_all: Duration,
    /// When each client had everything.
    pub each: Histogram,
    pub cpu_us_per_client: Option<f64>,
    pub faults: Faults,
}

pub fn run(target: &Target, plan: Plan, pid: Option<u32>) -> Result<Outcome> {
    ensure!(
        target.protocol != Protocol::Echo,
        "the echo protocol keeps nothing to come back for"
    );
    let Plan {
        clients,
        rooms: room_count,
        missed,
        bytes,
    } = plan;
    let members = clients / room_count;
    ensure!(
        members > 0,
        "there must be at least as many clients as rooms"
    );
    let name = fresh_name();
    let rooms: Vec<String> = (0..room_count)
        .map(|room| format!("{name}-{room}"))
        .collect();
    let group = |members: usize, senders: usize| -> Result<Group> {
        Ok(Group {
            driver: Driver::new(&target.addrs)?,
            watch: Watch::new(target, rooms.clone(), members, bytes),
            shape: Shape {
                rooms: room_count,
                members,
                senders,
                bytes,
            },
            pid,
        })
    };
    let mut senders = group(1, 1)?;
    let mut away = group(members, 1)?;
    senders.connect(&format!("{name}-s"), 64)?;
    away.connect(&format!("{name}-c"), 64)?;
    // One message everybody sees, so that everybody has a position.
    send(&mut senders, room_count)?;
    away.settle(Duration::from_millis(300))?;
    let mut back = group(members, 1)?;
    back.watch.members.clone_from(&away.watch.members);
    drop(away);
    for member in &mut back.watch.members {
        member.joined = false;
        member.after = Some(member.position);
    }
    senders.settle(Duration::from_millis(300))?;
    if let Some(pid) = pid {
        wait_until_calm(pid)?;
    }
    send(&mut senders, room_count * missed)?;

    back.watch.begin_run();
    back.watch.run = senders.watch.run;
    back.watch.sent.clone_from(&senders.watch.sent);
    let cpu = pid.map(process::cpu_us).transpose()?;
    let start = back.driver.now();
    back.connect(&format!("{name}-c"), clients)?;
    let mut last = (0, Instant::now());
    while back.watch.delivered < back.watch.expected() && last.1.elapsed() < Duration::from_secs(10)
    {
        back.driver
            .turn(Duration::from_millis(20), &mut back.watch)?;
        if back.watch.frames != last.0 {
            last = (back.watch.frames, Instant::now());
        }
    }
    let cpu_us_per_client = match (pid, cpu) {
        (Some(pid), Some(before)) => Some((process::cpu_us(pid)? - before) as f64 / clients as f64),
        _ => None,
    };
    // What comes too often comes a moment later.
    back.settle(Duration::from_millis(300))?;
    let watch = &mut back.watch;
    watch.verify();
    let mut each = Histogram::default();
    for (index, member) in watch.members.iter().enumerate() {
        each.record(member.last_at.saturating_sub(start));
        let head = senders.watch.members[member.room as usize].position;
        if member.position != head {
            let position = member.position;
            watch.faults.add("not at the head", || {
                format!("client {index} is at {position}, the room at {head}")
            });
        }
    }
    Ok(Outcome {
        plan,
        last_has_all: Duration::from_nanos(watch.last_delivery_at.saturating_sub(start)),
        each,
        cpu_us_per_client,
        faults: std::mem::take(&mut watch.faults),
    })
}

/// Sends that many messages, the same number to each room, and waits for them.
fn send(senders: &mut Group, messages: usize) -> Result<()> {
    let outcome = senders.run(Load::Burst { messages })?;
    if !outcome.complete || !outcome.faults.0.is_empty() {
        bail!(
            "the messages to be missed did not arrive: {}",
            outcome.faults.lines().join("; ")
        );
    }
    Ok(())
}

impl Outcome {
    pub fn json(&self) -> serde_json::Value {
        json!({
            "clients": self.plan.clients,
            "rooms": self.plan.rooms,
            "missed_each": self.plan.missed,
            "last_has_all_ms": self.last_has_all.as_secs_f64() * 1e3,
            "each": self.each.json(),
            "server_cpu_us_per_client": self.cpu_us_per_client,
        })
    }

    pub fn report(&self) -> Report {
        Report {
            title: format!(
                "{} clients in {} rooms come back at once, {} messages behind",
                self.plan.clients, self.plan.rooms, self.plan.missed
            ),
            rows: vec![
                (
                    "the last has all after",
                    format!("{:.0} ms", self.last_has_all.as_secs_f64() * 1e3),
                ),
                (
                    "half have all after",
                    format!("{:.0} ms", self.each.quantile_ms(0.5)),
                ),
                (
                    "server CPU per client",
                    self.cpu_us_per_client
                        .map_or("-".to_owned(), |us| format!("{us:.0} µs")),
                ),
            ],
            json: self.json(),
            broken: self.faults.lines(),
        }
    }
}
