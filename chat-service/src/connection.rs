//! One socket: reads it, writes it, ends it. What is said is the session's matter, who hears what the hub's.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actix_ws::CloseReason;
use bytes::Bytes;
use protocol::{ClientFrame, CloseCode, ServerFrame, SessionId};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::outbound::{Flushed, Lane, Outbound, Pushed};
use crate::session::Session;
use crate::websocket::{self, Decoder};

/// Requests of one connection that are under way. Beyond that the socket is not read.
pub const IN_FLIGHT_MAX: u32 = 64;
/// A closed connection is read on for this long, so that the close frame is not lost to a reset.
const LINGER: Duration = Duration::from_secs(2);
/// And for this many bytes.
const LINGER_BYTES: usize = 1024 * 1024;

/// One client's connection. Belongs to one worker thread.
pub struct Connection {
    /// Its place in the hub.
    pub key: Cell<usize>,
    pub id: SessionId,
    pub session: RefCell<Session>,
    /// The rooms it is subscribed to: room and subscription keys of the hub.
    pub subscriptions: RefCell<Vec<(usize, usize)>>,
    /// `welcome`, the first frame of all, was queued.
    pub welcomed: Cell<bool>,
    /// Requests that must be done one after the other.
    pub queue: RefCell<VecDeque<ClientFrame>>,
    pub queue_runs: Cell<bool>,
    pub in_flight: Cell<u32>,
    /// Subscriptions that are behind.
    pub behind: Cell<u32>,
    /// The hub has it on the list of connections to write.
    pub dirty: Cell<bool>,
    /// Pings sent since the last sign of life.
    pub pings: Cell<u8>,
    /// The last time a person did something.
    pub active: Cell<Instant>,
    pub idle: Cell<bool>,
    stream: TcpStream,
    out: RefCell<Outbound>,
    blocked: Cell<bool>,
    /// Answers were written, or nobody waits for them any more.
    answers_written: Notify,
    /// Reading stopped in the middle of what had arrived, because too much was under way.
    stalled: Cell<bool>,
    closing: Cell<bool>,
    broken: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Why the reading loop woke up.
enum Event {
    Readable,
    /// A close frame was written.
    Closed,
    Broken,
}

impl Connection {
    /// A connection that has just been upgraded.
    pub fn new(stream: TcpStream) -> Rc<Self> {
        Rc::new(Self {
            key: Cell::new(0),
            id: SessionId::generate(),
            session: RefCell::default(),
            subscriptions: RefCell::default(),
            welcomed: Cell::new(false),
            queue: RefCell::default(),
            queue_runs: Cell::new(false),
            in_flight: Cell::new(0),
            behind: Cell::new(0),
            dirty: Cell::new(false),
            pings: Cell::new(0),
            active: Cell::new(Instant::now()),
            idle: Cell::new(false),
            stream,
            out: RefCell::default(),
            blocked: Cell::new(false),
            answers_written: Notify::new(),
            stalled: Cell::new(false),
            closing: Cell::new(false),
            broken: Cell::new(false),
            waker: RefCell::default(),
        })
    }

    /// Whether nothing more can be said on it.
    pub fn is_over(&self) -> bool {
        self.closing.get() || self.broken.get()
    }

    /// Queues an encoded piece. The caller puts the connection on the hub's list.
    pub fn push(&self, bytes: Bytes, frames: u32, lane: Lane) -> Pushed {
        if self.is_over() {
            return Pushed::Queued;
        }
        self.out.borrow_mut().push(bytes, frames, lane)
    }

    /// Queues an answer.
    pub fn answer(&self, frame: &ServerFrame) {
        self.push(websocket::text(frame.encode().as_bytes()), 1, Lane::Answer);
    }

    /// Queues a close frame; nothing is queued after it.
    pub fn close(&self, code: CloseCode, reason: &str) {
        if self.is_over() {
            return;
        }
        let reason = CloseReason {
            code: code.as_u16().into(),
            description: (!reason.is_empty()).then(|| reason.to_owned()),
        };
        self.push(websocket::close(&reason), 1, Lane::Answer);
        self.closing.set(true);
        self.answers_written.notify_waiters();
        self.wake();
    }

    /// Ends the connection without another word: nobody listens at the other end.
    pub fn abort(&self) {
        self.broken.set(true);
        self.answers_written.notify_waiters();
        self.wake();
    }

    /// Bytes that wait to be written.
    pub fn waiting_bytes(&self) -> usize {
        self.out.borrow().len_bytes()
    }

