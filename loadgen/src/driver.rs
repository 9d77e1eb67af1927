//! Many connections on one thread: an epoll loop with one big read buffer for all of them.
//!
//! It shares a small machine with the server under test, so it does as little as possible per delivery: one read takes
//! all frames that have arrived, and they are handed out where they lie.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::frame::{self, Parsed};

/// What a scenario does with what arrives. `now` is the driver's clock, in nanoseconds.
pub trait Handler {
    /// The connection is there: upgraded, or plain and just connected.
    fn opened(&mut self, _conn: usize, _out: &mut Outbox) {}
    /// A text frame arrived.
    fn text(&mut self, _conn: usize, _payload: &[u8], _now: u64, _out: &mut Outbox) {}
    /// Bytes on a plain connection; answers how many were used.
    fn raw(&mut self, _conn: usize, bytes: &[u8], _now: u64, _out: &mut Outbox) -> usize {
        bytes.len()
    }
    /// The connection ended, and we did not end it.
    fn closed(&mut self, conn: usize, why: &str);
}

/// Frames to be written to one connection.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    mask: u32,
}

impl Outbox {
    /// Queues a masked text frame.
    pub fn text(&mut self, payload: &[u8]) {
        self.frame(frame::TEXT, payload);
    }

    /// Queues bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) {
        self.mask = self
            .mask
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        let mask = self.mask.to_le_bytes();
        frame::put(&mut self.bytes, opcode, payload, Some(mask));
    }
}

/// How a new connection begins.
pub enum Begin<'a> {
    /// With an upgrade to WebSocket at this path.
    WebSocket(&'a str),
    /// With nothing: bytes go to `Handler::raw`.
    Plain,
}

pub struct Driver {
    poll: Poll,
    events: Events,
    addrs: Vec<SocketAddr>,
    conns: Vec<Option<Conn>>,
    buf: Vec<u8>,
    outbox: Outbox,
    dirty: Vec<usize>,
    clock: Instant,
    /// Time spent with nothing to do.
    idle: Duration,
    turned_at: Instant,
    receive_buffer_bytes: Option<usize>,
}

struct Conn {
    stream: TcpStream,
    phase: Phase,
    /// The start of a frame whose rest has not arrived.
    carry: Vec<u8>,
    /// What the socket did not take yet.
    out: Vec<u8>,
    dirty: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Upgrading,
    WebSocket,
    Plain,
}

const READ_BYTES: usize = 256 * 1024;
/// Connections made from one loopback address before the next is taken: ports run out at 28,000.
const CONNS_PER_SOURCE: u32 = 10_000;

/// Connections made by this process so far, to spread them over loopback addresses.
static CONNS_MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

impl Driver {
    /// Connections go to the addresses in turn.
    pub fn new(addrs: &[SocketAddr]) -> Result<Self> {
        Ok(Self {
            poll: Poll::new().context("cannot make an epoll instance")?,
            events: Events::with_capacity(512),
            addrs: addrs.to_owned(),
            conns: Vec::new(),
            buf: vec![0; READ_BYTES],
            outbox: Outbox {
                bytes: Vec::with_capacity(4096),
                mask: std::process::id(),
            },
            dirty: Vec::new(),
            clock: Instant::now(),
            idle: Duration::ZERO,
            turned_at: Instant::now(),
            receive_buffer_bytes: None,
        })
    }

    /// Nanoseconds since the driver was made.
    #[inline]
    pub fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// Gives connections opened from now on a small receive buffer.
    pub fn set_receive_buffer(&mut self, bytes: usize) {
        self.receive_buffer_bytes = Some(bytes);
    }

