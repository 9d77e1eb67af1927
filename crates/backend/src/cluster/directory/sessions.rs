//! Sessions with MongoDB, of which each sees all that this process has changed before, whoever is the primary now.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bson::Timestamp;
use mongodb::{ClientSession, bson};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::super::Mongo;
use super::super::mongo::trouble;
use crate::{Error, Result};

/// Callers have two seconds.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(1900);
/// Reads and changes of a process at the same time; the rest waits.
const AT_ONCE: usize = 24;

pub(super) struct Sessions {
    pub mongo: Mongo,
    /// The time, in the cluster's terms, of the last change that this process made.
    changed: Mutex<Option<Timestamp>>,
    permits: Semaphore,
}

impl Sessions {
    pub fn new(mongo: Mongo) -> Self {
        Self {
            mongo,
            changed: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
        }
    }

    /// A place among those who ask MongoDB.
    pub async fn permit(&self) -> Result<SemaphorePermit<'_>> {
        let permit = self.permits.acquire().await;
        permit.map_err(|_| Error::unavailable("the directory is closed"))
    }

    pub async fn open(&self) -> Result<ClientSession> {
        let session = self.mongo.client().start_session().await;
        let mut session = session.map_err(|e| trouble(&e))?;
        let changed = *self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(changed) = changed {
            session.advance_operation_time(changed);
        }
        Ok(session)
    }

    /// What the session changed is seen by those that are opened from now on.
    pub fn changed(&self, session: &ClientSession) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        *changed = (*changed).max(session.operation_time());
    }
}

/// Waits for something that must be there before the caller's time is over.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(ANSWER_WITHIN, work).await;
    answer.unwrap_or_else(|_| Err(Error::unavailable("mongodb: no answer in time")))
}
