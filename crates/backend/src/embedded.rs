//! The embedded family: everything in one process, over SQLite in one folder.
//!
//! `darda.db` holds the log and the directory; one thread writes it ([`writer`], [`wal`]), a few read it
//! ([`readers`]).
//! `search.db` is an index that follows the log and can be thrown away at any time ([`index`]). Relay and presence
//! are memory. A second process on the same folder is refused by a lock file.

mod cache;
mod codec;
mod directory;
mod heads;
mod health;
mod index;
mod ledger;
mod log;
mod presence;
mod readers;
pub(crate) mod relay;
mod rows;
mod schema;
mod search;
mod shared;
mod wal;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use schema::Folder;
use shared::Shared;

use crate::{Backends, Error, Relay, Result};

pub async fn open(data_dir: PathBuf) -> Result<Backends> {
    tokio::task::spawn_blocking(move || start(data_dir))
        .await
        .map_err(|e| Error::unavailable(format!("opening the data folder stopped: {e}")))?
}

/// Held by every port that has threads behind it: when the last is dropped without a `close`, the threads end.
struct Guard {
    shared: Arc<Shared>,
    /// Threads that write have a share of it, so that the lock outlives their last write.
    folder: Mutex<Option<Arc<Folder>>>,
}

impl Guard {
    fn release(&self) {
        self.folder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.progress.stop();
    }
}

fn start(data_dir: PathBuf) -> Result<Backends> {
    let folder = Arc::new(Folder::open(data_dir)?);
    let (log, index) = (folder.database(), folder.index());
    let connection = schema::prepare(&log)?;
    let shared = Arc::new(Shared::default());
    let relay: Arc<dyn Relay> = Arc::new(relay::InProcess::default());
    let guard = Arc::new(Guard {
        shared: Arc::clone(&shared),
        folder: Mutex::new(Some(Arc::clone(&folder))),
    });
    let writer = writer::Writer::start(
        connection,
        log.clone(),
        Arc::clone(&shared),
        Arc::clone(&relay),
        Arc::clone(&folder),
    )?;
    let (follower, indexed) =
        index::start(log.clone(), index.clone(), Arc::clone(&shared), folder)?;
    let pool = |name, count| {
        readers::Readers::start(name, count, log.clone(), index.clone(), Arc::clone(&shared))
    };
    let cores = thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    let readers = pool("reader", cores)?;
    let searchers = pool("search", 2)?;
    Ok(Backends {
        log: Arc::new(log::SqliteLog {
            writer: writer.clone(),
            readers: readers.clone(),
            shared: Arc::clone(&shared),
            _guard: Arc::clone(&guard),
        }),
        presence: Arc::new(presence::InMemory::new(
            Arc::clone(&relay),
            Arc::clone(&shared),
        )),
        relay,
        directory: Arc::new(directory::SqliteDirectory {
            writer: writer.clone(),
            readers: readers.clone(),
            shared: Arc::clone(&shared),
            _guard: Arc::clone(&guard),
        }),
        search: Arc::new(search::Fts {
            readers: searchers.clone(),
            shared: Arc::clone(&shared),
            indexed,
            _guard: Arc::clone(&guard),
        }),
        health: Arc::new(health::Family {
            writer,
            readers: [readers, searchers],
            index: Mutex::new(Some(follower)),
            guard,
            shared,
        }),
    })
}
