//! A worker thread's table of rooms and connections: who hears what, and when it is written.
//!
//! Everything here belongs to one thread and takes no lock. An event is encoded once by the [`Pod`]; a room's events
//! that arrive between two writes are put together once, and every live subscription gets the same bytes. A
//! subscription is *live* (its position is the room's tail here) or *behind* (it reads from the ring or the log, page
//! by page, at its reader's pace). Subscribing, resuming, meeting a hole and falling behind all mean: be behind.

mod catch_up;
mod cursors;
mod drain;
mod heartbeat;
mod subscriptions;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::directory::Cursor;
use backend::relay::Signal;
use bytes::{Bytes, BytesMut};
use protocol::{
    CloseCode, ErrorCode, EventBody, GoawayReason, MessageId, RoomId, Seq, ServerFrame, Timestamp,
    UserId,
};
use slab::Slab;

use crate::connection::Connection;
use crate::mailbox::{Drain, Mail, Mailbox};
use crate::outbound::{CATCH_UP_BYTES, Lane, Pushed};
use crate::ring::{Batch, Piece};
use crate::{Process, websocket};

/// Connections are pinged in this many groups at least, one after the other.
const HEARTBEAT_SLOTS_MIN: usize = 25;
/// A person who did nothing for this long is away.
const AWAY_AFTER: Duration = Duration::from_secs(300);
/// Signals go to rooms with at most this many subscriptions on this worker.
pub const SIGNAL_ROOM_MAX: usize = 200;
/// Under load, writing takes at most a third of the time, but nobody waits longer than this.
const GAP_MAX: Duration = Duration::from_millis(20);
/// Cursors are kept and told this often.
const CURSORS_EVERY: Duration = Duration::from_millis(250);
const CURSORS_MAX: usize = 50_000;
/// A read that failed is tried again after this.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits until the subscriber is known to be allowed.
    Held,
    /// Was allowed; waits until it is known whether that is still so.
    Suspended,
    Live,
    Behind,
    /// Behind, and a read of the log is under way.
    Reading,
}

impl State {
    /// Whether the subscriber may be told what happens in the room.
    fn hears(self) -> bool {
        !matches!(self, Self::Held | Self::Suspended)
    }

    fn is_behind(self) -> bool {
        matches!(self, Self::Behind | Self::Reading)
    }
}

struct Subscription {
    connection: Rc<Connection>,
    /// The seq of the last event that was queued for the reader.
    position: u64,
    state: State,
}

struct Room {
    id: RoomId,
    subscriptions: Slab<Subscription>,
    pending: Vec<Arc<Batch>>,
    /// The last seq that was handed to live subscriptions.
    head: u64,
}

#[derive(Default)]
struct Tables {
    room_keys: HashMap<RoomId, usize>,
    rooms: Slab<Room>,
    connections: Slab<Rc<Connection>>,
    /// The connections of each signed-in user.
    users: HashMap<UserId, Vec<Rc<Connection>>>,
    /// Connections that had not signed in when they began, oldest first.
    newcomers: VecDeque<(Instant, Weak<Connection>)>,
    /// Rooms with pending events.
    dirty_rooms: Vec<usize>,
    /// Connections with something to write.
    dirty: Vec<Rc<Connection>>,
    /// Positions to keep and tell: received, read.
    cursors: HashMap<(RoomId, UserId), (Seq, Seq)>,
    deliveries: u64,
    delivered_bytes: u64,
}

/// One worker's hub.
pub struct Hub {
    pub process: Arc<Process>,
    worker: usize,
    mailbox: Arc<Mailbox>,
    tables: RefCell<Tables>,
    draining: Cell<bool>,
    running: Cell<bool>,
    /// One buffer for reading serves all connections of the thread.
    pub read_buffer: RefCell<Box<[u8]>>,
}

