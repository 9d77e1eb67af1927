//! Keeps Redis told of what this process has, under a lease; and takes away what others had whose lease has ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{Instant, MissedTickBehavior};

use super::calls::Announcements;
use super::{Inner, LEASE};
use crate::cluster::backoff::Backoff;
use crate::{Error, Result};

/// How often a lease is renewed and ended ones are looked for.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Users and rooms per report: some milliseconds of Redis's time.
const BATCH: usize = 128;
/// After all leases ended at once, because Redis was away, everybody gets this long to come back before anybody sweeps:
/// who is back under a new lease has never been gone.
const SETTLE: Duration = Duration::from_secs(3);
/// Everything is told again in so many parts, one a minute.
const TOUCH_PARTS: u64 = 240;
const TOUCH_EVERY: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

pub struct Sync {
    inner: Arc<Inner>,
    length_ms: String,
    lease: Option<Lease>,
    /// The lease before, or nothing.
    before: String,
    /// Leases to sweep.
    ended: VecDeque<String>,
    touched: Instant,
    part: u64,
}

struct Lease {
    id: String,
    opened: Instant,
    renewed: Instant,
}

impl Sync {
    pub fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            length_ms: LEASE.as_millis().to_string(),
            lease: None,
            before: String::new(),
            ended: VecDeque::new(),
            touched: Instant::now(),
            part: 0,
        }
    }

    /// Ends when [`Inner::closing`] is told; then what this process had is taken away.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(RENEW_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let inner = Arc::clone(&self.inner);
        let mut closing = std::pin::pin!(inner.closing.notified());
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = inner.changed.notified() => {}
                () = &mut closing => break,
            }
            match self.work().await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    if backoff.is_fresh() {
                        tracing::warn!(%error, "presence is not known for now");
                    }
                    self.inner.table().away();
                    tokio::select! {
                        () = tokio::time::sleep(backoff.pause()) => {}
                        () = &mut closing => break,
                    }
                    self.inner.changed.notify_one();
                }
            }
        }
        if let Err(error) = self.end().await {
            tracing::debug!(%error, "other processes take this one's sessions away");
        }
    }

    /// Does whatever is due.
    async fn work(&mut self) -> Result<()> {
        loop {
            let Some(lease) = &self.lease else {
                self.open().await?;
                continue;
            };
            let (id, is_settled) = (lease.id.clone(), lease.opened.elapsed() >= SETTLE);
            if lease.renewed.elapsed() >= RENEW_EVERY && !self.renew(&id).await? {
                continue;
            }
            self.touch();
            if !self.report(&id).await? {
                continue;
            }
            if is_settled {
                self.sweep().await?;
            }
            let is_idle = self.ended.is_empty() || !is_settled;
            if is_idle && !self.inner.table().is_dirty() {
                return Ok(());
            }
        }
    }

    async fn open(&mut self) -> Result<()> {
        let id = format!("{:016x}", rand::rng().random::<u64>());
        let calls = &self.inner.calls;
        let was_lost = calls.open(&id, &self.length_ms, &self.before).await?;
        if !self.before.is_empty() {
            tracing::info!(was_lost, "presence is told again");
        }
        let mut table = self.inner.table();
        table.begin_again(was_lost);
        table.back();
        drop(table);
        self.before.clone_from(&id);
        let now = Instant::now();
        self.lease = Some(Lease {
            id,
            opened: now,
            renewed: now,
        });
        Ok(())
    }

    /// `false` when the lease has ended.
    async fn renew(&mut self, id: &str) -> Result<bool> {
        let now = Instant::now();
        let renewal = self.inner.calls.renew(id, &self.length_ms).await?;
        if !renewal.is_held {
            self.lease = None;
            return Ok(false);
        }
        if let Some(lease) = &mut self.lease {
            lease.renewed = now;
        }
        self.ended = renewal.ended.into();
        self.inner.table().back();
        Ok(true)
    }

    /// `false` when the lease has ended.
    async fn report(&mut self, id: &str) -> Result<bool> {
        let reports = self.inner.table().take(BATCH);
        if reports.is_empty() {
            return Ok(true);
        }
        match self.inner.calls.report(id, &reports).await {
            Ok(Some((answers, announcements))) => {
                self.announce(announcements);
                let mut table = self.inner.table();
                for (report, answer) in reports.into_iter().zip(answers) {
                    table.answered(report, answer);
                }
                Ok(true)
            }
            Ok(None) => {
                self.lease = None;
                self.inner.table().put_back(reports, false);
                Ok(false)
            }
            Err(error) => {
                // Whatever has no memory for it has done nothing of it.
                let is_uncertain = !matches!(error, Error::Overloaded { .. });
                self.inner.table().put_back(reports, is_uncertain);
                Err(error)
            }
        }
    }

    /// Takes some of what ended leases had away.
    async fn sweep(&mut self) -> Result<()> {
        let Some(id) = self.ended.front() else {
            return Ok(());
        };
        let (more, announcements) = self.inner.calls.sweep(id).await?;
        if !more {
            tracing::debug!(lease = id, "a process that ended without a word was swept");
            self.ended.pop_front();
        }
        self.announce(announcements);
        Ok(())
    }

    fn touch(&mut self) {
        if self.touched.elapsed() >= TOUCH_EVERY {
            self.touched = Instant::now();
            self.part += 1;
            self.inner.table().touch(self.part, TOUCH_PARTS);
        }
    }

    fn announce(&self, announcements: Announcements) {
        for signal in announcements.signals {
            self.inner.relay.announce(signal, announcements.version);
        }
    }

    /// Ends the lease and takes away what it had.
    async fn end(&mut self) -> Result<()> {
        let Some(lease) = self.lease.take() else {
            return Ok(());
        };
        self.inner.calls.end(&lease.id).await?;
        loop {
            let (more, announcements) = self.inner.calls.sweep(&lease.id).await?;
            self.announce(announcements);
            if !more {
                return Ok(());
            }
        }
    }
}
