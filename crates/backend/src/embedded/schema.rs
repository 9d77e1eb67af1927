//! The data folder and its main database: lock, checks, schema versions, connections.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{rows, wal};
use crate::{Error, Result};

const DATABASE: &str = "darda.db";
const LOCK: &str = "darda.lock";

/// "Drda": says in the header of the file whose it is.
const APPLICATION_ID: i32 = 0x4472_6461;

/// Files up to this size are read through when they are opened.
const CHECKED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One entry per version, the first brings an empty file to version 1. Entries are never changed, only added.
const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql")];

/// The data folder, locked for this process until dropped.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is missing and takes its lock.
    pub fn open(path: PathBuf) -> Result<Self> {
        make(&path).map_err(|e| {
            Error::Refused(format!(
                "the data folder {} cannot be made: {e}",
                path.display()
            ))
        })?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(|e| {
                Error::Refused(format!(
                    "the data folder {} cannot be written: {e}",
                    path.display()
                ))
            })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::Refused(format!(
                "the data folder {} is in use by another process; stop that one or choose another folder",
                path.display()
            ))),
            Err(TryLockError::Error(e)) => Err(Error::Refused(format!(
                "the data folder {} cannot be locked: {e}",
                path.display()
            ))),
        }
    }

    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    pub fn index(&self) -> PathBuf {
        self.path.join("search.db")
    }
}

fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    // A power cut must not take the folder with all that was acknowledged in it.
    let parent = path.canonicalize()?;
    parent
        .parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Opens the database for the first time in this process: checks it and brings it to the present version.
pub(super) fn prepare(path: &Path) -> Result<Connection> {
    let named = |e: Error| match e {
        Error::Corrupt(text) => Error::Corrupt(format!(
            "{}: {text}; restore it from a backup",
            path.display()
        )),
        Error::Unavailable { message, .. } => {
            Error::Refused(format!("{} cannot be used: {message}", path.display()))
        }
        other => other,
    };
    check_header(path)?;
    let mut connection = writer(path).map_err(named)?;
    check_identity(&connection, path).map_err(named)?;
    if fs::metadata(path).is_ok_and(|file| file.len() <= CHECKED_BYTES_MAX) {
        check_pages(&connection).map_err(named)?;
    }
    migrate(&mut connection).map_err(named)?;
    Ok(connection)
}

fn check_header(path: &Path) -> Result<()> {
    let mut head = Vec::new();
    match File::open(path) {
        Ok(file) => file
            .take(16)
            .read_to_end(&mut head)
            .map_err(|e| Error::Refused(format!("{} cannot be read: {e}", path.display())))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => {
            return Err(Error::Refused(format!(
                "{} cannot be opened: {e}",
                path.display()
            )));
        }
    };
    if head.is_empty() || head == b"SQLite format 3\0" {
        Ok(())
    } else {
        Err(Error::Corrupt(format!(
            "{} is not a database; restore it from a backup",
            path.display()
        )))
    }
}

fn check_identity(connection: &Connection, path: &Path) -> Result<()> {
    let pragma = |name: &str| -> Result<i32> {
        Ok(connection.pragma_query_value(None, name, |row| row.get(0))?)
    };
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && pragma("application_id")? != APPLICATION_ID {
        return Err(Error::Refused(format!(
            "{} belongs to another program; choose another data folder",
            path.display()
        )));
    }
    let version = usize::try_from(pragma("user_version")?).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        return Err(Error::Refused(format!(
            "{} has schema version {version} and this program knows versions up to {}; use the newer program",
            path.display(),
            MIGRATIONS.len()
        )));
    }
    Ok(())
}

fn check_pages(connection: &Connection) -> Result<()> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(Error::Corrupt(verdict.replace('\n', " ")))
    }
}

fn migrate(connection: &mut Connection) -> Result<()> {
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    for (at, step) in MIGRATIONS.iter().enumerate().skip(done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", rows::limit(at + 1))?;
        transaction.commit()?;
    }
    Ok(())
}

/// The write connection. Whatever the log holds is on disk when this returns.
pub(super) fn writer(path: &Path) -> Result<Connection> {
    wal::sync(path)?;
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.execute_batch(
        "PRAGMA busy_timeout = 1000;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = OFF;
         PRAGMA cache_size = -32768;
         PRAGMA journal_size_limit = 67108864;
         PRAGMA wal_autocheckpoint = 0;",
    )?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// A connection that only copies the write-ahead log into the database.
pub(super) fn copier(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;")?;
    Ok(connection)
}

/// A connection that only reads.
pub(super) fn reader(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.execute_batch(
        "PRAGMA busy_timeout = 1000; PRAGMA cache_size = -8192; PRAGMA query_only = ON;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt(error.to_string())
            }
            Some(ErrorCode::DiskFull) => Self::unavailable("the disk of the data folder is full"),
            Some(ErrorCode::ReadOnly) => Self::unavailable("the data folder is read-only"),
            _ => Self::unavailable(error.to_string()),
        }
    }
}
