//! Ports that nobody uses.

use std::collections::HashSet;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Result, bail};

/// Below the ports that the kernel gives to outgoing connections: a server that was killed finds its port free again.
const RANGE: std::ops::Range<u16> = 14_000..30_000;

/// What this process has handed out, so that two servers that start at once do not get the same one.
static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port of 127.0.0.1 that was free a moment ago.
pub(crate) fn free() -> Result<u16> {
    let mut taken = TAKEN.lock().expect("nothing panics under this lock");
    let taken = taken.get_or_insert_default();
    for _ in 0..1_000 {
        let port = rand::random_range(RANGE);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && taken.insert(port) {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", RANGE.start, RANGE.end)
}

/// One more port, if it is needed.
pub(crate) fn free_if(needed: bool) -> Result<Option<u16>> {
    needed.then(free).transpose()
}

/// Starts something, up to three times if another process was quicker to take a port.
pub(crate) async fn retried<T, F: Future<Output = Result<T>>>(start: impl Fn() -> F) -> Result<T> {
    for _ in 0..2 {
        match start().await {
            Err(error) if was_taken(&format!("{error:#}")) => {}
            result => return result,
        }
    }
    start().await
}

fn was_taken(error: &str) -> bool {
    let error = error.to_ascii_lowercase();
    error.contains("address already in use") || error.contains("eaddrinuse")
}