    /// Writes what the socket takes. `false` when something had to be left.
    pub fn flush(&self) -> bool {
        if self.broken.get() {
            return true;
        }
        let flushed = self.out.borrow_mut().flush(&self.stream);
        if self.takes_answers() {
            self.answers_written.notify_waiters();
        }
        match flushed {
            Ok(Flushed::Empty) => {
                self.blocked.set(false);
                if self.closing.get() || self.stalled.get() {
                    self.wake();
                }
                true
            }
            Ok(Flushed::Blocked) => {
                if !self.blocked.replace(true) {
                    // The reading loop waits for the socket to become writable.
                    self.wake();
                }
                false
            }
            Err(_) => {
                self.abort();
                true
            }
        }
    }

    /// Whether the client takes what it is told.
    pub fn takes_answers(&self) -> bool {
        !self.out.borrow().is_answer_full()
    }

    /// Waits until the client has taken its answers, so that what it asked for in advance is not put together yet.
    pub async fn answers_fit(&self) {
        while !self.takes_answers() && !self.is_over() {
            self.answers_written.notified().await;
        }
    }

    /// One request less is under way.
    pub fn done(&self) {
        let before = self.in_flight.get();
        self.in_flight.set(before.saturating_sub(1));
        if before == IN_FLIGHT_MAX {
            self.wake();
        }
    }

    /// Whether the connection may ask for more: not while much is under way or unanswered.
    fn takes_requests(&self) -> bool {
        self.in_flight.get() < IN_FLIGHT_MAX && self.takes_answers()
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Reads until the connection is over. `message` gets each message and may close the connection; `written` is
    /// called when a blocked socket took everything that waited.
    pub async fn run(
        &self,
        mut first: Vec<u8>,
        limit: usize,
        buffer: &RefCell<Box<[u8]>>,
        mut message: impl FnMut(&websocket::Incoming<'_>),
        written: impl Fn(),
    ) {
        let mut decoder = Decoder::default();
        self.decode(&mut decoder, &mut first, limit, &mut message);
        drop(first);
        loop {
            match std::future::poll_fn(|cx| self.poll(cx, &written)).await {
                Event::Broken => return,
                Event::Closed => return self.linger(buffer).await,
                Event::Readable => {
                    // What was left when too much was under way comes first.
                    self.decode(&mut decoder, &mut [], limit, &mut message);
                    if self.is_over() || !self.takes_requests() {
                        continue;
                    }
                    let mut buffer = buffer.borrow_mut();
                    match self.stream.try_read(&mut buffer) {
                        Ok(0) => return,
                        Ok(n) => self.decode(&mut decoder, &mut buffer[..n], limit, &mut message),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
            }
        }
    }

    fn decode(
        &self,
        decoder: &mut Decoder,
        bytes: &mut [u8],
        limit: usize,
        message: &mut impl FnMut(&websocket::Incoming<'_>),
    ) {
        if bytes.is_empty() && decoder.is_idle() {
            return;
        }
        let result = decoder.feed(bytes, limit, |incoming| {
            self.pings.set(0);
            message(&incoming);
            self.stalled.set(!self.takes_requests());
            !self.is_over() && !self.stalled.get()
        });
        if let Err(violation) = result {
            self.close(violation.code, violation.reason);
            self.flush();
        }
    }

    fn poll(&self, cx: &mut Context<'_>, written: &impl Fn()) -> Poll<Event> {
        {
            let mut waker = self.waker.borrow_mut();
            if !waker
                .as_ref()
                .is_some_and(|kept| kept.will_wake(cx.waker()))
            {
                *waker = Some(cx.waker().clone());
            }
        }
        if self.broken.get() {
            return Poll::Ready(Event::Broken);
        }
        while self.blocked.get() {
            match self.stream.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Broken),
                Poll::Ready(Ok(())) => {
                    if self.flush() {
                        written();
                    }
                }
            }
        }
        if self.broken.get() {
            return Poll::Ready(Event::Broken);
        }
        if self.closing.get() {
            if self.out.borrow().is_empty() {
                return Poll::Ready(Event::Closed);
            }
        } else if self.takes_requests() {
            if self.stalled.replace(false) {
                return Poll::Ready(Event::Readable);
            }
            return match self.stream.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Event::Readable),
                Poll::Ready(Err(_)) => Poll::Ready(Event::Broken),
                Poll::Pending => Poll::Pending,
            };
        } else {
            // Whoever writes the answers wakes this up again.
            self.stalled.set(true);
        }
        Poll::Pending
    }

    /// Reads and forgets what the client still sends, so that the kernel does not answer it with a reset that would
    /// overtake the close frame.
    async fn linger(&self, buffer: &RefCell<Box<[u8]>>) {
        // Half of the connection is over; errors only say that the other half is, too.
        let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
        let mut left = LINGER_BYTES;
        let drain = async {
            while left > 0 && self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut buffer.borrow_mut()) {
                    Ok(0) => return,
                    Ok(n) => left = left.saturating_sub(n),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, drain).await;
    }
}