    /// Starts a connection and answers its number: 0 for the first, then one more each time.
    pub fn open(&mut self, begin: &Begin<'_>) -> Result<usize> {
        use std::sync::atomic::Ordering::Relaxed;
        let index = self.conns.len();
        let addr = self.addrs[index % self.addrs.len()];
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(addr),
            socket2::Type::STREAM,
            None,
        )
        .context("cannot make a socket; is the limit of open files too low?")?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if addr.ip().is_loopback() && addr.is_ipv4() {
            let made = CONNS_MADE.fetch_add(1, Relaxed);
            let host = 2 + (made / CONNS_PER_SOURCE) % 200;
            let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host as u8), 0));
            socket.bind(&source.into())?;
        }
        match socket.connect(&addr.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(115) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot connect to {addr}"));
            }
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(
            &mut stream,
            Token(index),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let (phase, out) = match begin {
            Begin::WebSocket(path) => (
                Phase::Upgrading,
                frame::upgrade_request(&addr.to_string(), path),
            ),
            Begin::Plain => (Phase::Plain, Vec::new()),
        };
        self.conns.push(Some(Conn {
            stream,
            phase,
            carry: Vec::new(),
            out,
            dirty: false,
        }));
        Ok(index)
    }

    /// Queues a masked text frame; it is written by the next `flush` or `turn`.
    pub fn send(&mut self, conn: usize, payload: &[u8]) {
        self.outbox.text(payload);
        self.queue(conn);
    }

    /// Queues plain bytes.
    pub fn send_raw(&mut self, conn: usize, bytes: &[u8]) {
        self.outbox.raw(bytes);
        self.queue(conn);
    }

    fn queue(&mut self, index: usize) {
        if let Some(conn) = &mut self.conns[index] {
            conn.out.extend_from_slice(&self.outbox.bytes);
            if !conn.dirty {
                conn.dirty = true;
                self.dirty.push(index);
            }
        }
        self.outbox.bytes.clear();
    }

    pub fn flush<H: Handler>(&mut self, handler: &mut H) {
        while let Some(index) = self.dirty.pop() {
            if let Some(conn) = &mut self.conns[index] {
                conn.dirty = false;
                if let Err(error) = conn.write() {
                    self.end(index, &error.to_string(), handler);
                }
            }
        }
    }

    /// Waits at most `timeout` for something to happen and handles it; answers how many connections had something.
    pub fn turn<H: Handler>(&mut self, timeout: Duration, handler: &mut H) -> Result<usize> {
        let nothing_to_write = self.dirty.is_empty();
        self.flush(handler);
        let before = Instant::now();
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(0),
            Err(error) => bail!("epoll failed: {error}"),
        }
        let after = Instant::now();
        if self.events.is_empty() && nothing_to_write {
            self.idle += after - self.turned_at;
        } else if !timeout.is_zero() {
            self.idle += after - before;
        }
        self.turned_at = after;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let mut ready = 0;
        for event in &events {
            ready += 1;
            let index = event.token().0;
            if event.is_writable()
                && let Some(conn) = &mut self.conns[index]
                && !conn.out.is_empty()
                && let Err(error) = conn.write()
            {
                self.end(index, &error.to_string(), handler);
            }
            if event.is_readable() {
                self.read(index, handler);
            }
        }
        self.events = events;
        if ready > 0 {
            self.turned_at = Instant::now();
        }
        Ok(ready)
    }

    fn read<H: Handler>(&mut self, index: usize, handler: &mut H) {
        if let Err(why) = self.try_read(index, handler) {
            self.end(index, &why, handler);
        }
        if !self.outbox.bytes.is_empty() {
            self.queue(index);
        }
    }

    fn try_read<H: Handler>(&mut self, index: usize, handler: &mut H) -> Result<(), String> {
        let Some(conn) = &mut self.conns[index] else {
            return Ok(());
        };
        loop {
            let carried = conn.carry.len();
            if carried + READ_BYTES / 2 > self.buf.len() {
                self.buf.resize(carried + READ_BYTES, 0);
            }
            self.buf[..carried].copy_from_slice(&conn.carry);
            let got = match conn.stream.read(&mut self.buf[carried..]) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            };
            let now = self.clock.elapsed().as_nanos() as u64;
            let bytes = &self.buf[..carried + got];
            let used = conn.take(index, bytes, now, handler, &mut self.outbox)?;
            conn.carry.clear();
            conn.carry.extend_from_slice(&bytes[used..]);
            // A short read has emptied the socket; the next arrival is a new event.
            if carried + got < self.buf.len() {
                return Ok(());
            }
        }
    }

    fn end<H: Handler>(&mut self, index: usize, why: &str, handler: &mut H) {
        if self.conns[index].take().is_some() {
            handler.closed(index, why);
        }
    }
}

impl Conn {
    fn write(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.out.len() {
            match self.stream.write(&self.out[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                // Not connected yet, or full: a writable event follows.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
                    ) =>
                {
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.drain(..written);
        Ok(())
    }

    /// Hands out what is complete; answers how many bytes were used.
    fn take<H: Handler>(
        &mut self,
        index: usize,
        bytes: &[u8],
        now: u64,
        handler: &mut H,
        out: &mut Outbox,
    ) -> Result<usize, String> {
        let mut at = 0;
        if self.phase == Phase::Plain {
            return Ok(handler.raw(index, bytes, now, out));
        }
        if self.phase == Phase::Upgrading {
            let Some(end) = frame::head_end(bytes) else {
                return Ok(0);
            };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                let line = bytes.split(|&b| b == b'\r').next().unwrap_or_default();
                return Err(format!("no upgrade: {}", String::from_utf8_lossy(line)));
            }
            at = end;
            self.phase = Phase::WebSocket;
            handler.opened(index, out);
        }
        loop {
            match frame::parse(&bytes[at..]) {
                Parsed::Frame {
                    opcode,
                    payload,
                    size,
                    ..
                } => {
                    match opcode {
                        frame::TEXT => handler.text(index, payload, now, out),
                        frame::PING => out.frame(frame::PONG, payload),
                        frame::CLOSE => return Err(closing_words(payload)),
                        _ => {}
                    }
                    at += size;
                }
                Parsed::Partial => return Ok(at),
                Parsed::Bad(why) => return Err(why.to_owned()),
            }
        }
    }
}

fn closing_words(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => format!(
            "closed with {} {}",
            u16::from_be_bytes([*high, *low]),
            String::from_utf8_lossy(reason)
        ),
        _ => "closed without a code".to_owned(),
    }
}
