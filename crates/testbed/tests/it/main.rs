//! Every server is started, asked, killed and started again.

mod cluster;
mod ends;
mod mongo;
mod proxy;
mod rabbitmq;
mod redis;
mod run;
mod shared;

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Whether a test has to be left out; then it says why. In CI that is a failure.
fn skipped(missing: Option<&str>) -> bool {
    let Some(what) = missing else { return false };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "needs {what}");
    testbed::skipped(what);
    true
}

/// Waits until something holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "not after 30 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a process exists and is no zombie.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// The folder that a server runs in.
fn folder(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap()
}
