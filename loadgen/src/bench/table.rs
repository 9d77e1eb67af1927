//! The figures side by side: ours, the reference's, the floor's.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::report::short;

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    pub ours: Option<f64>,
    pub reference: Option<f64>,
    /// The bare epoll loop that gathers, and the one that writes every frame by itself.
    pub floor: Option<f64>,
    pub floor_single: Option<f64>,
    pub note: String,
}

impl Row {
    pub fn new(what: impl Into<String>, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            unit,
            ours: None,
            reference: None,
            floor: None,
            floor_single: None,
            note: String::new(),
        }
    }

    pub fn ours(mut self, value: impl Into<Option<f64>>) -> Self {
        self.ours = value.into();
        self
    }

    pub fn reference(mut self, value: impl Into<Option<f64>>) -> Self {
        self.reference = value.into();
        self
    }

    pub fn floor(
        mut self,
        gathered: impl Into<Option<f64>>,
        single: impl Into<Option<f64>>,
    ) -> Self {
        self.floor = gathered.into();
        self.floor_single = single.into();
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Ours as a multiple of the reference.
    fn times(&self) -> Option<f64> {
        match (self.ours, self.reference) {
            (Some(ours), Some(reference)) if reference > 0.0 => Some(ours / reference),
            _ => None,
        }
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "unit": self.unit,
            "darda": self.ours,
            "reference": self.reference,
            "times_reference": self.times(),
            "floor_gathered": self.floor,
            "floor_single": self.floor_single,
            "note": self.note,
        })
    }
}

pub fn json_rows(rows: &[Row]) -> Value {
    rows.iter().map(Row::json).collect()
}

/// The table in Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::from(
        "| what | Darda | reference | Darda ÷ reference | bare epoll loop, gathered · single | |\n\
         | --- | ---: | ---: | ---: | ---: | --- |\n",
    );
    for row in rows {
        let cell = |value: Option<f64>| match value {
            Some(value) => format!("{} {}", short(value), row.unit)
                .trim_end()
                .to_owned(),
            None => "–".to_owned(),
        };
        let times = row
            .times()
            .map_or("–".to_owned(), |times| format!("**{}** ×", short(times)));
        let floor = match (row.floor, row.floor_single) {
            (None, None) => "–".to_owned(),
            (gathered, single) => format!("{} · {}", cell(gathered), cell(single)),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {times} | {floor} | {} |",
            row.what,
            cell(row.ours),
            cell(row.reference),
            row.note
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_the_multiple_and_leaves_out_what_is_unknown() {
        let rows = [
            Row::new("fan-out", "")
                .ours(700_000.0)
                .reference(70_000.0)
                .floor(2e6, 1e5),
            Row::new("ack", "ms").ours(0.5),
        ];
        let table = markdown(&rows);
        assert!(
            table.contains("| fan-out | 700k | 70.0k | **10.0** × | 2.00M · 100k |"),
            "{table}"
        );
        assert!(table.contains("| ack | 0.50 ms | – | – | – |"), "{table}");
        assert_eq!(json_rows(&rows)[0]["times_reference"], 10.0);
    }
}
