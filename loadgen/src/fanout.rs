//! How many deliveries a second, at which latency and cost; and the highest rate that is sustained.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
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
    /// Whether the rate was sustained in the longer run too.
    pub confirmed: bool,
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

/// Doubles the offered rate until it is not sustained, halves the gap until it is below 6 %, then confirms the rate with a
/// longer run. When time is up, the highest rate that was sustained in a shorter run is the answer.
pub fn search(target: &Target, shape: Shape, pid: Option<u32>, plan: Search) -> Result<Found> {
    let deadline = Instant::now() + plan.within;
    let mut attempts = Attempts {
        target,
        shape,
        pid,
        plan,
        group: Group::join(target, shape, pid)?,
        tried: Vec::new(),
    };
    let (mut low, mut high) = (0.0, plan.first);
    let mut best: Option<Outcome> = None;
    while let outcome = attempts.run(high, plan.step / 2)?
        && outcome.sustained(plan.p99_ms_max)
    {
        best = Some(outcome);
        (low, high) = (high, high * 2.0);
    }
    if best.is_none() {
        low = high / 16.0;
    }
    while high / low > 1.06 && Instant::now() < deadline {
        let middle = (low * high).sqrt();
        let outcome = attempts.run(middle, plan.step)?;
        if outcome.sustained(plan.p99_ms_max) {
            (low, best) = (middle, Some(outcome));
        } else {
            high = middle;
        }
    }
    let mut confirmed = false;
    for again in 1..8 {
        let outcome = attempts.run(low, plan.confirm)?;
        confirmed = outcome.sustained(plan.p99_ms_max);
        if confirmed || best.is_none() {
            best = Some(outcome);
        }
        if confirmed || Instant::now() > deadline {
            break;
        }
        // A machine does other things at times: a rate gets a second chance before a lower one is tried.
        if again % 2 == 0 {
            low *= 0.93;
        }
    }
    let half = attempts.run(low / 2.0, plan.confirm)?;
    let best = best.context("no rate was tried")?;
    Ok(Found {
        best,
        half,
        confirmed,
        tried: attempts.tried,
    })
}

struct Attempts<'a> {
    target: &'a Target,
    shape: Shape,
    pid: Option<u32>,
    plan: Search,
    group: Group,
    tried: Vec<(f64, bool, f64)>,
}

impl Attempts<'_> {
    fn run(&mut self, rate: f64, measure: Duration) -> Result<Outcome> {
        if self.group.watch.closed > 0 {
            self.group = Group::join(self.target, self.shape, self.pid)?;
        }
        self.group.settle(Duration::from_millis(60))?;
        let outcome = self.group.run(Load::Rate {
            per_sec: rate / self.shape.members as f64,
            warm_up: Duration::from_millis(400),
            measure,
        })?;
        let sustained = outcome.sustained(self.plan.p99_ms_max);
        self.tried.push((rate, sustained, outcome.p99_ms));
        Ok(outcome)
    }
}

impl Found {
    pub fn json(&self) -> serde_json::Value {
        let tried: Vec<_> = self
            .tried
            .iter()
            .map(|(rate, sustained, p99)| json!({"deliveries_per_sec": rate, "sustained": sustained, "p99_ms": p99}))
            .collect();
        json!({"max": self.best.json(), "confirmed": self.confirmed, "half": self.half.json(), "tried": tried})
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
