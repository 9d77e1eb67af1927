//! What operators see: the dashboards and rules of the chart, by themselves and against a real cluster that a real
//! Prometheus looks at.

mod dashboards;
mod live;
#[path = "../it/programs.rs"]
mod programs;
mod rules;

use std::path::{Path, PathBuf};

/// A file or folder of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Says what is not installed, where a test may be left out for that.
fn is_missing(what: Option<&str>) -> bool {
    let Some(what) = what else {
        return false;
    };
    let is_ci = std::env::var("CI").as_deref() == Ok("true");
    assert!(!is_ci, "needs {what}");
    testbed::skipped(what);
    true
}
