//! The family's state, and its end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;

use super::readers::Readers;
use super::writer::Writer;
use super::{Guard, Shared};
use crate::{Dependency, Error, Health};

/// How long a sign of life may take.
const PATIENCE: Duration = Duration::from_millis(900);

/// What a write that shows whether trouble is over needs: as much as the largest event, so that a disk with room for
/// small ones only is not called healthy.
const PROBE_BYTES: i64 = 64 * 1024;

pub(super) struct Family {
    pub writer: Writer,
    pub readers: [Readers; 2],
    pub index: Mutex<Option<JoinHandle<()>>>,
    pub guard: Arc<Guard>,
    pub shared: Arc<Shared>,
}

impl Family {
    /// After trouble a real write shows whether it is over; else an empty transaction will do.
    async fn database_trouble(&self) -> Option<String> {
        let troubled = self.shared.trouble().is_some();
        let probe = move |connection: &Connection| {
            if troubled {
                connection.execute(
                    "INSERT OR REPLACE INTO meta VALUES ('probe', randomblob(?1))",
                    [PROBE_BYTES],
                )?;
            }
            Ok(())
        };
        let probe = self.writer.change(probe, |()| ());
        match tokio::time::timeout(PATIENCE, probe).await {
            Ok(Ok(())) => None,
            // Busy is not broken.
            Ok(Err(Error::Overloaded { .. })) => self.shared.trouble(),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the disk does not answer within a second".to_owned()),
        }
    }
}

#[async_trait]
impl Health for Family {
    async fn check(&self) -> Vec<Dependency> {
        vec![
            Dependency {
                name: "database",
                trouble: self.database_trouble().await,
                breaker: None,
            },
            Dependency {
                name: "search",
                trouble: self.shared.index.trouble(),
                breaker: None,
            },
        ]
    }

    async fn close(&self) {
        // First the readers, so that the writer is the last to close the database and can tidy it up.
        self.shared.closed.store(true, Ordering::Release);
        self.shared.progress.stop();
        let readers = self.readers.clone();
        let index = lock(&self.index).take();
        let threads = move || {
            readers.iter().for_each(Readers::close);
            // The thread lets no panic out that anybody could do something about.
            index.map(JoinHandle::join)
        };
        if tokio::task::spawn_blocking(threads).await.is_err() {
            tracing::error!("a defect stopped the end of the readers");
        }
        self.writer.close().await;
        self.guard.release();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
