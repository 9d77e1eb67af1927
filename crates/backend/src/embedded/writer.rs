//! The writer: one thread that owns the write connection and commits in groups.
//!
//! It takes everything that waits, runs it in one transaction, and after the commit (which is an fsync) publishes
//! heads, hands events to the relay and answers each caller, in this order. There is no artificial wait: the group
//! grows while the disk works on the one before. Nothing is known about a commit that failed, so everything cached
//! is read again from the database before the next group.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;

use protocol::{Event, RoomId};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::Shared;
use super::ledger::Ledger;
use super::schema::{self, Folder};
use super::wal::Copier;
use crate::log::{Append, Appended};
use crate::{Error, Relay, Result};

/// Commands of one transaction.
const GROUP_MAX: usize = 1000;
/// Commands that may wait for the next one.
const QUEUE_MAX: usize = 4096;
/// Events of forgotten rooms that are removed in one transaction.
const PURGE_ROWS: usize = 200;

/// Hands work to the writer thread.
#[derive(Clone)]
pub(super) struct Writer {
    queue: SyncSender<Command>,
    shared: Arc<Shared>,
}

enum Command {
    Append {
        append: Append,
        reply: oneshot::Sender<Result<Appended>>,
    },
    Forget {
        room: RoomId,
        reply: oneshot::Sender<Result<()>>,
    },
    Change(Box<dyn Change>),
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Any other work on the database. Runs in a savepoint of its own.
trait Change: Send {
    /// Does the work. What it answers is kept for the caller until the group is committed.
    fn apply(&mut self, connection: &Connection) -> Verdict;
    /// Answers the caller: `None` when the group is committed, else why it was not.
    fn finish(self: Box<Self>, failure: Option<Error>);
}

enum Verdict {
    Keep,
    /// The caller's own fault; the rest of the group goes on.
    Undo,
    /// The database is in trouble.
    Abort(Error),
}

/// A closure as a [`Change`]: does `work`, runs `after` once it is committed, answers through `reply`.
struct Job<T, W, A> {
    work: Option<W>,
    after: A,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, W, A> Change for Job<T, W, A>
where
    T: Send,
    W: FnOnce(&Connection) -> Result<T> + Send,
    A: FnOnce(&T) + Send,
{
    fn apply(&mut self, connection: &Connection) -> Verdict {
        let Some(work) = self.work.take() else {
            return Verdict::Undo;
        };
        match work(connection) {
            Ok(value) => {
                self.result = Some(Ok(value));
                Verdict::Keep
            }
            Err(error @ (Error::Unavailable { .. } | Error::Corrupt(_))) => Verdict::Abort(error),
            Err(error) => {
                self.result = Some(Err(error));
                Verdict::Undo
            }
        }
    }

    fn finish(self: Box<Self>, failure: Option<Error>) {
        let result = match (failure, self.result) {
            (Some(error), _) => Err(error),
            (None, Some(result)) => result,
            (None, None) => Err(Error::unavailable("the work was not done")),
        };
        if let Ok(value) = &result {
            (self.after)(value);
        }
        // A caller that went away needs no answer.
        let _ = self.reply.send(result);
    }
}

impl Writer {
    /// Starts the thread. It ends with [`Writer::close`], or when the last handle is dropped.
    pub fn start(
        mut connection: Connection,
        path: PathBuf,
        shared: Arc<Shared>,
        relay: Arc<dyn Relay>,
        folder: Arc<Folder>,
    ) -> Result<Self> {
        let (queue, commands) = sync_channel(QUEUE_MAX);
        let ledger = Ledger::load(&connection)?;
        shared.progress.commit(ledger.n());
        let copier = Copier::start(path.clone())?;
        copier.follow(&mut connection, &path)?;
        let thread = Thread {
            connection: Some(connection),
            copier,
            path,
            ledger,
            commands,
            shared: Arc::clone(&shared),
            relay,
            _folder: folder,
        };
        thread::Builder::new()
            .name("darda-writer".to_owned())
            .spawn(move || thread.run())
            .map_err(|e| Error::unavailable(format!("no thread for the writer: {e}")))?;
        Ok(Self { queue, shared })
    }

    pub async fn append(&self, append: Append) -> Result<Appended> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Append { append, reply })?;
        answer.await.map_err(|_| gone())?
    }

