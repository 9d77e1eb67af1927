//! The clients and the judge without a fault injector, against servers that are there: whatever happens to them happens
//! from outside, and whoever does it may tell.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use client::Address;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

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

/// Sends and reads for some time, or until nobody tells any more; the summary, and the history to be kept when something
/// is wrong.
///
/// `begins` is called when every room takes messages. A word that is told from then on begins something, an empty one says
/// that it is over.
///
/// # Errors
/// When nothing can be sent at the beginning, or the logs cannot be read in the end.
pub async fn run(
    plan: &Plan,
    addresses: &[Address],
    time: Duration,
    told: Option<mpsc::Receiver<String>>,
    begins: impl FnOnce(),
) -> Result<(Summary, History)> {
    let pod = |address: &Address| Pod {
        name: address.authority().into(),
        address: address.clone(),
    };
    let mut workload = Workload::start(plan, addresses.iter().map(pod).collect())?;
    let begun = workload.recovered(0).await;
    begun.context("the servers do not take messages")?;
    workload.begin();
    begins();
    let until = Instant::now() + time;
    let happened = match told {
        Some(told) => listen(told, workload.clock(), until).await,
        None => {
            tokio::time::sleep_until(until).await;
            Vec::new()
        }
    };
    let (history, ended) = workload.finish(happened).await;
    ended?;
    let verdict = judge(&history);
    let (begin, end) = history.sending;
    let summary = Summary {
        is_clean: verdict.is_clean(),
        secs: (end - begin) as f64 / 1e6,
        events: events(&history, &verdict),
        verdict,
    };
    Ok((summary, history))
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
