//! The table of a matrix, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::fault::Family;
use crate::judge::{Column, Violation};
use crate::matrix::Session;

/// Violations that a row shows.
const SHOWN_MAX: usize = 20;

/// What came of all faults.
#[derive(Debug, Serialize)]
pub struct Table {
    pub seed: u64,
    pub rows: Vec<Row>,
    /// Whether the time was over before every fault had its runs.
    pub is_cut_short: bool,
}

/// What came of one fault.
#[derive(Debug, Serialize)]
pub struct Row {
    pub family: &'static str,
    pub fault: String,
    pub runs: u64,
    /// Runs of the sessions that were begun, those too that did not come to their end.
    #[serde(skip)]
    pub asked: u32,
    pub messages: u64,
    /// Events shown to readers.
    pub shown: u64,
    pub lost: u64,
    pub doubled: u64,
    pub disordered: u64,
    pub holes: u64,
    /// Violations of other kinds, and sessions that could not be brought to their end.
    pub other: u64,
    /// For each run, ascending: the longest time from the fault to the next one in which nothing was acked in a room, in
    /// the room that waited longest.
    pub unavailable_ms: Vec<u64>,
    pub slowest_recovery_ms: u64,
    pub slowest_ack_ms: u64,
    pub broken: Vec<Broken>,
}

/// A session in which a promise was broken.
#[derive(Debug, Serialize)]
pub struct Broken {
    pub seed: u64,
    pub runs: u32,
    pub failure: Option<String>,
    pub violations: Vec<Violation>,
    pub folder: Option<String>,
}

impl Table {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            rows: Vec::new(),
            is_cut_short: false,
        }
    }

    /// Whether every promise was kept in every session.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.rows.iter().all(|row| row.broken.is_empty())
    }

    /// The table in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| fault | runs | messages | shown | lost | doubled | disordered | holes | other | unavailable s p50 | max | recovery s | slowest ack s |\n\
             | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
        );
        for row in &self.rows {
            let secs = |ms: u64| ms as f64 / 1000.0;
            writeln!(
                text,
                "| {} {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.1} |",
                row.family,
                row.fault,
                row.runs,
                row.messages,
                row.shown,
                row.lost,
                row.doubled,
                row.disordered,
                row.holes,
                row.other,
                secs(row.unavailable(50)),
                secs(row.unavailable(100)),
                secs(row.slowest_recovery_ms),
                secs(row.slowest_ack_ms),
            )
            .expect("writing to memory does not fail");
        }
        text
    }
}

impl Row {
    #[must_use]
    pub fn new(family: Family, fault: &str) -> Self {
        Self {
            family: family.name(),
            asked: 0,
            fault: fault.to_owned(),
            runs: 0,
            messages: 0,
            shown: 0,
            lost: 0,
            doubled: 0,
            disordered: 0,
            holes: 0,
            other: 0,
            unavailable_ms: Vec::new(),
            slowest_recovery_ms: 0,
            slowest_ack_ms: 0,
            broken: Vec::new(),
        }
    }

    /// So many of a hundred runs had no longer time without acks; 0 without runs.
    #[must_use]
    pub fn unavailable(&self, percent: usize) -> u64 {
        let rank = (self.unavailable_ms.len() * percent).div_ceil(100).max(1);
        self.unavailable_ms.get(rank - 1).copied().unwrap_or(0)
    }

    /// Adds a session of this fault.
    pub fn add(&mut self, session: &Session) {
        let verdict = &session.verdict;
        self.runs += u64::from(session.runs);
        self.messages += verdict.messages.acked;
        self.shown += verdict.messages.shown;
        self.lost += verdict.column(Column::Lost);
        self.doubled += verdict.column(Column::Doubled);
        self.disordered += verdict.column(Column::Disordered);
        self.holes += verdict.column(Column::Holes);
        self.other += verdict.column(Column::Other) + u64::from(session.failure.is_some());
        let outage = &verdict.outage;
        self.unavailable_ms
            .extend(outage.runs.iter().map(|run| run.longest_gap_ms));
        self.unavailable_ms.sort_unstable();
        self.slowest_recovery_ms = self.slowest_recovery_ms.max(outage.slowest_recovery_ms);
        self.slowest_ack_ms = self.slowest_ack_ms.max(outage.slowest_ack_ms);
        if !session.is_clean() {
            let violations = verdict.violations.iter().take(SHOWN_MAX);
            self.broken.push(Broken {
                seed: session.seed,
                runs: session.runs,
                failure: session.failure.clone(),
                violations: violations.cloned().collect(),
                folder: session
                    .folder
                    .as_ref()
                    .map(|folder| folder.display().to_string()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_how_long_half_of_the_runs_waited_and_how_long_the_longest() {
        let mut row = Row::new(Family::Standalone, "crash");
        assert_eq!(row.unavailable(50), 0);
        row.unavailable_ms = vec![100, 200, 300, 4000];
        assert_eq!((row.unavailable(50), row.unavailable(100)), (200, 4000));
        let mut table = Table::new(1);
        table.rows.push(row);
        let text = table.markdown();
        assert!(text.contains("| standalone crash | 0 |"), "{text}");
        assert!(text.contains("| 0.2 | 4.0 |"), "{text}");
    }
}
