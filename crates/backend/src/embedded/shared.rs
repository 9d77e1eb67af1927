//! What the threads of the family know together.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    pub index: IndexState,
    trouble: Mutex<Option<String>>,
}

/// What searches and the thread of the index tell each other.
#[derive(Default)]
pub(super) struct IndexState {
    /// Counts the files: a connection to an older one is of no use.
    file: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl IndexState {
    pub fn file(&self) -> u64 {
        self.file.load(Ordering::Acquire)
    }

    pub fn was_replaced(&self) {
        self.file.fetch_add(1, Ordering::AcqRel);
    }

    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    pub fn set_trouble(&self, trouble: Option<String>) {
        *lock(&self.trouble) = trouble;
    }
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
    /// The index sleeps until the log gets this far.
    awaited: i64,
    /// Somebody waits for the index to get this far.
    wanted: i64,
    /// A search found the index to be broken.
    broken: bool,
    stopped: bool,
}

/// Why [`Progress::wait`] came back.
pub(super) enum Wake {
    Behind,
    Broken,
    Stopped,
}

impl Progress {
    /// The writer committed everything up to `n`.
    pub fn commit(&self, n: i64) {
        let mut log = lock(&self.state);
        let awaited = log.committed < log.awaited && log.awaited <= n;
        log.committed = n;
        drop(log);
        if awaited {
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

    /// Says that the index cannot be read.
    pub fn broken(&self) {
        lock(&self.state).broken = true;
        self.moved.notify_one();
    }

    pub fn is_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    /// Blocks for a time, unless it is time to end.
    pub fn stopped_within(&self, time: Duration) -> bool {
        let goes_on = |log: &mut Log| !log.stopped;
        let (log, _) = self
            .moved
            .wait_timeout_while(lock(&self.state), time, goes_on)
            .unwrap_or_else(PoisonError::into_inner);
        log.stopped
    }

    /// Blocks until the log is beyond `n` and, unless somebody wants them, `rows` events or `linger` have passed.
    pub fn wait(&self, n: i64, rows: i64, linger: Duration) -> Wake {
        let idle = |log: &mut Log| !log.stopped && !log.broken && log.committed <= n;
        let mut log = lock(&self.state);
        log.awaited = n + 1;
        let mut log = self
            .moved
            .wait_while(log, idle)
            .unwrap_or_else(PoisonError::into_inner);
        log.awaited = n + rows;
        let few = |log: &mut Log| {
            !log.stopped && !log.broken && log.wanted <= n && log.committed < n + rows
        };
        let (mut log, _) = self
            .moved
            .wait_timeout_while(log, linger, few)
            .unwrap_or_else(PoisonError::into_inner);
        if log.stopped {
            Wake::Stopped
        } else if std::mem::take(&mut log.broken) {
            Wake::Broken
        } else {
            Wake::Behind
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
