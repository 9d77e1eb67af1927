//! Presence of all processes together, in Redis.
//!
//! A process holds a lease and tells under it what it has: how many sessions of each user, how many of them idle, and in
//! which rooms the user shows ([`table`], [`sync`]). It tells states, not changes, so that telling twice does no harm, and
//! many users in one call. Redis's functions compare what was with what is and say what to announce. A lease that ended
//! is swept by whichever process comes first. While Redis is away sessions come and go as ever, nobody's status is known,
//! and everything is told when it is back.

mod calls;
mod reads;
mod sync;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use protocol::{RoomId, SessionId, Status, UserId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::calls::Calls;
use self::reads::Reads;
use self::sync::Sync;
use self::table::{Table, Told};
use super::Redis;
use super::relay::ClusterRelay;
use crate::presence::{Present, UserStatus};
use crate::{Presence, Result};

/// A process that says nothing for so long has ended. With a second until somebody sweeps it: less than ten.
const LEASE: Duration = Duration::from_secs(9);
/// Nobody waits longer for Redis to be told.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a process that ends takes its sessions away; others do the rest.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// The presence of a process. Cheap to clone.
#[derive(Clone)]
pub struct ClusterPresence {
    inner: Arc<Inner>,
}

struct Inner {
    calls: Calls,
    relay: ClusterRelay,
    table: Mutex<Table>,
    /// There is something to tell.
    changed: Notify,
    closing: Notify,
    reads: Reads,
    tasks: Mutex<Option<Tasks>>,
}

struct Tasks {
    sync: JoinHandle<()>,
    reads: JoinHandle<()>,
}

impl ClusterPresence {
    /// Begins to tell Redis. Changes are announced by the relay.
    #[must_use]
    pub fn start(redis: Redis, relay: ClusterRelay) -> Self {
        let inner = Arc::new(Inner {
            calls: Calls::new(redis),
            relay,
            table: Mutex::default(),
            changed: Notify::new(),
            closing: Notify::new(),
            reads: Reads::default(),
            tasks: Mutex::default(),
        });
        let reading = Arc::clone(&inner);
        let tasks = Tasks {
            sync: tokio::spawn(Sync::new(Arc::clone(&inner)).run()),
            reads: tokio::spawn(async move { reading.reads.run(&reading.calls).await }),
        };
        *lock(&inner.tasks) = Some(tasks);
        Self { inner }
    }

    /// Takes all sessions of this process away. Before the relay is closed, so that others hear of it.
    pub async fn close(&self) {
        let Some(mut tasks) = lock(&self.inner.tasks).take() else {
            return;
        };
        self.inner.closing.notify_one();
        let ended = tokio::time::timeout(FAREWELL_MAX, &mut tasks.sync).await;
        if ended.is_err() {
            tasks.sync.abort();
        }
        tasks.reads.abort();
        // Nobody answers any more.
        self.inner.table().away();
    }

    /// Sessions of this process.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.inner.table().len()
    }

    /// Waits until Redis is told, or does not answer.
    async fn told(&self, told: Option<Told>) {
        if let Some(told) = told {
            self.inner.changed.notify_one();
            // Too long, or nobody answers any more: it is told later, or others take it away.
            let _ = tokio::time::timeout(WAIT_MAX, told).await;
        }
    }
}

#[async_trait]
impl Presence for ClusterPresence {
    async fn connect(&self, session: SessionId, user: &UserId, most: usize) -> Result<()> {
        let verdict = self.inner.table().connect(session, user, most)?;
        let Some(verdict) = verdict else {
            return Ok(());
        };
        self.inner.changed.notify_one();
        match tokio::time::timeout(WAIT_MAX, verdict).await {
            Ok(Ok(false)) => Err(table::refusal(user, most)),
            // Without presence people can still talk.
            Ok(Ok(true) | Err(_)) | Err(_) => Ok(()),
        }
    }

    async fn disconnect(&self, session: SessionId) -> Result<()> {
        let told = self.inner.table().disconnect(session);
        self.told(told).await;
        Ok(())
    }

    async fn enter(&self, session: SessionId, room: &RoomId) -> Result<()> {
        let told = self.inner.table().enter(session, room)?;
        self.told(told).await;
        Ok(())
    }

    async fn leave(&self, session: SessionId, room: &RoomId) -> Result<()> {
        let told = self.inner.table().leave(session, room);
        self.told(told).await;
        Ok(())
    }

    async fn set_idle(&self, session: SessionId, idle: bool) -> Result<()> {
        let told = self.inner.table().set_idle(session, idle);
        self.told(told).await;
        Ok(())
    }

    async fn status(&self, users: &[UserId]) -> Result<Vec<UserStatus>> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self
            .inner
            .calls
            .status(users)
            .await
            .unwrap_or_else(|error| {
                tracing::debug!(%error, "presence is not known");
                let unknown = users.iter().map(|user| UserStatus {
                    user: user.clone(),
                    status: Status::Unknown,
                    last_seen: None,
                });
                unknown.collect()
            }))
    }

    async fn present(&self, room: &RoomId, most: usize) -> Result<Present> {
        Ok(self.inner.reads.present(room, most).await)
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
