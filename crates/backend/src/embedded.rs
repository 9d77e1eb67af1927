//! The embedded family: everything in one process, over SQLite in one folder.
//!
//! `darda.db` holds the log and the directory; one thread writes it ([`writer`]), a few read it ([`readers`]).
//! `search.db` is an index that follows the log and can be thrown away at any time ([`index`]). Relay and presence
//! are memory. A second process on the same folder is refused by a lock file.

mod cache;
mod codec;
mod directory;
mod heads;
mod health;
mod ledger;
mod log;
mod presence;
mod readers;
mod relay;
mod rows;
mod schema;
mod search;
mod shared;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use shared::Shared;

use crate::{Backends, Error, Relay, Result};

pub async fn open(data_dir: PathBuf) -> Result<Backends> {
    tokio::task::spawn_blocking(move || start(data_dir))
        .await
        .map_err(|e| Error::unavailable(format!("opening the data folder stopped: {e}")))?
}

fn start(data_dir: PathBuf) -> Result<Backends> {
    let folder = schema::Folder::open(data_dir)?;
    let path = folder.database();
    let connection = schema::prepare(&path)?;
    let shared = Arc::new(Shared::default());
    let relay: Arc<dyn Relay> = Arc::new(relay::InProcess::default());
    let writer = writer::Writer::start(
        connection,
        path.clone(),
        Arc::clone(&shared),
        Arc::clone(&relay),
    )?;
    let readers = readers::Readers::start(path, Arc::clone(&shared))?;
    Ok(Backends {
        log: Arc::new(log::SqliteLog {
            writer: writer.clone(),
            readers: readers.clone(),
            shared: Arc::clone(&shared),
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
        }),
        search: Arc::new(search::NotYet),
        health: Arc::new(health::Family::new(folder, writer, readers, shared)),
    })
}
