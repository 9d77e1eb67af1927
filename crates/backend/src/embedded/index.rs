//! The index: a thread that follows the log and keeps `search.db`, which can be made again from the log at any time.
//!
//! It reads the log in order of the ordinal `n` and writes in big batches without fsync of its own: what a crash takes
//! away is read again. A document is a message, its rowid the message's `n`, so newest first is the index's own order.
//! Besides its words a document has a word for its room and one for its author, with a sign that no text has.

mod file;
mod project;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;

use super::Shared;
use super::schema;
use super::shared::Wake;
use crate::{Error, Result};
pub(super) use file::reader;
use project::Projection;
pub(super) use project::VOCABULARY_LETTERS_MIN;

/// Events of one batch.
const BATCH_ROWS: i64 = 4000;
/// How long events may gather before they are indexed, unless somebody searches.
const LINGER: Duration = Duration::from_millis(250);
/// The index gives way to everything else.
const NICENESS: i32 = 15;
/// How long after trouble the next try is made.
const RETRY: Duration = Duration::from_secs(1);

/// The word that all messages of a room have.
pub(super) fn room_word(no: i64) -> String {
    format!("_r{no}")
}

/// The word that all messages of a user have.
pub(super) fn user_word(no: i64) -> String {
    format!("_u{no}")
}

/// Starts the thread. It ends after [`super::shared::Progress::stop`].
pub(super) fn start(
    log: PathBuf,
    path: PathBuf,
    shared: Arc<Shared>,
    keep: impl Send + 'static,
) -> Result<(JoinHandle<()>, watch::Receiver<i64>)> {
    let (done, indexed) = watch::channel(0);
    let follower = Follower {
        log,
        path,
        shared,
        done,
    };
    let thread = thread::Builder::new()
        .name("darda-index".to_owned())
        .spawn(move || {
            // On Linux this is the thread's own. People who talk come before those who will search.
            if let Err(error) = rustix::process::nice(NICENESS) {
                tracing::debug!(%error, "the index runs at ordinary priority");
            }
            follower.run();
            drop(keep);
        })
        .map_err(|e| Error::unavailable(format!("no thread for the index: {e}")))?;
    Ok((thread, indexed))
}

struct Follower {
    log: PathBuf,
    path: PathBuf,
    shared: Arc<Shared>,
    /// The ordinal up to which everything is in the index.
    done: watch::Sender<i64>,
}

impl Follower {
    fn run(self) {
        loop {
            let followed = catch_unwind(AssertUnwindSafe(|| self.follow()))
                .unwrap_or_else(|_| Err(Error::unavailable("a defect stopped the index")));
            let Err(error) = followed else { return };
            tracing::warn!(%error, "the search index is in trouble; it will be tried again");
            self.shared.index.set_trouble(Some(error.to_string()));
            if matches!(error, Error::Corrupt(_)) {
                file::remove(&self.path);
                self.shared.index.was_replaced();
            }
            if self.shared.progress.stopped_within(RETRY) {
                return;
            }
        }
    }

    /// Follows the log until it is time to end, or trouble.
    fn follow(&self) -> Result<()> {
        let log = schema::reader(&self.log)?;
        let (index, from) = file::open(&self.path, &log, || self.shared.index.was_replaced())?;
        let mut projection = Projection::new(log, index);
        let mut done = from;
        self.done.send_replace(done);
        self.shared.index.set_trouble(None);
        loop {
            match self.shared.progress.wait(done, BATCH_ROWS, LINGER) {
                Wake::Stopped => return Ok(()),
                Wake::Broken => {
                    return Err(Error::Corrupt("a search could not read it".to_owned()));
                }
                Wake::Behind => {}
            }
            let end = self.shared.progress.committed();
            while done < end && !self.shared.progress.is_stopped() {
                done = projection.step(done, end, BATCH_ROWS)?;
                self.done.send_replace(done);
            }
        }
    }
}

/// Whether a room's log is closed for ever.
fn is_forgotten(log: &Connection, room: i64) -> Result<bool> {
    Ok(log
        .prepare_cached("SELECT forgotten_n IS NOT NULL FROM rooms WHERE no = ?1")?
        .query_row([room], |row| row.get(0))?)
}
