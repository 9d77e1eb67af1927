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

/// One thread's view of the database.
pub(super) struct Reader {
    pub connection: Connection,
    pub names: Names,
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
    pub fn start(path: PathBuf, shared: Arc<Shared>) -> Result<Self> {
        let (queue, jobs) = sync_channel::<Job>(QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        let count = thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
        let mut threads = Vec::with_capacity(count);
        for no in 0..count {
            let jobs = Arc::clone(&jobs);
            let path = path.clone();
            let mut reader = Some(open(&path)?);
            let thread = thread::Builder::new()
                .name(format!("darda-reader-{no}"))
                .spawn(move || {
                    while let Some(job) = next(&jobs) {
                        run(&mut reader, &path, job);
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

fn open(path: &std::path::Path) -> Result<Reader> {
    Ok(Reader {
        connection: schema::reader(path)?,
        names: Names::default(),
    })
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .recv()
        .ok()
}

/// Runs one job. After a defect the connection is opened anew.
fn run(reader: &mut Option<Reader>, path: &std::path::Path, job: Job) {
    if reader.is_none() {
        match open(path) {
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