impl Hub {
    /// The hub of worker `worker`.
    pub fn new(process: Arc<Process>, worker: usize) -> Rc<Self> {
        Rc::new(Self {
            mailbox: process.pod.mailbox(worker),
            process,
            worker,
            tables: RefCell::default(),
            draining: Cell::new(false),
            running: Cell::new(false),
            read_buffer: RefCell::new(vec![0; 64 * 1024].into_boxed_slice()),
        })
    }

    /// Starts the tasks of the hub, once. Called on the worker's thread.
    pub fn start(self: &Rc<Self>) {
        if !self.running.replace(true) {
            actix_rt::spawn(Rc::clone(self).deliver());
            actix_rt::spawn(Rc::clone(self).heartbeat());
            actix_rt::spawn(Rc::clone(self).keep_cursors());
        }
    }

    /// Delivers what arrives. The first event after a pause is written at once; under load the pause between two
    /// rounds grows with what a round costs, so that more events share a write.
    async fn deliver(self: Rc<Self>) {
        let mut ready_at = Instant::now();
        loop {
            self.mailbox.notified().await;
            let wait = ready_at.saturating_duration_since(Instant::now());
            // Timers count in milliseconds; a shorter pause is not worth one.
            if wait >= Duration::from_millis(1) {
                tokio::time::sleep(wait).await;
            } else {
                // Lets requests that are ready join this round.
                tokio::task::yield_now().await;
            }
            let begun = Instant::now();
            self.round();
            let took = begun.elapsed();
            ready_at = begun + took + (took * 2).min(GAP_MAX);
        }
    }

    fn round(self: &Rc<Self>) {
        let mail = self.mailbox.take();
        let mut tables = self.tables.borrow_mut();
        if let Some(drain) = mail.drain {
            self.begin_drain(&tables, drain);
        }
        let lost_signals = mail.lost_signals;
        // What is counted as delivered, by its last event.
        let last = mail.batches.last();
        let latest = last.map(|(_, batch)| (batch.at_ms, batch.traced.map(|(id, _)| id)));
        let traced = self.sort_mail(&mut tables, mail);
        for key in std::mem::take(&mut tables.dirty_rooms) {
            self.hand_out(&mut tables, key);
        }
        self.write(&mut tables);
        let metrics = &self.process.metrics;
        metrics.signals_dropped.inc_by(lost_signals);
        metrics
            .deliveries
            .inc_by(std::mem::take(&mut tables.deliveries));
        metrics
            .delivered_bytes
            .inc_by(std::mem::take(&mut tables.delivered_bytes));
        if let Some((at_ms, traced)) = latest {
            let late = Timestamp::now().as_millis().saturating_sub(at_ms).max(0);
            metrics.delivered(late, traced);
        }
        for (id, at) in traced {
            runtime::trace::passed(id.as_uuid().as_u128(), "deliver", at.as_millis());
        }
    }

    /// What of it is traced, and when that was appended.
    fn sort_mail(self: &Rc<Self>, tables: &mut Tables, mail: Mail) -> Vec<(MessageId, Timestamp)> {
        let mut traced = Vec::new();
        for (room, batch) in mail.batches {
            let Some(&key) = tables.room_keys.get(&room) else {
                continue;
            };
            let act = batch.act.clone();
            traced.extend(batch.traced);
            let room = &mut tables.rooms[key];
            if room.pending.is_empty() {
                tables.dirty_rooms.push(key);
            }
            room.pending.push(batch);
            if let Some(event) = act {
                self.hand_out(tables, key);
                match &event.body {
                    EventBody::Member { user, .. } => self.suspend(tables, key, user),
                    _ => self.end_room(tables, key),
                }
            }
        }
        if mail.lost_events {
            for (_, room) in &mut tables.rooms {
                for (_, subscription) in &mut room.subscriptions {
                    fall_behind(&self.process, subscription, &mut tables.dirty);
                }
            }
        }
        for signal in mail.signals {
            self.hand_out_signal(tables, signal);
        }
        traced
    }

