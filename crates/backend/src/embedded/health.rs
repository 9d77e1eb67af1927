//! The family's state, and its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::Shared;
use super::readers::Readers;
use super::schema::Folder;
use super::writer::Writer;
use crate::{Dependency, Error, Health};

/// How long a sign of life may take.
const PATIENCE: Duration = Duration::from_millis(900);

pub(super) struct Family {
    /// Given back when all files are closed.
    folder: Mutex<Option<Folder>>,
    writer: Writer,
    readers: Readers,
    shared: Arc<Shared>,
}

impl Family {
    pub fn new(folder: Folder, writer: Writer, readers: Readers, shared: Arc<Shared>) -> Self {
        Self {
            folder: Mutex::new(Some(folder)),
            writer,
            readers,
            shared,
        }
    }

    /// After trouble a real write shows whether it is over; else an empty transaction will do.
    async fn database_trouble(&self) -> Option<String> {
        let troubled = self.shared.trouble().is_some();
        let probe = self.writer.change(
            move |connection| {
                if troubled {
                    connection.execute(
                        "INSERT INTO meta VALUES ('probe', 1) ON CONFLICT DO UPDATE SET value = value + 1",
                        [],
                    )?;
                }
                Ok(())
            },
            |()| (),
        );
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
        vec![Dependency {
            name: "database",
            trouble: self.database_trouble().await,
        }]
    }

    async fn close(&self) {
        self.writer.close().await;
        self.shared.progress.stop();
        let readers = self.readers.clone();
        // A panic in there leaves nothing to wait for.
        let _ = tokio::task::spawn_blocking(move || readers.close()).await;
        self.folder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}
