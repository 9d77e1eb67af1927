//! What the threads of the family know together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cache::Cache;
use super::heads::Heads;
use crate::{Error, Result};

#[derive(Default)]
pub(super) struct Shared {
    pub closed: AtomicBool,
    pub heads: Heads,
    pub cache: Cache,
    pub progress: Progress,
    trouble: Mutex<Option<String>>,
}

impl Shared {
    pub fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(Error::unavailable("the store is closed"))
        } else {
            Ok(())
        }
    }

    /// Why the last write failed, unless a later one succeeded.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    pub fn set_trouble(&self, trouble: Option<String>) {
        *lock(&self.trouble) = trouble;
    }

    pub fn caches_are_stale(&self) {
        self.cache.clear();
    }
}

/// How far the log goes, for the index that follows it.
#[derive(Default)]
pub(super) struct Progress {
    state: Mutex<Log>,
    moved: Condvar,
}

#[derive(Default)]
struct Log {
    committed: i64,
    /// Somebody waits for the index to get this far.
    wanted: i64,
    stopped: bool,
}

impl Progress {
    /// The writer committed everything up to `n`.
    pub fn commit(&self, n: i64) {
        let mut log = lock(&self.state);
        let first = log.committed < n;
        log.committed = n;
        drop(log);
        if first {
            self.moved.notify_one();
        }
    }

    /// The last ordinal that is committed.
    pub fn committed(&self) -> i64 {
        lock(&self.state).committed
    }

    /// Asks the index to come to `n` without waiting for more to gather.
    pub fn want(&self, n: i64) {
        let mut log = lock(&self.state);
        log.wanted = log.wanted.max(n);
        drop(log);
        self.moved.notify_one();
    }

    /// Ends the wait of [`Progress::wait`] for good.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.moved.notify_one();
    }

    /// Blocks until the log is beyond `n` and, unless somebody wants them, `rows` events or `linger` have passed.
    /// Answers false when it is time to end.
    pub fn wait(&self, n: i64, rows: i64, linger: Duration) -> bool {
        let log = lock(&self.state);
        let idle = |log: &mut Log| !log.stopped && log.committed <= n;
        let log = self
            .moved
            .wait_while(log, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let few = |log: &mut Log| !log.stopped && log.wanted <= n && log.committed < n + rows;
        let (log, _) = self
            .moved
            .wait_timeout_while(log, linger, few)
            .unwrap_or_else(PoisonError::into_inner);
        !log.stopped
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
