//! What other threads hand to a worker: events of its rooms, signals, and orders of the process.

use std::sync::{Arc, Mutex};

use backend::relay::Signal;
use protocol::RoomId;
use tokio::sync::Notify;

use crate::pod::lock;
use crate::ring::Batch;

/// Bytes of events that wait for one worker. Beyond that the worker reads them from the log.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Signals that wait for one worker. Beyond that they are dropped.
const SIGNALS_MAX: usize = 4096;

/// Everything that arrived since the worker last looked.
#[derive(Default)]
pub struct Mail {
    pub batches: Vec<(RoomId, Arc<Batch>)>,
    pub signals: Vec<Signal>,
    /// Events were dropped: every reader of this worker has to look at the log.
    pub lost_events: bool,
    /// Signals that found no room.
    pub lost_signals: u64,
    pub drain: Option<Drain>,
    bytes: usize,
}

/// The process is leaving.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// Clients are told to connect again within this time, then closed at an even rate within the same time.
    pub spread: std::time::Duration,
}

/// The only way into a worker from another thread.
#[derive(Default)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    wake: Notify,
}

impl Mailbox {
    /// Leaves events of a room. What ends a membership is never left out.
    pub fn post(&self, room: &RoomId, batch: &Arc<Batch>) {
        let mut mail = lock(&self.mail);
        let is_full = mail.bytes + batch.bytes.len() > BYTES_MAX;
        mail.lost_events |= is_full;
        if !is_full || batch.act.is_some() {
            mail.bytes += batch.bytes.len();
            mail.batches.push((room.clone(), Arc::clone(batch)));
        }
        drop(mail);
        self.wake.notify_one();
    }

    /// Leaves a signal.
    pub fn post_signal(&self, signal: &Signal) {
        let mut mail = lock(&self.mail);
        if mail.signals.len() < SIGNALS_MAX {
            mail.signals.push(signal.clone());
        } else {
            mail.lost_signals += 1;
        }
        drop(mail);
        self.wake.notify_one();
    }

    /// Tells the worker to let its clients go.
    pub fn drain(&self, drain: Drain) {
        lock(&self.mail).drain = Some(drain);
        self.wake.notify_one();
    }

    /// The worker itself has something to do.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until something was left since the last call.
    pub async fn notified(&self) {
        self.wake.notified().await;
    }

    /// Takes everything.
    pub fn take(&self) -> Mail {
        std::mem::take(&mut *lock(&self.mail))
    }
}