    pub async fn forget(&self, room: RoomId) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Forget { room, reply })?;
        answer.await.map_err(|_| gone())?
    }

    /// Runs `work` in a transaction; `after` runs on the writer thread once it is committed, before the answer and
    /// before anything committed later.
    pub async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Change(Box::new(Job {
            work: Some(work),
            after,
            result: None,
            reply,
        })))?;
        answer.await.map_err(|_| gone())?
    }

    /// Waits until all that was accepted is on disk and the files are closed.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.clone();
        let send = move || queue.send(Command::Close { reply }).is_ok();
        if matches!(tokio::task::spawn_blocking(send).await, Ok(true)) {
            // Without an answer the thread is gone, and so is the connection.
            let _ = answer.await;
        }
    }

    fn send(&self, command: Command) -> Result<()> {
        self.shared.check_open()?;
        self.queue.try_send(command).map_err(|e| match e {
            TrySendError::Full(_) => {
                Error::overloaded(format!("{QUEUE_MAX} changes wait for the disk"))
            }
            TrySendError::Disconnected(_) => gone(),
        })
    }
}

fn gone() -> Error {
    Error::unavailable("the writer has stopped")
}

/// A caller's answer that waits for the commit.
enum Answer {
    Append(oneshot::Sender<Result<Appended>>, Result<Appended>),
    Forget(oneshot::Sender<Result<()>>),
    Change(Box<dyn Change>),
}

struct Thread {
    /// `None` after trouble, until it is opened again.
    connection: Option<Connection>,
    copier: Copier,
    path: PathBuf,
    ledger: Ledger,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    relay: Arc<dyn Relay>,
    /// Keeps the folder locked until the last write.
    _folder: Arc<Folder>,
}

