//! The write-ahead log of the database as a file: synced before it is believed, as long as it will get before it is
//! used, and copied into the database beside the work of the writer.
//!
//! SQLite would copy it on the thread that commits, and everybody would wait for some thousand pages and two syncs. Here
//! a thread copies while commits go on; what came meanwhile is little, and the writer copies that, so that the log
//! begins anew and its file does not grow.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use super::schema;
use crate::{Error, Result};

/// The file has this many bytes from the beginning: a sync of bytes that are there already is faster than one that makes
/// a file longer, because the file system has nothing to note.
const LENGTH: u64 = 8 * 1024 * 1024;
/// Pages in the log at which copying begins.
const COPY_FROM: u32 = 1000;
/// So many pages the writer copies itself.
const REST_MAX: u32 = 200;
/// Times the thread tries to catch up with the writer.
const PASSES_MAX: usize = 4;
/// Beyond this the thread does not keep up: the writer waits for it and copies however much there is.
const PAGES_MAX: u32 = 6000;

fn file(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Makes sure that what a process wrote that is gone by now is on disk, before anybody reads it. It may have ended
/// between a write and its sync.
pub(super) fn sync(database: &Path) -> Result<()> {
    let synced = match File::open(file(database)) {
        Ok(log) => log.sync_data(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    synced.map_err(|error| Error::unavailable(format!("the log cannot be synced: {error}")))
}

/// Makes the file as long as it will get. SQLite knows its frames by their checksums and stops at the zeros.
fn lengthen(database: &Path) {
    if let Err(error) = try_lengthen(&file(database)) {
        tracing::debug!(%error, "the write-ahead log will grow as it is used");
    }
}

fn try_lengthen(path: &Path) -> io::Result<()> {
    let mut log = OpenOptions::new().append(true).open(path)?;
    let begin = log.metadata()?.len();
    let missing = usize::try_from(LENGTH.saturating_sub(begin)).unwrap_or(0);
    if missing == 0 {
        return Ok(());
    }
    // Written, not only reserved: the file system would note the first use of each reserved block.
    let lengthened = log
        .write_all(&vec![0; missing])
        .and_then(|()| log.sync_all());
    if lengthened.is_err() {
        // What is left of the disk is for messages.
        log.set_len(begin)?;
    }
    lengthened
}

/// Copies the log into the database when there is enough of it. Ends with its thread when dropped.
pub(super) struct Copier {
    thread: Option<JoinHandle<()>>,
    shared: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Pages in the log.
    pages: AtomicU32,
    /// There is something to copy.
    asked: AtomicBool,
    /// The rest is the writer's.
    rest: AtomicBool,
    /// Held during a pass of the thread.
    passing: Mutex<()>,
    stopped: AtomicBool,
}

impl Copier {
    /// Starts the thread.
    pub fn start(database: PathBuf) -> Result<Self> {
        let shared = Arc::new(State::default());
        let state = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("darda-copier".to_owned())
            .spawn(move || state.run(&database))
            .map_err(|e| Error::unavailable(format!("no thread for the copier: {e}")))?;
        Ok(Self {
            thread: Some(thread),
            shared,
        })
    }

    /// Follows the log that this connection writes; it has read before, so the file is there.
    pub fn follow(&self, connection: &mut Connection, database: &Path) -> Result<()> {
        lengthen(database);
        let Some(thread) = self.thread.as_ref().map(|thread| thread.thread().clone()) else {
            return Ok(());
        };
        let shared = Arc::clone(&self.shared);
        let mut next = COPY_FROM;
        connection.wal_hook(Some(move |_: &mut Wal, pages: c_int| {
            let pages = pages.unsigned_abs();
            if pages < shared.pages.swap(pages, Ordering::Relaxed) {
                // The log began anew.
                next = COPY_FROM;
            }
            if pages >= next {
                shared.asked.store(true, Ordering::Release);
                thread.unpark();
                next = pages + COPY_FROM;
            }
            Ok(())
        }))?;
        Ok(())
    }

    /// Copies what the thread left, so that the next commit begins the log anew. Between two transactions.
    pub fn finish(&self, connection: &Connection) -> Result<()> {
        let shared = &self.shared;
        let is_left = shared.rest.swap(false, Ordering::AcqRel);
        if shared.pages.load(Ordering::Relaxed) > PAGES_MAX {
            // SQLite lets nobody wait for another's pass: it would say busy, and the log would grow on.
            let _passing = shared.passing.lock();
            pass(connection)?;
        } else if is_left {
            pass(connection)?;
        }
        Ok(())
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that broke off has said why.
            let _ = thread.join();
        }
    }
}

impl State {
    fn run(&self, database: &Path) {
        while !self.stopped.load(Ordering::Acquire) {
            if self.asked.swap(false, Ordering::AcqRel) {
                match self.copy(database) {
                    Ok(()) => self.rest.store(true, Ordering::Release),
                    Err(error) => {
                        tracing::debug!(%error, "the log was not copied; it will be tried again");
                    }
                }
            } else {
                thread::park();
            }
        }
    }

    fn copy(&self, database: &Path) -> Result<()> {
        let connection = schema::copier(database)?;
        for _ in 0..PASSES_MAX {
            let passing = self.passing.lock();
            let copied = pass(&connection)?;
            drop(passing);
            if self.pages.load(Ordering::Relaxed).saturating_sub(copied) <= REST_MAX {
                break;
            }
        }
        Ok(())
    }
}

/// Copies all pages that no reader still needs in the log; how many of the log's are copied by now.
fn pass(connection: &Connection) -> Result<u32> {
    Ok(connection
        .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?
        .query_row([], |row| row.get::<_, i64>(2))
        .map(|copied| u32::try_from(copied).unwrap_or(0))?)
}
