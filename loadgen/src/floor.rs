//! What no server can beat: a bare epoll loop that writes the same bytes to the same sockets. It speaks the echo
//! protocol, keeps nothing, and either writes every frame by itself or gathers what a room has waiting.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::frame::{self, Parsed};

/// When a room's waiting frames are written.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// At the latest when this many wait; 1 writes each at once.
    pub frames: usize,
    /// At the latest after this time.
    pub tick: Duration,
}

struct Floor {
    poll: Poll,
    conns: Vec<Option<Conn>>,
    rooms: HashMap<Vec<u8>, usize>,
    members: Vec<Vec<usize>>,
    waiting: Vec<Waiting>,
    gather: Gather,
}

struct Conn {
    stream: TcpStream,
    upgraded: bool,
    room: Option<usize>,
    carry: Vec<u8>,
    backlog: Vec<u8>,
}

#[derive(Default)]
struct Waiting {
    frames: usize,
    bytes: Vec<u8>,
    since: Option<Instant>,
}

const LISTENER: Token = Token(usize::MAX);

/// Serves until it is killed.
pub fn serve(gather: Gather) -> Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.listen(4096)?;
    let mut listener = TcpListener::from_std(socket.into());
    println!("floor is listening on http://{}", listener.local_addr()?);
    let poll = Poll::new().context("cannot make an epoll instance")?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor = Floor {
        poll,
        conns: Vec::new(),
        rooms: HashMap::new(),
        members: Vec::new(),
        waiting: Vec::new(),
        gather,
    };
    let mut events = Events::with_capacity(512);
    let mut buf = vec![0; 256 * 1024];
    loop {
        let timeout = floor.next_flush();
        match floor.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                floor.accept(&listener)?;
                continue;
            }
            let index = event.token().0;
            if event.is_writable() {
                floor.write(index, &[]);
            }
            if event.is_readable() && floor.read(index, &mut buf).is_none() {
                floor.drop_conn(index);
            }
        }
        floor.flush_due();
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        while let Ok((mut stream, _)) = listener.accept() {
            let index = self.conns.len();
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut stream, Token(index), interest)?;
            self.conns.push(Some(Conn {
                stream,
                upgraded: false,
                room: None,
                carry: Vec::new(),
                backlog: Vec::new(),
            }));
        }
        Ok(())
    }

    /// Reads what is there; `None` when the connection is over.
    fn read(&mut self, index: usize, buf: &mut [u8]) -> Option<()> {
        loop {
            let conn = self.conns[index].as_mut()?;
            match conn.stream.read(buf) {
                Ok(0) => return None,
                Ok(got) => conn.carry.extend_from_slice(&buf[..got]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(()),
                Err(_) => return None,
            }
            let bytes = std::mem::take(&mut conn.carry);
            let used = self.take(index, &bytes)?;
            let conn = self.conns[index].as_mut()?;
            conn.carry = bytes;
            conn.carry.drain(..used);
        }
    }

    fn take(&mut self, index: usize, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if !self.conns[index].as_ref()?.upgraded {
            let Some(end) = frame::head_end(bytes) else {
                return Some(0);
            };
            at = end;
            self.conns[index].as_mut()?.upgraded = true;
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
            self.write(index, answer);
        }
        let mut plain = Vec::new();
        loop {
            match frame::parse(&bytes[at..]) {
                Parsed::Partial => return Some(at),
                Parsed::Bad(_) => return None,
                Parsed::Frame {
                    opcode,
                    payload,
                    mask,
                    size,
                } => {
                    at += size;
                    let mask = mask?;
                    plain.clear();
                    plain.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
                    match opcode {
                        frame::TEXT => self.text(index, &plain)?,
                        frame::CLOSE => return None,
                        _ => {}
                    }
                }
            }
        }
    }

    fn text(&mut self, index: usize, payload: &[u8]) -> Option<()> {
        if let Some(room) = payload.strip_prefix(b"{\"join\":\"") {
            let next = self.members.len();
            let room = *self.rooms.entry(room.to_vec()).or_insert(next);
            if room == next {
                self.members.push(Vec::new());
                self.waiting.push(Waiting::default());
            }
            self.members[room].push(index);
            self.conns[index].as_mut()?.room = Some(room);
            let mut answer = Vec::new();
            frame::put(&mut answer, frame::TEXT, b"{\"joined\":true}", None);
            self.write(index, &answer);
            return Some(());
        }
        let room = self.conns[index].as_ref()?.room?;
        let waiting = &mut self.waiting[room];
        frame::put(&mut waiting.bytes, frame::TEXT, payload, None);
        waiting.frames += 1;
        waiting.since.get_or_insert_with(Instant::now);
        if waiting.frames >= self.gather.frames {
            self.flush(room);
        }
        Some(())
    }

    fn flush(&mut self, room: usize) {
        let waiting = std::mem::take(&mut self.waiting[room]);
        let members = std::mem::take(&mut self.members[room]);
        for &member in &members {
            self.write(member, &waiting.bytes);
        }
        self.members[room] = members;
    }

    fn next_flush(&self) -> Option<Duration> {
        let oldest = self
            .waiting
            .iter()
            .filter_map(|waiting| waiting.since)
            .min()?;
        Some(self.gather.tick.saturating_sub(oldest.elapsed()))
    }

    fn flush_due(&mut self) {
        for room in 0..self.waiting.len() {
            let due = self.waiting[room]
                .since
                .is_some_and(|since| since.elapsed() >= self.gather.tick);
            if due {
                self.flush(room);
            }
        }
    }

    fn write(&mut self, index: usize, bytes: &[u8]) {
        let Some(conn) = &mut self.conns[index] else {
            return;
        };
        if !conn.backlog.is_empty() {
            conn.backlog.extend_from_slice(bytes);
            let backlog = std::mem::take(&mut conn.backlog);
            let written = write_some(&mut conn.stream, &backlog);
            conn.backlog = backlog;
            conn.backlog.drain(..written);
        } else {
            let written = write_some(&mut conn.stream, bytes);
            conn.backlog.extend_from_slice(&bytes[written..]);
        }
    }

    fn drop_conn(&mut self, index: usize) {
        if let Some(conn) = self.conns[index].take()
            && let Some(room) = conn.room
        {
            self.members[room].retain(|&member| member != index);
        }
    }
}

/// Writes until the socket is full; a broken connection shows when it is read.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(_) => break,
        }
    }
    written
}
