//! The table of a matrix, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::judge::{Column, Violation};
use crate::matrix::Session;

/// Violations that a row shows.
const SHOWN_MAX: usize = 20;

/// What came of all faults.
#[derive(Debug, Serialize)]
pub struct Table {
    pub family: &'static str,
    pub seed: u64,
    pub rows: Vec<Row>,
    /// Whether the time was over before every fault had its runs.
    pub is_cut_short: bool,
}

/// What came of one fault.
#[derive(Debug, Serialize)]
pub struct Row {
    pub fault: String,
    pub runs: u64,
    pub messages: u64,
    /// Events shown to readers.
    pub shown: u64,
    pub lost: u64,
    pub doubled: u64,
    pub disordered: u64,
    pub holes: u64,
    /// Violations of other kinds, and sessions that could not be brought to their end.
    pub other: u64,
    pub unavailable_secs: u64,
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
    pub fn new(family: &'static str, seed: u64) -> Self {
        Self {
            family,
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
            "| fault | runs | messages | shown | lost | doubled | disordered | holes | other | unavailable s | recovery s | slowest ack s |\n\
             | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
        );
        for row in &self.rows {
            let secs = |ms: u64| ms as f64 / 1000.0;
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} |",
                row.fault,
                row.runs,
                row.messages,
                row.shown,
                row.lost,
                row.doubled,
                row.disordered,
                row.holes,
                row.other,
                row.unavailable_secs,
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
    pub fn new(fault: &str) -> Self {
        Self {
            fault: fault.to_owned(),
            runs: 0,
            messages: 0,
            shown: 0,
            lost: 0,
            doubled: 0,
            disordered: 0,
            holes: 0,
            other: 0,
            unavailable_secs: 0,
            slowest_recovery_ms: 0,
            slowest_ack_ms: 0,
            broken: Vec::new(),
        }
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
        self.unavailable_secs += outage.unavailable_secs;
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