    /// Gives a room's pending events to its live subscriptions.
    fn hand_out(&self, tables: &mut Tables, key: usize) {
        let Some(room) = tables.rooms.get_mut(key) else {
            return;
        };
        let pending = std::mem::take(&mut room.pending);
        for run in runs(&pending) {
            let (after, head) = (run[0].after, run[run.len() - 1].head);
            let frames: usize = run.iter().map(|batch| batch.frames.len()).sum();
            let bytes = join(run);
            room.head = room.head.max(head);
            for (_, subscription) in &mut room.subscriptions {
                if subscription.state != State::Live || subscription.position >= head {
                    continue;
                }
                let pushed = if after == Some(subscription.position) {
                    let connection = &subscription.connection;
                    tables.deliveries += frames as u64;
                    tables.delivered_bytes += bytes.len() as u64;
                    connection.push(bytes.clone(), frames as u32, Lane::Data)
                } else {
                    // A hole, or a position within the run: the ring knows.
                    Pushed::Full
                };
                if pushed == Pushed::Full {
                    fall_behind(&self.process, subscription, &mut tables.dirty);
                } else {
                    subscription.position = head;
                    mark(&mut tables.dirty, &subscription.connection);
                }
            }
        }
    }

    fn hand_out_signal(&self, tables: &mut Tables, signal: Signal) {
        let (room, about, frame) = match signal {
            Signal::Typing { room, user, on } => {
                let frame = ServerFrame::Typing {
                    room: room.clone(),
                    user: user.clone(),
                    on,
                };
                (room, Some(user), frame)
            }
            Signal::Receipt {
                room,
                user,
                received,
                read,
            } => {
                let frame = ServerFrame::Receipt {
                    room: room.clone(),
                    user,
                    received,
                    read,
                };
                (room, None, frame)
            }
            Signal::Presence {
                room,
                user,
                status,
                last_seen,
            } => {
                let frame = ServerFrame::Presence {
                    user,
                    status,
                    last_seen,
                };
                (room, None, frame)
            }
            Signal::Notice { user, kind, room } => {
                let bytes = websocket::text(ServerFrame::Notice { kind, room }.encode().as_bytes());
                let Tables { users, dirty, .. } = tables;
                for connection in users.get(&user).into_iter().flatten() {
                    if connection.takes_answers() {
                        connection.push(bytes.clone(), 1, Lane::Answer);
                        mark(dirty, connection);
                    } else {
                        self.process.metrics.signals_dropped.inc();
                    }
                }
                return;
            }
        };
        let Some(&key) = tables.room_keys.get(&room) else {
            return;
        };
        let subscriptions = &tables.rooms[key].subscriptions;
        if subscriptions.len() > SIGNAL_ROOM_MAX {
            return;
        }
        let bytes = websocket::text(frame.encode().as_bytes());
        for (_, subscription) in subscriptions {
            let connection = &subscription.connection;
            // Nobody needs to be told that they are typing themselves.
            let is_own = about
                .as_ref()
                .is_some_and(|user| connection.session.borrow().user() == Some(user));
            if !subscription.state.hears() || is_own {
                continue;
            }
            if connection.push(bytes.clone(), 1, Lane::Signal) == Pushed::Full {
                self.process.metrics.signals_dropped.inc();
            } else {
                mark(&mut tables.dirty, connection);
            }
        }
    }

    /// Writes to every connection that has something, and lets those that are behind read on.
    fn write(self: &Rc<Self>, tables: &mut Tables) {
        for connection in std::mem::take(&mut tables.dirty) {
            connection.dirty.set(false);
            if connection.flush() && connection.behind.get() > 0 && !connection.is_over() {
                self.read_on(tables, &connection);
                connection.flush();
            }
        }
        if !tables.dirty.is_empty() {
            self.mailbox.wake();
        }
    }

    /// Puts a connection on the list of those to write.
    pub fn touch(&self, connection: &Rc<Connection>) {
        if !connection.dirty.get() {
            mark(&mut self.tables.borrow_mut().dirty, connection);
        }
        self.mailbox.wake();
    }

