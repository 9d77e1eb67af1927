//! Announcements: every change of the directory becomes an event in the room's log.
//!
//! The directory keeps what has to be announced together with the change, and this is the one place that takes it from
//! there to the log, oldest first. So the log tells changes in the order in which they happened, and a crash in between
//! loses none. A deleted room's last event is kept until its log is closed, too.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use backend::log::Append;
use backend::{Backends, Error};
use futures_util::future::join_all;
use protocol::{EventBody, RoomChange, RoomId};
use tokio::sync::Mutex;

use super::Rooms;

/// Announcements taken to the log at once.
const BATCH: usize = 256;
/// The first pause before another try, and the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

pub(super) struct Announcer {
    backends: Backends,
    /// Changes that asked to be announced.
    asked: AtomicU64,
    /// How many of those are known to be in the log. Held across the work on purpose: two at once would mix the order.
    done: Mutex<u64>,
    retrying: AtomicBool,
    /// Deleted rooms whose logs are being closed.
    closing: std::sync::Mutex<HashSet<RoomId>>,
}

impl Rooms {
    /// Appends what a crash left unannounced. Called at start, beside the first requests, which need not wait: whatever
    /// they change comes after the leftovers, since all announcements are made oldest first. Tried again until the
    /// directory and the log are there.
    pub async fn announce_leftovers(&self) {
        self.announce().await;
    }

    /// Announces what was just changed. A log that is away does not undo the change; its event follows later.
    pub(super) async fn announce(&self) {
        if let Err(error) = self.announcer.settle().await {
            tracing::warn!(%error, "changes of rooms may be stored and not yet announced");
            self.announcer.clone().settle_later();
        }
    }
}

impl Announcer {
    pub(super) fn new(backends: Backends) -> Self {
        Self {
            backends,
            asked: AtomicU64::new(0),
            done: Mutex::new(0),
            retrying: AtomicBool::new(false),
            closing: std::sync::Mutex::default(),
        }
    }

    /// Returns when everything that was stored before the call is in the log. Callers that come together share one
    /// round.
    async fn settle(self: &Arc<Self>) -> backend::Result<()> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut done = self.done.lock().await;
        if *done >= mine {
            return Ok(());
        }
        let up_to = self.asked.load(Ordering::SeqCst);
        while self.announce_batch().await? {}
        *done = up_to;
        Ok(())
    }

    /// Answers whether there may be more to do now.
    async fn announce_batch(self: &Arc<Self>) -> backend::Result<bool> {
        let Backends { directory, log, .. } = &self.backends;
        let batch = directory.unannounced(BATCH).await?;
        if batch.is_empty() {
            return Ok(false);
        }
        let is_full = batch.len() == BATCH;
        // The log keeps the order of calls that are first polled in that order, which is what this does.
        let results = join_all(batch.iter().map(|append| log.append(append.clone()))).await;
        let mut settled = Vec::with_capacity(batch.len());
        let mut trouble = None;
        for (append, result) in batch.into_iter().zip(results) {
            match result {
                Ok(_) => settled.push(append),
                // The room was deleted meanwhile.
                Err(error @ Error::NotFound(_)) => {
                    tracing::debug!(room.id = %append.room, %error, "an announcement came too late");
                    settled.push(append);
                }
                // Another act has its id: it will never be taken.
                Err(error @ Error::Conflict(_)) => {
                    tracing::error!(room.id = %append.room, message.id = %append.id, %error, "an announcement was refused");
                    settled.push(append);
                }
                Err(error) => {
                    trouble.get_or_insert(error);
                }
            }
        }
        let (ends, settled): (Vec<_>, Vec<_>) = settled.into_iter().partition(is_end);
        directory.announced(&settled).await?;
        let mut progress = settled.len();
        for end in ends {
            progress += usize::from(self.clone().close(end));
        }
        if is_full && progress == 0 {
            // Others wait behind logs that are being closed.
            self.clone().settle_later();
        }
        trouble.map_or(Ok(is_full && progress > 0), Err)
    }

    /// Closes the log of a deleted room beside everything else: it may be long. `false` when that is under way.
    fn close(self: Arc<Self>, end: Append) -> bool {
        if !self.closing().insert(end.room.clone()) {
            return false;
        }
        tokio::spawn(async move {
            let Backends { directory, log, .. } = &self.backends;
            let closed = async {
                log.forget(&end.room).await?;
                directory.announced(std::slice::from_ref(&end)).await
            };
            let closed = closed.await;
            self.closing().remove(&end.room);
            if let Err(error) = closed {
                tracing::debug!(room.id = %end.room, %error, "a deleted room's log stays for now");
                self.settle_later();
            }
        });
        true
    }

    fn closing(&self) -> MutexGuard<'_, HashSet<RoomId>> {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle_later(self: Arc<Self>) {
        if self.retrying.swap(true, Ordering::SeqCst) {
            return;
        }
        tokio::spawn(async move {
            let mut pause = RETRY_MIN;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
                // First this: whoever fails from here on may begin retries of their own, so that none is left without.
                self.retrying.store(false, Ordering::SeqCst);
                if self.settle().await.is_ok() || self.retrying.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
        });
    }
}

/// Whether it is the last event of a room.
fn is_end(append: &Append) -> bool {
    matches!(
        append.body,
        EventBody::Room {
            change: RoomChange::Deleted,
            ..
        }
    )
}
