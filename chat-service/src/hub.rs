//! A worker thread's table of rooms and connections: who hears what, and when it is written.
//!
//! Everything here belongs to one thread and takes no lock. An event is encoded once by the [`Pod`]; a room's events
//! that arrive between two writes are put together once, and every live subscription gets the same bytes. A
//! subscription is *live* (its position is the room's tail here) or *behind* (it reads from the ring or the log, page
//! by page, at its reader's pace). Subscribing, resuming, meeting a hole and falling behind all mean: be behind.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::directory::Cursor;
use backend::relay::Signal;
use bytes::{Bytes, BytesMut};
use protocol::{CloseCode, EventBody, GoawayReason, RoomId, Seq, ServerFrame, Timestamp, UserId};
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
    Live,
    Behind,
    /// Behind, and a read of the log is under way.
    Reading,
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
        let latest = self.sort_mail(&mut tables, mail);
        for key in std::mem::take(&mut tables.dirty_rooms) {
            self.hand_out(&mut tables, key);
        }
        self.write(&mut tables);
        let metrics = &self.process.metrics;
        metrics
            .deliveries
            .inc_by(std::mem::take(&mut tables.deliveries));
        metrics
            .delivered_bytes
            .inc_by(std::mem::take(&mut tables.delivered_bytes));
        if let Some(at_ms) = latest {
            let late = Timestamp::now().as_millis().saturating_sub(at_ms).max(0);
            metrics.delivery.observe(late as f64 / 1000.0);
        }
    }

    fn sort_mail(&self, tables: &mut Tables, mail: Mail) -> Option<i64> {
        let latest = mail.batches.last().map(|(_, batch)| batch.at_ms);
        for (room, batch) in mail.batches {
            let Some(&key) = tables.room_keys.get(&room) else {
                continue;
            };
            let act = batch.act.clone();
            let room = &mut tables.rooms[key];
            if room.pending.is_empty() {
                tables.dirty_rooms.push(key);
            }
            room.pending.push(batch);
            if let Some(event) = act {
                self.hand_out(tables, key);
                match &event.body {
                    EventBody::Member { user, .. } => self.expel(tables, key, Some(user)),
                    _ => self.expel(tables, key, None),
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
        latest
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

    /// Ends the subscriptions of one user, or of all, to a room they may no longer read.
    fn expel(&self, tables: &mut Tables, key: usize, user: Option<&UserId>) {
        let gone: Vec<_> = tables.rooms[key]
            .subscriptions
            .iter()
            .filter(|(_, subscription)| {
                let session = subscription.connection.session.borrow();
                user.is_none_or(|user| session.user() == Some(user))
            })
            .map(|(at, subscription)| (at, Rc::clone(&subscription.connection)))
            .collect();
        for (at, connection) in gone {
            self.end_subscription(tables, &connection, key, at);
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
                let Tables {
                    connections, dirty, ..
                } = tables;
                for (_, connection) in &*connections {
                    if connection.session.borrow().user() == Some(&user) {
                        connection.push(bytes.clone(), 1, Lane::Data);
                        mark(dirty, connection);
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
            if subscription.state == State::Held || is_own {
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
            if connection.flush() && connection.behind.get() > 0 {
                self.read_on(tables, &connection);
                connection.flush();
            }
        }
        if !tables.dirty.is_empty() {
            self.mailbox.wake();
        }
    }

    /// Gives a connection the next pages of the rooms in which it is behind, until enough waits to be written.
    fn read_on(self: &Rc<Self>, tables: &mut Tables, connection: &Rc<Connection>) {
        let subscriptions = connection.subscriptions.borrow().clone();
        for (key, at) in subscriptions {
            while connection.waiting_bytes() < CATCH_UP_BYTES {
                let room = &mut tables.rooms[key];
                let subscription = &mut room.subscriptions[at];
                if subscription.state != State::Behind {
                    break;
                }
                let position = subscription.position;
                match self.process.pod.recent(&room.id, position, CATCH_UP_BYTES) {
                    Some(piece) => {
                        if !self.take_piece(tables, connection, key, at, piece) {
                            break;
                        }
                    }
                    None => {
                        subscription.state = State::Reading;
                        let id = room.id.clone();
                        let read =
                            Rc::clone(self).read_log(Rc::clone(connection), key, id, position);
                        actix_rt::spawn(read);
                    }
                }
            }
        }
        if connection.behind.get() > 0 && connection.waiting_bytes() > 0 {
            // Goes on when this much is written.
            mark(&mut tables.dirty, connection);
        }
    }

    /// Queues what a reader who is behind gets next. With nothing left to get, the reader is live. `false` when the
    /// queue must be written first.
    fn take_piece(
        &self,
        tables: &mut Tables,
        connection: &Rc<Connection>,
        key: usize,
        at: usize,
        piece: Piece,
    ) -> bool {
        let room = &mut tables.rooms[key];
        let subscription = &mut room.subscriptions[at];
        if piece.frames == 0 {
            if subscription.position >= room.head {
                subscription.state = State::Live;
                connection.behind.set(connection.behind.get() - 1);
                self.process.metrics.slow_sessions.dec();
            } else {
                subscription.state = State::Behind;
            }
            return true;
        }
        subscription.state = State::Behind;
        mark(&mut tables.dirty, connection);
        let len = piece.bytes.len() as u64;
        if connection.push(piece.bytes, piece.frames, Lane::Data) == Pushed::Full {
            return false;
        }
        tables.deliveries += u64::from(piece.frames);
        tables.delivered_bytes += len;
        subscription.position = piece.to;
        true
    }

    /// Reads one page for a subscription that the ring cannot serve.
    async fn read_log(
        self: Rc<Self>,
        connection: Rc<Connection>,
        key: usize,
        room: RoomId,
        position: u64,
    ) {
        let page = self.process.pod.page(&room, position, CATCH_UP_BYTES).await;
        if page.is_err() {
            tokio::time::sleep(READ_AGAIN).await;
        }
        let mut tables = self.tables.borrow_mut();
        // The subscription may be gone, another in its place, or moved elsewhere by a second `subscribe`.
        let Some(at) = place(&connection, key).filter(|_| tables.rooms[key].id == room) else {
            return;
        };
        let subscription = &mut tables.rooms[key].subscriptions[at];
        if subscription.state != State::Reading || subscription.position != position {
            return;
        }
        match page {
            Ok(piece) => {
                self.take_piece(&mut tables, &connection, key, at, piece);
            }
            Err(error) => {
                tracing::debug!(%error, room.id = %room, "a read for a reader who is behind failed");
                subscription.state = State::Behind;
            }
        }
        mark(&mut tables.dirty, &connection);
        drop(tables);
        self.mailbox.wake();
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
        if self.draining.get() {
            self.close(connection, CloseCode::Restart, "the server is restarting");
        }
    }

    /// A connection has ended.
    pub fn remove(&self, connection: &Rc<Connection>) {
        connection.abort();
        let mut tables = self.tables.borrow_mut();
        tables.connections.remove(connection.key.get());
        let subscriptions = connection.subscriptions.borrow().clone();
        for (key, at) in subscriptions {
            self.end_subscription(&mut tables, connection, key, at);
        }
        self.process.metrics.connections.dec();
    }

    /// Makes place for a subscription that is not yet known to be allowed: from here on the worker gets the room's
    /// events. A subscription that exists is taken back to this state.
    pub fn hold(&self, connection: &Rc<Connection>, id: &RoomId) -> usize {
        let mut tables = self.tables.borrow_mut();
        let key = match tables.room_keys.get(id) {
            Some(&key) => key,
            None => {
                let key = tables.rooms.insert(Room {
                    id: id.clone(),
                    subscriptions: Slab::new(),
                    pending: Vec::new(),
                    head: 0,
                });
                tables.room_keys.insert(id.clone(), key);
                key
            }
        };
        if let Some(at) = place(connection, key) {
            let subscription = &mut tables.rooms[key].subscriptions[at];
            if matches!(subscription.state, State::Behind | State::Reading) {
                connection.behind.set(connection.behind.get() - 1);
                self.process.metrics.slow_sessions.dec();
            }
            subscription.state = State::Held;
            return key;
        }
        self.process.pod.watch(self.worker, id);
        self.process.metrics.subscriptions.inc();
        let at = tables.rooms[key].subscriptions.insert(Subscription {
            connection: Rc::clone(connection),
            position: 0,
            state: State::Held,
        });
        connection.subscriptions.borrow_mut().push((key, at));
        key
    }

    /// The subscription is allowed and begins after `position`; `head` is the end of the log, read after [`hold`].
    /// `false` when it was ended in the meantime.
    ///
    /// [`hold`]: Self::hold
    pub fn begin(
        &self,
        connection: &Rc<Connection>,
        key: usize,
        id: &RoomId,
        position: u64,
        head: u64,
    ) -> bool {
        let mut tables = self.tables.borrow_mut();
        let tables = &mut *tables;
        let Some(at) = place(connection, key).filter(|_| tables.rooms[key].id == *id) else {
            return false;
        };
        let room = &mut tables.rooms[key];
        let subscription = &mut room.subscriptions[at];
        subscription.position = position;
        subscription.state = State::Live;
        // Whatever was appended after the head was read comes through the mailbox, or has come already.
        if position < head.max(room.head) {
            fall_behind(&self.process, subscription, &mut tables.dirty);
        }
        self.mailbox.wake();
        true
    }

    /// Ends a subscription. `false` when there was none.
    pub fn unsubscribe(&self, connection: &Rc<Connection>, id: &RoomId) -> bool {
        let mut tables = self.tables.borrow_mut();
        let Some(&key) = tables.room_keys.get(id) else {
            return false;
        };
        let Some(at) = place(connection, key) else {
            return false;
        };
        self.end_subscription(&mut tables, connection, key, at);
        true
    }

    /// Whether the connection is subscribed to the room and allowed to be.
    pub fn is_subscribed(&self, connection: &Rc<Connection>, id: &RoomId) -> bool {
        let tables = self.tables.borrow();
        tables
            .room_keys
            .get(id)
            .and_then(|&key| Some((key, place(connection, key)?)))
            .is_some_and(|(key, at)| tables.rooms[key].subscriptions[at].state != State::Held)
    }

    /// The last event of a subscribed room that this process knows of.
    pub fn known_head(&self, connection: &Rc<Connection>, id: &RoomId) -> Option<u64> {
        let tables = self.tables.borrow();
        let &key = tables.room_keys.get(id)?;
        let subscription = &tables.rooms[key].subscriptions[place(connection, key)?];
        let here = tables.rooms[key].head.max(subscription.position);
        let pod = self.process.pod.known_head(id).unwrap_or_default();
        (subscription.state != State::Held).then_some(here.max(pod))
    }

    fn end_subscription(
        &self,
        tables: &mut Tables,
        connection: &Rc<Connection>,
        key: usize,
        at: usize,
    ) {
        connection
            .subscriptions
            .borrow_mut()
            .retain(|&(of, _)| of != key);
        let room = &mut tables.rooms[key];
        let gone = room.subscriptions.remove(at);
        if matches!(gone.state, State::Behind | State::Reading) {
            connection.behind.set(connection.behind.get() - 1);
            self.process.metrics.slow_sessions.dec();
        }
        self.process.pod.unwatch(self.worker, &room.id);
        self.process.metrics.subscriptions.dec();
        let (session, id) = (connection.id, room.id.clone());
        if room.subscriptions.is_empty() {
            tables.room_keys.remove(&id);
            tables.rooms.remove(key);
            tables.dirty_rooms.retain(|&dirty| dirty != key);
        }
        if !connection.is_over() {
            let presence = Arc::clone(&self.process.backends.presence);
            actix_rt::spawn(async move {
                if let Err(error) = presence.leave(session, &id).await {
                    tracing::debug!(%error, "presence did not learn that a room was left");
                }
            });
        }
    }

    /// Notes a cursor; it is kept and told to the room soon.
    pub fn move_cursor(&self, room: RoomId, user: UserId, received: Seq, read: Seq) {
        let mut tables = self.tables.borrow_mut();
        let full = tables.cursors.len() >= CURSORS_MAX;
        match tables.cursors.get_mut(&(room.clone(), user.clone())) {
            Some(kept) => *kept = (kept.0.max(received), kept.1.max(read)),
            // Cursors are hints that the client repeats with its next event.
            None if full => {
                self.process.metrics.signals_dropped.inc();
            }
            None => {
                tables.cursors.insert((room, user), (received, read));
            }
        }
    }

    async fn keep_cursors(self: Rc<Self>) {
        let mut tick = tokio::time::interval(CURSORS_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.flush_cursors().await;
        }
    }

    /// Keeps what cursors moved and tells the rooms.
    pub async fn flush_cursors(&self) {
        let cursors = std::mem::take(&mut self.tables.borrow_mut().cursors);
        if cursors.is_empty() {
            return;
        }
        let cursors: Vec<Cursor> = cursors
            .into_iter()
            .map(|((room, user), (received, read))| Cursor {
                room,
                user,
                received: received.max(read),
                read,
            })
            .collect();
        if let Err(error) = self
            .process
            .backends
            .directory
            .advance(cursors.clone())
            .await
        {
            tracing::debug!(%error, "cursors were not kept");
            return;
        }
        for cursor in cursors {
            let small = {
                let tables = self.tables.borrow();
                tables
                    .room_keys
                    .get(&cursor.room)
                    .is_none_or(|&key| tables.rooms[key].subscriptions.len() <= SIGNAL_ROOM_MAX)
            };
            if small {
                self.process.backends.relay.signal(Signal::Receipt {
                    room: cursor.room,
                    user: cursor.user,
                    received: cursor.received,
                    read: cursor.read,
                });
            }
        }
    }

    /// One slot of connections after the other gets its ping and the heads of its rooms, so that a loss of the last event
    /// is noticed. There is no timer per connection.
    async fn heartbeat(self: Rc<Self>) {
        let whole = self.process.config.gateway.heartbeat;
        // A slot takes a second at most: newcomers are looked at as often.
        let slots = (whole.as_secs() as usize).max(HEARTBEAT_SLOTS_MIN);
        let mut tick = tokio::time::interval(whole / slots as u32);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut slot = 0;
        loop {
            tick.tick().await;
            self.expect_hello();
            slot = (slot + 1) % slots;
            let connections: Vec<_> = {
                let tables = self.tables.borrow();
                tables
                    .connections
                    .iter()
                    .filter(|(key, _)| key % slots == slot)
                    .map(|(_, connection)| Rc::clone(connection))
                    .collect()
            };
            for connection in connections {
                self.beat(&connection);
            }
        }
    }

    /// Ends connections on which nobody signed in within the limit, to the second.
    fn expect_hello(&self) {
        let patience = self.process.config.limits.hello;
        loop {
            let late = {
                let mut tables = self.tables.borrow_mut();
                match tables.newcomers.front() {
                    Some((begun, _)) if begun.elapsed() >= patience => tables.newcomers.pop_front(),
                    _ => return,
                }
            };
            if let Some(connection) = late.and_then(|(_, connection)| connection.upgrade())
                && connection.session.borrow().user().is_none()
            {
                self.close(&connection, CloseCode::Unauthenticated, "no hello in time");
            }
        }
    }

    fn beat(&self, connection: &Rc<Connection>) {
        if connection.pings.get() >= 2 {
            self.process.metrics.closed(CloseCode::Timeout);
            connection.close(CloseCode::Timeout, "no answer to two pings");
            // Somebody who does not read will not see the close frame either.
            if !connection.flush() {
                connection.abort();
            }
            return;
        }
        connection.pings.set(connection.pings.get() + 1);
        connection.push(websocket::ping(), 1, Lane::Answer);
        let rooms = self.heads(connection);
        if !rooms.is_empty() {
            let frame = websocket::text(ServerFrame::Heads { rooms }.encode().as_bytes());
            connection.push(frame, 1, Lane::Signal);
        }
        self.touch(connection);
        if !connection.idle.get() && connection.active.get().elapsed() > AWAY_AFTER {
            self.set_idle(connection, true);
        }
    }

    fn heads(&self, connection: &Connection) -> BTreeMap<RoomId, Seq> {
        let tables = self.tables.borrow();
        let subscriptions = connection.subscriptions.borrow();
        subscriptions
            .iter()
            .map(|&(key, at)| (&tables.rooms[key], at))
            .filter(|(room, at)| room.subscriptions[*at].state == State::Live)
            .map(|(room, at)| {
                let head = room.head.max(room.subscriptions[at].position);
                (room.id.clone(), Seq::new(head).unwrap_or_default())
            })
            .collect()
    }

    /// The person at the connection did something.
    pub fn person_acted(&self, connection: &Rc<Connection>) {
        connection.active.set(Instant::now());
        if connection.idle.get() {
            self.set_idle(connection, false);
        }
    }

    fn set_idle(&self, connection: &Rc<Connection>, idle: bool) {
        connection.idle.set(idle);
        let (presence, session) = (Arc::clone(&self.process.backends.presence), connection.id);
        actix_rt::spawn(async move {
            if let Err(error) = presence.set_idle(session, idle).await {
                tracing::debug!(%error, "presence did not learn that somebody went quiet");
            }
        });
    }

    /// Tells every client to connect again, then closes them at an even rate.
    fn begin_drain(self: &Rc<Self>, tables: &Tables, drain: Drain) {
        if self.draining.replace(true) {
            return;
        }
        let spread_ms = u64::try_from(drain.spread.as_millis()).unwrap_or(u64::MAX);
        for (_, connection) in &tables.connections {
            connection.answer(&ServerFrame::Goaway {
                reconnect_in_ms: rand::random_range(0..=spread_ms),
                reason: GoawayReason::Rollout,
            });
            connection.flush();
        }
        actix_rt::spawn(Rc::clone(self).close_all(drain.spread));
    }

    async fn close_all(self: Rc<Self>, spread: Duration) {
        tokio::time::sleep(spread).await;
        let connections: Vec<_> = {
            let tables = self.tables.borrow();
            tables
                .connections
                .iter()
                .map(|(_, connection)| Rc::clone(connection))
                .collect()
        };
        self.flush_cursors().await;
        let begun = tokio::time::Instant::now();
        let count = connections.len().max(1) as u32;
        for (n, connection) in (0_u32..).zip(connections) {
            tokio::time::sleep_until(begun + spread * n / count).await;
            // What is under way is answered first.
            let patience = Instant::now() + Duration::from_secs(2);
            while connection.in_flight.get() > 0 && Instant::now() < patience {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.close(&connection, CloseCode::Restart, "the server is restarting");
        }
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