    /// Sends an answer.
    pub fn answer(&self, connection: &Rc<Connection>, frame: &ServerFrame) {
        if let ServerFrame::Error(error) = frame {
            self.process.metrics.refused(error.code);
        }
        connection.answer(frame);
        self.touch(connection);
    }

    /// Closes a connection and counts it.
    pub fn close(&self, connection: &Rc<Connection>, code: CloseCode, reason: &str) {
        if !connection.is_over() {
            self.process.metrics.closed(code);
            connection.close(code, reason);
            self.touch(connection);
        }
    }

    /// A connection has begun.
    pub fn add(&self, connection: &Rc<Connection>) {
        let mut tables = self.tables.borrow_mut();
        let key = tables.connections.insert(Rc::clone(connection));
        connection.key.set(key);
        let newcomer = (Instant::now(), Rc::downgrade(connection));
        tables.newcomers.push_back(newcomer);
        drop(tables);
        self.process.metrics.connections.inc();
        self.process.metrics.connections_opened.inc();
        if self.draining.get() {
            self.close(connection, CloseCode::Restart, "the server is restarting");
        }
    }

    /// The connection has its `welcome`: from here on it is told what concerns its user.
    pub fn welcome(&self, connection: &Rc<Connection>, user: &UserId) {
        connection.welcomed.set(true);
        if connection.is_over() {
            return;
        }
        let mut tables = self.tables.borrow_mut();
        let theirs = tables.users.entry(user.clone()).or_default();
        theirs.push(Rc::clone(connection));
    }

    /// A connection has ended.
    pub fn remove(self: &Rc<Self>, connection: &Rc<Connection>) {
        connection.abort();
        let mut tables = self.tables.borrow_mut();
        tables.connections.remove(connection.key.get());
        if let Some(user) = connection.session.borrow().user()
            && let Some(theirs) = tables.users.get_mut(user)
        {
            theirs.retain(|other| !Rc::ptr_eq(other, connection));
            if theirs.is_empty() {
                tables.users.remove(user);
            }
        }
        let subscriptions = connection.subscriptions.borrow().clone();
        for (key, at) in subscriptions {
            self.end_subscription(&mut tables, connection, key, at);
        }
        self.process.metrics.connections.dec();
    }
}

/// Puts a connection on a list of those to write, once.
fn mark(dirty: &mut Vec<Rc<Connection>>, connection: &Rc<Connection>) {
    if !connection.dirty.replace(true) {
        dirty.push(Rc::clone(connection));
    }
}

/// From here on the subscription reads from the ring or the log.
fn fall_behind(
    process: &Process,
    subscription: &mut Subscription,
    dirty: &mut Vec<Rc<Connection>>,
) {
    if subscription.state == State::Live {
        subscription.state = State::Behind;
        let connection = &subscription.connection;
        connection.behind.set(connection.behind.get() + 1);
        process.metrics.slow_sessions.inc();
        process.metrics.catch_ups.inc();
        mark(dirty, connection);
    }
}

/// Where in a room's table the connection's subscription is.
fn place(connection: &Connection, key: usize) -> Option<usize> {
    let subscriptions = connection.subscriptions.borrow();
    subscriptions
        .iter()
        .find(|(of, _)| *of == key)
        .map(|(_, at)| *at)
}

/// Splits batches where one does not follow the one before.
fn runs(pending: &[Arc<Batch>]) -> impl Iterator<Item = &[Arc<Batch>]> {
    pending.chunk_by(|before, after| after.after == Some(before.head))
}

/// The bytes of batches that follow each other, in one piece.
fn join(run: &[Arc<Batch>]) -> Bytes {
    if let [only] = run {
        return only.bytes.clone();
    }
    let mut bytes = BytesMut::with_capacity(run.iter().map(|batch| batch.bytes.len()).sum());
    for batch in run {
        bytes.extend_from_slice(&batch.bytes);
    }
    bytes.freeze()
}