impl Thread {
    fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        let closer = loop {
            let closer = self.gather(&mut group);
            if !group.is_empty() || self.ledger.has_purges() {
                // A defect in one command must not end the thread that everybody waits for: whoever was in the
                // group finds its answer dropped, which is an `Unavailable`.
                let commit = AssertUnwindSafe(|| self.commit(group.drain(..)));
                if catch_unwind(commit).is_err() {
                    group.clear();
                    self.distrust("a defect stopped a transaction".to_owned());
                }
            }
            match closer {
                Closer::None => {}
                Closer::Asked(reply) => break Some(reply),
                Closer::Dropped => break None,
            }
        };
        self.finish();
        if let Some(reply) = closer {
            let _ = reply.send(());
        }
    }

    /// Takes what waits; blocks while there is nothing to do at all.
    fn gather(&mut self, group: &mut Vec<Command>) -> Closer {
        if !self.ledger.has_purges() || self.connection.is_none() {
            match self.commands.recv() {
                Ok(Command::Close { reply }) => return Closer::Asked(reply),
                Ok(command) => group.push(command),
                Err(_) => return Closer::Dropped,
            }
        }
        while group.len() < GROUP_MAX {
            match self.commands.try_recv() {
                Ok(Command::Close { reply }) => return Closer::Asked(reply),
                Ok(command) => group.push(command),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Closer::Dropped,
            }
        }
        Closer::None
    }

    /// One transaction, and the answers to all who are in it.
    fn commit(&mut self, group: impl Iterator<Item = Command>) {
        let mut answers = Vec::new();
        let mut events = Vec::new();
        match self.transact(group, &mut answers, &mut events) {
            Ok(()) => {
                self.shared.heads.put(self.ledger.take_moved());
                self.shared.progress.commit(self.ledger.n());
                self.shared.set_trouble(None);
                if !events.is_empty() {
                    self.relay.events(&events);
                }
                for answer in answers {
                    answer.give(None);
                }
            }
            Err(error) => {
                self.distrust(error.to_string());
                for answer in answers {
                    answer.give(Some(&error));
                }
            }
        }
        self.ledger.trim();
        // Nobody waits for this but the next group.
        if let Some(connection) = &self.connection
            && let Err(error) = self.copier.finish(connection)
        {
            tracing::debug!(%error, "the rest of the log was not copied; it will be tried again");
        }
    }

    fn transact(
        &mut self,
        group: impl Iterator<Item = Command>,
        answers: &mut Vec<Answer>,
        events: &mut Vec<Arc<Event>>,
    ) -> Result<()> {
        let opened = self.reopen();
        let mut outcome = opened.and_then(|()| begin(self.connection.as_ref()));
        for command in group {
            // After trouble the rest of the group is only gathered, to be told.
            let connection = self.connection.as_ref().filter(|_| outcome.is_ok());
            match (command, connection) {
                (Command::Append { append, reply }, Some(connection)) => {
                    match self.ledger.append(connection, append) {
                        Ok(appended) => {
                            if !appended.duplicate {
                                events.push(Arc::clone(&appended.event));
                            }
                            answers.push(Answer::Append(reply, Ok(appended)));
                        }
                        Err(error @ (Error::Unavailable { .. } | Error::Corrupt(_))) => {
                            answers.push(Answer::Append(reply, Err(gone())));
                            outcome = Err(error);
                        }
                        Err(error) => answers.push(Answer::Append(reply, Err(error))),
                    }
                }
                (Command::Append { reply, .. }, None) => {
                    answers.push(Answer::Append(reply, Err(gone())));
                }
                (Command::Forget { room, reply }, connection) => {
                    if let Some(connection) = connection {
                        outcome = self.ledger.forget(connection, &room);
                    }
                    answers.push(Answer::Forget(reply));
                }
                (Command::Change(mut change), connection) => {
                    if let Some(connection) = connection {
                        outcome = in_savepoint(connection, change.as_mut());
                    }
                    answers.push(Answer::Change(change));
                }
                // `gather` keeps these.
                (Command::Close { .. }, _) => {}
            }
        }
        outcome?;
        let connection = self.connection.as_ref().ok_or_else(gone)?;
        self.ledger.purge(connection, PURGE_ROWS)?;
        connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Opens the connection that trouble closed, and learns again how far the log goes.
    fn reopen(&mut self) -> Result<()> {
        if self.connection.is_none() {
            let mut connection = schema::writer(&self.path)?;
            self.ledger = Ledger::load(&connection)?;
            self.copier.follow(&mut connection, &self.path)?;
            self.connection = Some(connection);
        }
        Ok(())
    }

    /// After trouble nothing in memory is believed: neither that the group is stored nor that it is not.
    fn distrust(&mut self, trouble: String) {
        tracing::error!(
            trouble,
            "a write to the database failed; it will be tried again"
        );
        if let Some(connection) = self.connection.take() {
            // SQLite may have rolled back by itself, then this has nothing to do.
            let _ = connection.execute_batch("ROLLBACK");
        }
        self.shared.heads.clear();
        self.shared.cache.clear();
        self.shared.set_trouble(Some(trouble));
    }

    /// Ends with all files closed and the lock given back.
    fn finish(self) {
        self.shared.closed.store(true, Ordering::Release);
        drop(self.copier);
        if let Some(connection) = self.connection {
            let done = connection.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE)");
            if let Err(error) = done {
                tracing::warn!(%error, "the write-ahead log stays for the next start");
            }
        }
    }
}

enum Closer {
    None,
    Asked(oneshot::Sender<()>),
    Dropped,
}

impl Answer {
    fn give(self, failure: Option<&Error>) {
        let failure = failure.map(again);
        // Whoever went away needs no answer.
        match self {
            Self::Append(reply, result) => {
                let _ = reply.send(failure.map_or(result, Err));
            }
            Self::Forget(reply) => {
                let _ = reply.send(failure.map_or(Ok(()), Err));
            }
            Self::Change(change) => change.finish(failure),
        }
    }
}

/// The trouble of a group, for each of its callers.
fn again(error: &Error) -> Error {
    match error {
        Error::Corrupt(text) => Error::Corrupt(text.clone()),
        Error::Unavailable { message, .. } => Error::unavailable(message.clone()),
        other => Error::unavailable(other.to_string()),
    }
}

fn begin(connection: Option<&Connection>) -> Result<()> {
    let connection = connection.ok_or_else(gone)?;
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    Ok(())
}

fn in_savepoint(connection: &Connection, change: &mut dyn Change) -> Result<()> {
    let run = |sql| -> Result<()> {
        connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    };
    run("SAVEPOINT change")?;
    match change.apply(connection) {
        Verdict::Keep => run("RELEASE change"),
        Verdict::Undo => {
            run("ROLLBACK TO change")?;
            run("RELEASE change")
        }
        Verdict::Abort(error) => Err(error),
    }
}
