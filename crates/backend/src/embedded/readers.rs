//! Readers: a few threads, each with a connection that only reads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::Shared;
use super::rows::Names;
use super::schema;
use crate::{Error, Result};

/// Reads that may wait.
const QUEUE_MAX: usize = 4096;

/// One thread's view of the data.
pub(super) struct Reader {
    pub connection: Connection,
    pub names: Names,
    index: Option<(u64, Connection)>,
    files: Arc<Files>,
}

/// Where a reader reads.
struct Files {
    log: PathBuf,
    index: PathBuf,
    shared: Arc<Shared>,
}

impl Reader {
    fn open(files: &Arc<Files>) -> Result<Self> {
        Ok(Self {
            connection: schema::reader(&files.log)?,
            names: Names::default(),
            index: None,
            files: Arc::clone(files),
        })
    }

    /// Asks the search index. Trouble there is no trouble of the log: the index is made anew, meanwhile searches are
    /// unavailable.
    pub fn ask_index<T>(&mut self, ask: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let asked = self.index().and_then(ask);
        asked.map_err(|error| {
            if matches!(error, Error::Corrupt(_)) {
                self.files.shared.progress.broken();
                self.files.shared.index.set_trouble(Some(error.to_string()));
            }
            self.index = None;
            Error::unavailable(format!("the search index: {error}"))
        })
    }

    fn index(&mut self) -> Result<&Connection> {
        let file = self.files.shared.index.file();
        let kept = self.index.take().filter(|(opened, _)| *opened == file);
        let opened = match kept {
            Some(opened) => opened,
            None => (file, super::index::reader(&self.files.index)?),
        };
        Ok(&self.index.insert(opened).1)
    }
}

type Job = Box<dyn FnOnce(Result<&mut Reader>) + Send>;

/// Hands reads to the threads.
#[derive(Clone)]
pub(super) struct Readers {
    queue: Arc<Mutex<Option<SyncSender<Job>>>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    shared: Arc<Shared>,
}

impl Readers {
    /// Starts `count` threads on the two databases.
    pub fn start(
        name: &str,
        count: usize,
        log: PathBuf,
        index: PathBuf,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let files = Arc::new(Files {
            log,
            index,
            shared: Arc::clone(&shared),
        });
        let (queue, jobs) = sync_channel::<Job>(QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut threads = Vec::with_capacity(count);
        for no in 0..count {
            let jobs = Arc::clone(&jobs);
            let files = Arc::clone(&files);
            let mut reader = Some(Reader::open(&files)?);
            let thread = thread::Builder::new()
                .name(format!("darda-{name}-{no}"))
                .spawn(move || {
                    while let Some(job) = next(&jobs) {
                        run(&mut reader, &files, job);
                    }
                })
                .map_err(|e| Error::unavailable(format!("no thread for a reader: {e}")))?;
            threads.push(thread);
        }
        Ok(Self {
            queue: Arc::new(Mutex::new(Some(queue))),
            threads: Arc::new(Mutex::new(threads)),
            shared,
        })
    }

    /// Runs `work` on one of the threads.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Reader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.shared.check_open()?;
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |reader| {
            // A caller that went away needs no answer.
            let _ = reply.send(reader.and_then(work));
        });
        {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = queue.as_ref().ok_or_else(gone)?;
            queue.try_send(job).map_err(|e| match e {
                TrySendError::Full(_) => {
                    Error::overloaded(format!("{QUEUE_MAX} reads wait for a reader"))
                }
                TrySendError::Disconnected(_) => gone(),
            })?;
        }
        answer.await.map_err(|_| gone())?
    }

    /// Ends the threads once what waits is answered. Blocks.
    pub fn close(&self) {
        drop(
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // `run` lets no panic out.
            let _ = thread.join();
        }
    }
}

fn gone() -> Error {
    Error::unavailable("the readers have stopped")
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .recv()
        .ok()
}

/// Runs one job. After a defect the connection is opened anew.
fn run(reader: &mut Option<Reader>, files: &Arc<Files>, job: Job) {
    if reader.is_none() {
        match Reader::open(files) {
            Ok(opened) => *reader = Some(opened),
            Err(error) => return job(Err(error)),
        }
    }
    let Some(ready) = reader.as_mut() else { return };
    if catch_unwind(AssertUnwindSafe(|| job(Ok(ready)))).is_err() {
        tracing::error!("a defect stopped a read");
        *reader = None;
    }
}
