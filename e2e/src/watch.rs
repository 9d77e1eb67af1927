//! The clients and the judge without a fault injector, against servers that are there: whatever happens to them happens
//! from outside, and whoever does it may tell.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use client::Address;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::crowd::Crowd;
use crate::history::{Clock, History, Injection, Sent};
use crate::judge::{Column, Verdict, judge};
use crate::workload::{Plan, Pod, Workload};

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub is_clean: bool,
    pub secs: f64,
    /// What was told to have happened.
    pub events: Vec<Happened>,
    pub verdict: Verdict,
    /// What the crowd saw, if there was one.
    pub crowd: Option<Crowd>,
}

/// What is tried.
#[derive(Clone, Debug)]
pub struct Options {
    pub plan: Plan,
    /// So many more connections, in rooms of their own in which little is written. None with 0.
    pub crowd: usize,
    /// No more of them may be asked to leave or be closed within a second.
    pub leaves_per_sec_max: Option<usize>,
    /// How long; the longest when somebody tells.
    pub time: Duration,
}

/// Something that was told, until the next.
#[derive(Debug, Serialize)]
pub struct Happened {
    pub name: String,
    /// How long it took to be whole again from the outside.
    pub held_secs: f64,
    pub acked: u64,
    /// The longest time without an ack in a room, in the room that waited longest.
    pub longest_gap_ms: u64,
}

/// Sends and reads for some time, or until nobody tells any more; the summary, and the histories to be kept when something
/// is wrong, with their names.
///
/// `begins` is called when every room takes messages. A word that is told from then on begins something, an empty one says
/// that it is over.
///
/// # Errors
/// When nothing can be sent at the beginning, or the logs cannot be read in the end.
pub async fn run(
    options: &Options,
    addresses: &[Address],
    told: Option<mpsc::Receiver<String>>,
    begins: impl FnOnce(),
) -> Result<(Summary, Vec<(String, History)>)> {
    let pod = |address: &Address| Pod {
        name: address.authority().into(),
        address: address.clone(),
    };
    let pods: Vec<_> = addresses.iter().map(pod).collect();
    let plan = &options.plan;
    let crowd_plan = (options.crowd > 0).then(|| Crowd::plan(plan, options.crowd));
    let start = async |plan: &Plan| {
        let mut workload = Workload::start(plan, pods.clone())?;
        let begun = workload.recovered(0).await;
        begun.context("the servers do not take messages")?;
        workload.arrived().await?;
        workload.begin();
        anyhow::Ok(workload)
    };
    // What comes of its arrival is not what the others are to see.
    let crowd = match &crowd_plan {
        Some(plan) => Some(start(plan).await?),
        None => None,
    };
    let workload = start(plan).await?;
    begins();
    let until = Instant::now() + options.time;
    let happened = match told {
        Some(told) => listen(told, workload.clock(), until).await,
        None => {
            tokio::time::sleep_until(until).await;
            Vec::new()
        }
    };
    // Each has a clock of its own, and that of the crowd began earlier.
    let apart = |crowd: &Workload| crowd.clock().now().saturating_sub(workload.clock().now());
    let shifted = crowd.as_ref().map(|crowd| later(&happened, apart(crowd)));
    let (ended, crowd_ended) = tokio::join!(workload.finish(happened), async {
        match crowd {
            Some(crowd) => Some(crowd.finish(shifted.unwrap_or_default()).await),
            None => None,
        }
    });
    let (history, ended) = ended;
    ended?;
    let verdict = judge(&history);
    let (begin, end) = history.sending;
    let mut summary = Summary {
        is_clean: verdict.is_clean(),
        secs: (end - begin) as f64 / 1e6,
        events: events(&history, &verdict),
        verdict,
        crowd: None,
    };
    let mut histories = vec![(plan.name.clone(), history)];
    if let (Some((history, ended)), Some(plan)) = (crowd_ended, crowd_plan) {
        ended?;
        let crowd = Crowd::judged(&history, &plan, options.leaves_per_sec_max);
        summary.is_clean &= crowd.is_clean;
        summary.crowd = Some(crowd);
        histories.push((plan.name, history));
    }
    Ok((summary, histories))
}

