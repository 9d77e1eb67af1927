//! The figures, and what each process paid for them.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Cost;
use crate::report::short;

/// The processes, in the order of the columns.
const COLUMNS: [&str; 8] = [
    "chat 1", "chat 2", "history", "worker", "Redis", "RabbitMQ", "mongod", "driver",
];

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    goal: &'static str,
    /// Share of one core by process; nothing where it was not counted.
    cores: Vec<(&'static str, f64)>,
    note: String,
}

impl Row {
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            goal: "",
            cores: Vec::new(),
            note: String::new(),
        }
    }

    pub fn goal(mut self, goal: &'static str) -> Self {
        self.goal = goal;
        self
    }

    pub fn cost(mut self, cost: &Cost) -> Self {
        self.cores = cost.cores().collect();
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "goal": self.goal,
            "note": self.note,
        })
    }
}

pub fn json_rows(rows: &[Row]) -> Value {
    rows.iter().map(Row::json).collect()
}

/// The table in Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut out = format!(
        "| what | Darda | goal | {} | |\n| --- | ---: | ---: |{} --- |\n",
        COLUMNS.join(" | "),
        " ---: |".repeat(COLUMNS.len())
    );
    for row in rows {
        let value = format!("{} {}", short(row.value), row.unit);
        let cores: Vec<String> = COLUMNS.map(|name| share(&row.cores, name)).to_vec();
        // Writing into a string cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            row.what,
            value.trim_end(),
            row.goal,
            cores.join(" | "),
            row.note
        );
    }
    out
}

fn share(cores: &[(&str, f64)], name: &str) -> String {
    let one = cores.iter().find(|(other, _)| *other == name);
    one.map_or_else(String::new, |(_, share)| format!("{:.0} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_row_shows_what_each_process_used() {
        let cost = Cost {
            took: Duration::from_secs(2),
            usage: vec![("chat 1", 1_000_000), ("Redis", 500_000)],
        };
        let rows = [
            Row::new("acks/s", 12_345.0, "").goal("≥ 10k").cost(&cost),
            Row::new("p50", 7.5, "ms").note("p99 9 ms"),
        ];
        let table = markdown(&rows);
        assert!(
            table.contains("| acks/s | 12.3k | ≥ 10k | 50 % |  |  |  | 25 % |  |  |  |  |"),
            "{table}"
        );
        assert!(table.contains("| p50 | 7.50 ms |  |"), "{table}");
        assert_eq!(json_rows(&rows)[0]["goal"], "≥ 10k");
    }
}
