//! Readers that stop reading: what they cost the server and the others, and whether they get everything in the end.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::driver::Driver;
use crate::group::{Group, Load, Outcome as RunOutcome, Shape, fresh_name};
use crate::process;
use crate::report::Report;
use crate::target::Target;
use crate::watch::Watch;

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub readers: usize,
    pub stalled: usize,
    pub per_sec: f64,
    pub bytes: usize,
    pub time: Duration,
}

pub struct Outcome {
    pub plan: Plan,
    pub before: RunOutcome,
    pub during: RunOutcome,
    pub rss_kib_each: f64,
    pub tcp_kib_each: f64,
    /// Stalled readers whose connection was closed by the server.
    pub closed: usize,
    pub caught_up: usize,
    pub broken: Vec<String>,
}

/// The kernel of the stalled side keeps this little, so that what is measured is the server's side.
const RECEIVE_BUFFER_BYTES: usize = 8 * 1024;

pub fn run(target: &Target, plan: Plan, pid: u32) -> Result<Outcome> {
    let name = fresh_name();
    let rooms = vec![format!("{name}-0")];
    let group = |members: usize| -> Result<Group> {
        Ok(Group {
            driver: Driver::new(&target.addrs)?,
            watch: Watch::new(target, rooms.clone(), members, plan.bytes),
            shape: Shape {
                rooms: 1,
                members,
                senders: members.min(10),
                bytes: plan.bytes,
            },
            pid: Some(pid),
        })
    };
    let load = Load::Rate {
        per_sec: plan.per_sec,
        warm_up: Duration::from_millis(500),
        measure: plan.time,
    };
    let mut readers = group(plan.readers)?;
    readers.connect(&format!("{name}-r"), 64)?;
    readers.settle(Duration::from_millis(300))?;
    let before = readers.run(load)?;

    let mut stalled = group(plan.stalled)?;
    stalled.driver.set_receive_buffer(RECEIVE_BUFFER_BYTES);
    stalled.connect(&format!("{name}-s"), 64)?;
    readers.settle(Duration::from_millis(300))?;
    stalled.settle(Duration::from_millis(300))?;
    let (rss, tcp) = (process::rss_kib(pid)?, process::tcp_kib()?);
    // From here on nobody turns the driver of the stalled: their sockets fill.
    let during = readers.run(load)?;
    let each = |after: u64, before: u64| (after as f64 - before as f64) / plan.stalled as f64;
    let rss_kib_each = each(process::rss_kib(pid)?, rss);
    let tcp_kib_each = each(process::tcp_kib()?, tcp);

    stalled.watch.begin_run();
    stalled.watch.run = readers.watch.run;
    stalled.watch.sent.clone_from(&readers.watch.sent);
    stalled.settle(Duration::from_millis(1000))?;
    let sent = stalled.watch.sent[0].count;
    let caught_up = stalled
        .watch
        .members
        .iter()
        .filter(|member| member.got == sent)
        .count();
    let closed = stalled.watch.closed;
    // A reader may be cut off and resume; what it got until then must be without hole all the same.
    stalled.watch.faults.0.remove("closed connection");
    if closed == 0 {
        stalled.watch.verify();
    }
    let mut broken = before.broken();
    broken.extend(during.broken());
    broken.extend(stalled.watch.faults.lines());
    Ok(Outcome {
        plan,
        before,
        during,
        rss_kib_each,
        tcp_kib_each,
        closed,
        caught_up,
        broken,
    })
}

impl Outcome {
    pub fn json(&self) -> serde_json::Value {
        json!({
            "readers": self.plan.readers,
            "stalled": self.plan.stalled,
            "without_stalled": self.before.json(),
            "with_stalled": self.during.json(),
            "rss_kib_per_stalled": self.rss_kib_each,
            "tcp_kib_per_stalled": self.tcp_kib_each,
            "closed": self.closed,
            "caught_up": self.caught_up,
        })
    }

    pub fn report(&self) -> Report {
        let megabytes =
            self.plan.per_sec * self.plan.time.as_secs_f64() * self.during.frame_bytes / 1e6;
        Report {
            title: format!(
                "{} of {} readers stop reading while {megabytes:.1} MB are sent to each",
                self.plan.stalled,
                self.plan.stalled + self.plan.readers
            ),
            rows: vec![
                (
                    "RSS per stalled reader",
                    format!("{:.0} KiB", self.rss_kib_each),
                ),
                (
                    "TCP memory per stalled reader",
                    format!("{:.0} KiB", self.tcp_kib_each),
                ),
                (
                    "p99 of the others before",
                    format!("{:.2} ms", self.before.p99_ms),
                ),
                (
                    "p99 of the others meanwhile",
                    format!("{:.2} ms", self.during.p99_ms),
                ),
                (
                    "had everything in the end",
                    format!("{} of {}", self.caught_up, self.plan.stalled),
                ),
                ("closed by the server", self.closed.to_string()),
            ],
            json: self.json(),
            broken: self.broken.clone(),
        }
    }
}
