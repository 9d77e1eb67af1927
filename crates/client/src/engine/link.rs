//! The sockets: at most one in use, and while the server asks to move, at most one more being opened.

use protocol::{ClientFrame, ErrorCode};

use super::effect::{Effect, State};
use super::{Config, Conn, Turn};

#[derive(Debug, Default)]
pub(super) struct Link {
    /// The socket in use, or on its way to be.
    current: Option<Socket>,
    /// The one that will replace it.
    next: Option<Socket>,
    /// When to open a socket, because there is none.
    retry_at: Option<u64>,
    /// When to open `next`, because the server is leaving.
    move_at: Option<u64>,
    /// Connections lost in a row without a stable one between them.
    failures: u32,
    /// How many sockets there have been.
    count: Conn,
    state: Option<State>,
}

#[derive(Debug)]
struct Socket {
    conn: Conn,
    phase: Phase,
}

/// A socket has become the one in use.
pub(super) struct Welcomed {
    /// The one that was in use before.
    pub(super) replaces: Option<Conn>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Not signed in yet.
    Opening { deadline: u64 },
    Live {
        since: u64,
        heard_at: u64,
        silence_max_ms: u64,
    },
}

impl Socket {
    fn deadline(&self) -> u64 {
        match self.phase {
            Phase::Opening { deadline } => deadline,
            Phase::Live {
                heard_at,
                silence_max_ms,
                ..
            } => heard_at + silence_max_ms,
        }
    }
}

impl Link {
    /// The socket that requests go to.
    pub(super) fn live(&self) -> Option<Conn> {
        let socket = self.current.as_ref()?;
        matches!(socket.phase, Phase::Live { .. }).then_some(socket.conn)
    }

    pub(super) fn knows(&self, conn: Conn) -> bool {
        self.sockets().any(|socket| socket.conn == conn)
    }

    fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.current.iter().chain(&self.next)
    }

    pub(super) fn wake_at(&self) -> Option<u64> {
        self.sockets()
            .map(Socket::deadline)
            .chain(self.retry_at)
            .chain(self.move_at)
            .min()
    }

    pub(super) fn start(&mut self, config: &Config, turn: &mut Turn<'_>) {
        if self.current.is_none() && self.retry_at.is_none() {
            self.failures = 0;
            self.open_current(config, turn);
        }
    }

    pub(super) fn retry_now(&mut self, config: &Config, turn: &mut Turn<'_>) {
        if self.retry_at.is_some() {
            self.open_current(config, turn);
        }
    }

    fn open_current(&mut self, config: &Config, turn: &mut Turn<'_>) {
        self.retry_at = None;
        self.report(State::Connecting, turn);
        self.current = Some(self.open(config, turn));
    }

    fn open(&mut self, config: &Config, turn: &mut Turn<'_>) -> Socket {
        self.count += 1;
        turn.emit(Effect::Connect { conn: self.count });
        Socket {
            conn: self.count,
            phase: Phase::Opening {
                deadline: turn.now + config.connect_timeout_ms,
            },
        }
    }

    pub(super) fn opened(&mut self, conn: Conn, config: &Config, turn: &mut Turn<'_>) {
        if let (true, Some(hello)) = (self.knows(conn), config.hello.clone()) {
            turn.send(conn, ClientFrame::Hello(hello));
        }
    }

    pub(super) fn heard(&mut self, conn: Conn, now: u64) {
        for socket in self.current.iter_mut().chain(&mut self.next) {
            if let Phase::Live { heard_at, .. } = &mut socket.phase
                && socket.conn == conn
            {
                *heard_at = now;
            }
        }
    }

    /// `conn` is signed in; `None` when that changes nothing.
    pub(super) fn welcomed(
        &mut self,
        conn: Conn,
        heartbeat_secs: u64,
        turn: &mut Turn<'_>,
    ) -> Option<Welcomed> {
        let opening =
            |socket: &Socket| socket.conn == conn && matches!(socket.phase, Phase::Opening { .. });
        let replaces = if self.next.as_ref().is_some_and(opening) {
            std::mem::replace(&mut self.current, self.next.take()).map(|socket| socket.conn)
        } else if self.current.as_ref().is_some_and(opening) {
            None
        } else {
            return None;
        };
        self.current = Some(Socket {
            conn,
            phase: Phase::Live {
                since: turn.now,
                heard_at: turn.now,
                silence_max_ms: heartbeat_secs.clamp(1, 3600) * 3000,
            },
        });
        self.report(State::Online, turn);
        Some(Welcomed { replaces })
    }

    /// The server will leave: open another socket at `at`, unless that is already going to happen.
    pub(super) fn goaway(&mut self, at: u64) {
        if self.next.is_none() && self.move_at.is_none() {
            self.move_at = Some(at);
        }
    }

    /// Sockets that were silent for too long.
    pub(super) fn timed_out(&self, now: u64) -> Vec<Conn> {
        self.sockets()
            .filter(|socket| socket.deadline() <= now)
            .map(|socket| socket.conn)
            .collect()
    }

    /// Opens the socket whose time has come.
    pub(super) fn tick(&mut self, config: &Config, turn: &mut Turn<'_>) {
        if self.retry_at.is_some_and(|at| at <= turn.now) {
            self.open_current(config, turn);
        }
        if self.move_at.is_some_and(|at| at <= turn.now) {
            self.move_at = None;
            self.next = Some(self.open(config, turn));
        }
    }

    pub(super) fn forget(&mut self, conn: Conn) {
        for slot in [&mut self.current, &mut self.next] {
            slot.take_if(|socket| socket.conn == conn);
        }
    }

    /// `conn` is gone. The other socket takes its place if there is one; else open one after the backoff.
    pub(super) fn lost(&mut self, conn: Conn, wait: u64, config: &Config, turn: &mut Turn<'_>) {
        if let Some(Socket {
            phase: Phase::Live { since, .. },
            ..
        }) = self.current.take_if(|socket| socket.conn == conn)
            && turn.now.saturating_sub(since) >= config.stable_ms
        {
            self.failures = 0;
        }
        self.next.take_if(|socket| socket.conn == conn);
        if self.current.is_none() && self.next.is_some() {
            self.current = self.next.take();
            self.report(State::Connecting, turn);
            return;
        }
        let retry_in_ms = wait + turn.backoff(config, self.failures);
        let at = turn.now + retry_in_ms;
        self.failures = self.failures.saturating_add(1);
        if self.current.is_some() {
            self.move_at = Some(at);
        } else {
            self.move_at = None;
            self.retry_at = Some(at);
            self.report(State::Waiting { retry_in_ms }, turn);
        }
    }

    pub(super) fn stop(&mut self, why: Option<(ErrorCode, String)>, turn: &mut Turn<'_>) {
        for socket in [self.current.take(), self.next.take()]
            .into_iter()
            .flatten()
        {
            turn.emit(Effect::Close { conn: socket.conn });
        }
        self.retry_at = None;
        self.move_at = None;
        let (code, message) = why.unzip();
        self.report(State::Stopped { code, message }, turn);
    }

    fn report(&mut self, state: State, turn: &mut Turn<'_>) {
        if self.state.as_ref() != Some(&state) {
            self.state = Some(state.clone());
            turn.emit(Effect::Status(state));
        }
    }
}
