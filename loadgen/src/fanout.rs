//! How many deliveries a second, at which latency and cost; and the highest rate that is sustained.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::group::{Group, Load, Outcome, Shape};
use crate::report::{Report, short};
use crate::target::Target;

#[derive(Clone, Copy, Debug)]
pub struct Search {
    pub p99_ms_max: f64,
    /// Deliveries per second to begin with.
    pub first: f64,
    pub step: Duration,
    pub confirm: Duration,
    pub within: Duration,
}

/// The highest sustained rate, the run that confirmed it, and a run at half of it.
pub struct Found {
    pub best: Outcome,
    pub half: Outcome,
    /// Every rate tried, with whether it was sustained.
    pub tried: Vec<(f64, bool, f64)>,
}

/// One run at a fixed number of messages per second.
pub fn fixed(target: &Target, shape: Shape, pid: Option<u32>, load: Load) -> Result<Report> {
    let outcome = Group::join(target, shape, pid)?.run(load)?;
    Ok(Report {
        title: title(shape, &format!("{load:?}")),
        rows: outcome.rows(),
        json: json!({"shape": shape_json(shape), "outcome": outcome.json()}),
        broken: outcome.broken(),
    })
}

fn title(shape: Shape, what: &str) -> String {
    format!(
        "{} rooms × {} members, {} sending in each, {}-byte texts: {what}",
        shape.rooms, shape.members, shape.senders, shape.bytes
    )
}

fn shape_json(shape: Shape) -> serde_json::Value {
    json!({"rooms": shape.rooms, "members": shape.members, "senders": shape.senders, "text_bytes": shape.bytes})
}

/// Doubles the offered rate until it is not sustained, then halves the gap until it is below 6 %, then confirms.
pub fn search(target: &Target, shape: Shape, pid: Option<u32>, search: Search) -> Result<Found> {
    let deadline = Instant::now() + search.within;
    let mut group = Group::join(target, shape, pid)?;
    let mut tried = Vec::new();
    let mut attempt = |group: &mut Group, rate: f64, measure: Duration| -> Result<Outcome> {
        if group.watch.closed > 0 {
            *group = Group::join(target, shape, pid)?;
        }
        group.settle(Duration::from_millis(60))?;
        let load = Load::Rate {
            per_sec: rate / shape.members as f64,
            warm_up: Duration::from_millis(400),
            measure,
        };
        let outcome = group.run(load)?;
        tried.push((rate, outcome.sustained(search.p99_ms_max), outcome.p99_ms));
        Ok(outcome)
    };
    let (mut low, mut high) = (0.0, search.first);
    while attempt(&mut group, high, search.step / 2)?.sustained(search.p99_ms_max) {
        (low, high) = (high, high * 2.0);
    }
    if low == 0.0 {
        low = high / 16.0;
    }
    while high / low > 1.06 && Instant::now() < deadline {
        let middle = (low * high).sqrt();
        if attempt(&mut group, middle, search.step)?.sustained(search.p99_ms_max) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let mut best = attempt(&mut group, low, search.confirm)?;
    // A machine does other things at times: a rate gets a second chance before a lower one is tried.
    for again in 1..10 {
        if best.sustained(search.p99_ms_max) {
            break;
        }
        if again % 2 == 0 {
            low *= 0.93;
        }
        best = attempt(&mut group, low, search.confirm)?;
    }
    let half = attempt(&mut group, low / 2.0, search.confirm)?;
    Ok(Found { best, half, tried })
}

impl Found {
    pub fn json(&self) -> serde_json::Value {
        let tried: Vec<_> = self
            .tried
            .iter()
            .map(|(rate, sustained, p99)| json!({"deliveries_per_sec": rate, "sustained": sustained, "p99_ms": p99}))
            .collect();
        json!({"max": self.best.json(), "half": self.half.json(), "tried": tried})
    }

    pub fn report(&self, shape: Shape) -> Report {
        let mut rows = vec![
            ("max sustained deliveries/s", short(self.best.rate)),
            ("p99 at the maximum", format!("{:.1} ms", self.best.p99_ms)),
            ("server busy at the maximum", percent(self.best.server_busy)),
            (
                "driver busy at the maximum",
                percent(Some(self.best.driver_busy)),
            ),
            ("at half of it:", String::new()),
        ];
        rows.extend(self.half.rows());
        let mut broken = self.best.broken();
        broken.extend(self.half.broken());
        Report {
            title: title(shape, "search"),
            rows,
            json: json!({"shape": shape_json(shape), "search": self.json()}),
            broken,
        }
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0))
}