/// The same by a clock that was started so much earlier.
fn later(happened: &[Injection], micros: u64) -> Vec<Injection> {
    let shift = |told: &Injection| Injection {
        at: told.at + micros,
        healed: told.healed + micros,
        ..told.clone()
    };
    happened.iter().map(shift).collect()
}

/// Writes down what is told, until nobody does any more.
async fn listen(mut told: mpsc::Receiver<String>, clock: Clock, until: Instant) -> Vec<Injection> {
    let mut happened: Vec<Injection> = Vec::new();
    let mut is_over = true;
    while let Ok(Some(word)) = timeout_at(until, told.recv()).await {
        let at = clock.now();
        if !is_over && let Some(last) = happened.last_mut() {
            last.healed = at;
        }
        is_over = word.is_empty();
        if !is_over {
            happened.push(Injection {
                fault: word,
                run: u32::try_from(happened.len()).unwrap_or(u32::MAX),
                what: String::new(),
                at,
                healed: at,
            });
        }
    }
    happened
}

fn events(history: &History, verdict: &Verdict) -> Vec<Happened> {
    let mut acks: Vec<_> = history.sent.iter().filter_map(Sent::first_ack).collect();
    acks.sort_unstable();
    let until = |index: usize| {
        let next = history.faults.get(index + 1);
        next.map_or(history.sending.1, |next| next.at)
    };
    let runs = history.faults.iter().zip(&verdict.outage.runs).enumerate();
    let of = |(index, (told, run)): (usize, (&Injection, &crate::judge::RunOutage))| {
        let before = |time| acks.partition_point(|at| *at < time);
        Happened {
            name: told.fault.clone(),
            held_secs: (told.healed - told.at) as f64 / 1e6,
            acked: (before(until(index)).saturating_sub(before(told.at))) as u64,
            longest_gap_ms: run.longest_gap_ms,
        }
    };
    runs.map(of).collect()
}

impl Summary {
    /// What happened, as a table in Markdown, and what came of all of it.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| event | whole after s | acked until the next | longest without an ack s |\n| --- | --: | --: | --: |\n",
        );
        for event in &self.events {
            writeln!(
                text,
                "| {} | {:.0} | {} | {:.1} |",
                event.name,
                event.held_secs,
                event.acked,
                event.longest_gap_ms as f64 / 1000.0
            )
            .expect("writing to memory does not fail");
        }
        let (messages, column) = (&self.verdict.messages, |of| self.verdict.column(of));
        writeln!(
            text,
            "\n{:.0} s: {} acked, {} shown, {} lost, {} doubled, {} disordered, {} holes, {} other; slowest ack {:.1} s; {} fences",
            self.secs,
            messages.acked,
            messages.shown,
            column(Column::Lost),
            column(Column::Doubled),
            column(Column::Disordered),
            column(Column::Holes),
            column(Column::Other),
            self.verdict.outage.slowest_ack_ms as f64 / 1000.0,
            messages.fences,
        )
        .expect("writing to memory does not fail");
        for violation in self.verdict.violations.iter().take(20) {
            writeln!(text, "{violation}").expect("writing to memory does not fail");
        }
        if let Some(crowd) = &self.crowd {
            text.push('\n');
            text.push_str(&crowd.markdown());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_word_begins_something_and_an_empty_one_ends_it() {
        let (tell, told) = mpsc::channel(8);
        for word in ["", "one", "", "two", "three"] {
            tell.send(word.to_owned()).await.unwrap();
        }
        drop(tell);
        let until = Instant::now() + Duration::from_secs(60);
        let happened = listen(told, Clock::start(), until).await;
        let names: Vec<_> = happened.iter().map(|told| told.fault.as_str()).collect();
        assert_eq!(names, ["one", "two", "three"]);
        assert!(happened[1].healed >= happened[1].at);
        assert!(happened[1].healed <= happened[2].at);
        assert_eq!(happened[2].healed, happened[2].at);
    }
}
