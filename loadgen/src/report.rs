//! How results leave the program: a table for people, JSON for programs, an exit code for both.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// The result of one scenario.
pub struct Report {
    pub title: String,
    /// What was measured, and its value with unit.
    pub rows: Vec<(&'static str, String)>,
    pub json: Value,
    /// Promises that were broken; they make the exit code 1.
    pub broken: Vec<String>,
}

impl Report {
    /// Prints the table, or the JSON where `file` says so, and answers whether all promises were kept.
    pub fn publish(mut self, file: Option<&PathBuf>) -> Result<bool> {
        self.json["broken"] = self.broken.clone().into();
        self.json["machine"] = crate::process::machine();
        let to_stdout = file.is_some_and(|file| file == Path::new("-"));
        if let Some(file) = file {
            let text = serde_json::to_string_pretty(&self.json)?;
            if to_stdout {
                println!("{text}");
            } else {
                std::fs::write(file, text + "\n")
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
        if !to_stdout {
            println!("{}", self.title);
            let width = self
                .rows
                .iter()
                .map(|(name, _)| name.len())
                .max()
                .unwrap_or(0);
            for (name, value) in &self.rows {
                println!("  {name:width$}  {value}");
            }
        }
        for line in &self.broken {
            eprintln!("BROKEN: {line}");
        }
        Ok(self.broken.is_empty())
    }
}

/// One line on the terminal that is overwritten; nothing where there is no terminal.
pub fn progress(line: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // What cannot be written to a terminal that went away is not missed.
        let _ = write!(stderr, "\r\x1b[K{line}");
        let _ = stderr.flush();
    }
}

/// Removes the progress line.
pub fn progress_done() {
    progress("");
}

/// A number with as many digits as one wants to read: 1.23M, 45.6k, 789.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 999_500.0 => format!("{:.2}M", value / 1e6),
        v if v >= 99_950.0 => format!("{:.0}k", value / 1e3),
        v if v >= 999.5 => format!("{:.1}k", value / 1e3),
        v if v >= 99.5 => format!("{value:.0}"),
        v if v >= 9.95 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (2_021_000.0, "2.02M"),
            (245_400.0, "245k"),
            (14_260.0, "14.3k"),
            (999.0, "999"),
            (16.14, "16.1"),
            (0.213, "0.21"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
