//! The floor of durability: how long a bare `fdatasync` takes on a disk.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::histogram::Histogram;
use crate::process;
use crate::report::Report;

/// Appends 4 KiB and calls `fdatasync`, again and again.
pub fn run(folder: &Path, time: Duration) -> Result<Histogram> {
    let mut file = tempfile::tempfile_in(folder)
        .with_context(|| format!("cannot make a file in {}", folder.display()))?;
    let mut latency = Histogram::default();
    let start = Instant::now();
    while start.elapsed() < time {
        let before = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        latency.record(before.elapsed().as_nanos() as u64);
    }
    Ok(latency)
}

pub fn report(folder: &Path, latency: &Histogram) -> Report {
    Report {
        title: format!(
            "4 KiB + fdatasync in {} ({})",
            folder.display(),
            process::file_system(folder)
        ),
        rows: vec![
            ("syncs", latency.count().to_string()),
            ("p50", format!("{:.3} ms", latency.quantile_ms(0.5))),
            ("p99", format!("{:.3} ms", latency.quantile_ms(0.99))),
        ],
        json: json!({"fdatasync": latency.json(), "file_system": process::file_system(folder)}),
        broken: Vec::new(),
    }
}
