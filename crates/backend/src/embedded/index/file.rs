//! The file of the index: opened, or made anew when it does not fit the log.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::{Error, Result};

/// Changed whenever the tables or the words change; an index of another version is made anew.
const VERSION: i32 = 1;

const TABLES: &str = "
    CREATE VIRTUAL TABLE texts USING fts5 (
        words, content = '', contentless_delete = 1, detail = none, prefix = '2 3',
        tokenize = \"ascii tokenchars '_'\"
    );
    -- Words of four letters or more, to find those that begin alike.
    CREATE TABLE vocabulary (word TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    -- How far the log is indexed, and the id of the event there.
    CREATE TABLE position (one INTEGER PRIMARY KEY CHECK (one = 1), n INTEGER NOT NULL, id BLOB) STRICT;
    INSERT INTO position VALUES (1, 0, NULL);
";

/// Opens the index, or makes it anew when it is missing, of another version, corrupt, or ahead of the log. Answers how
/// far it goes. `replaced` is called when there is a new file.
pub(in super::super) fn open(
    path: &Path,
    log: &Connection,
    replaced: impl FnOnce(),
) -> Result<(Connection, i64)> {
    if path.exists() {
        match open_old(path, log) {
            Ok(Some(opened)) => return Ok(opened),
            Ok(None) => tracing::info!("the search index does not fit the log and is made anew"),
            Err(Error::Corrupt(error)) => {
                tracing::warn!(error, "the search index is corrupt and is made anew");
            }
            Err(error) => return Err(error),
        }
        remove(path);
        replaced();
    }
    let index = connect(path)?;
    index.execute_batch(&format!(
        "BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
    ))?;
    Ok((index, 0))
}

fn open_old(path: &Path, log: &Connection) -> Result<Option<(Connection, i64)>> {
    let index = connect(path)?;
    let version: i32 = index.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != VERSION {
        return Ok(None);
    }
    let (n, id): (i64, Option<Vec<u8>>) =
        index.query_row("SELECT n, id FROM position", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let fits = match id {
        None => n == 0,
        Some(id) => id_at(log, n)?.is_none_or(|there| there == id) && n <= last(log)?,
    };
    Ok(fits.then_some((index, n)))
}

/// The id of the event at an ordinal. There is none at that of a room forgotten, or of an event removed with its room.
pub(super) fn id_at(log: &Connection, n: i64) -> Result<Option<Vec<u8>>> {
    Ok(log
        .prepare_cached("SELECT id FROM events WHERE n = ?1")?
        .query_row([n], |row| row.get(0))
        .optional()?)
}

fn last(log: &Connection) -> Result<i64> {
    Ok(log.query_row(
        "SELECT max(coalesce((SELECT max(n) FROM events), 0),
                    coalesce((SELECT max(forgotten_n) FROM rooms), 0))",
        [],
        |row| row.get(0),
    )?)
}

fn connect(path: &Path) -> Result<Connection> {
    let index = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    index.execute_batch(
        "PRAGMA busy_timeout = 1000;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         PRAGMA cache_size = -16384;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    index.set_prepared_statement_cache_capacity(32);
    Ok(index)
}

/// A connection for searches.
pub(in super::super) fn reader(path: &Path) -> Result<Connection> {
    let index = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    index.execute_batch("PRAGMA busy_timeout = 1000; PRAGMA cache_size = -16384;")?;
    Ok(index)
}

/// Throws the index away.
pub(super) fn remove(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        match fs::remove_file(PathBuf::from(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "a file of the search index stays"),
        }
    }
}
