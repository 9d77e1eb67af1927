//! The resume engine: everything a client decides, without a socket, a clock or a random generator.
//!
//! It is told what happened ([`Input`]) and when ([`Moment`]), and answers with what to do, in order ([`Effect`]). The
//! rules are described in `vectors/README.md`; the same files of `vectors/resume` run against every implementation.
//!
//! What it does not do: keep the text of messages that were delivered, decide which rooms to show, or write anything to
//! disk. [`Engine::saved`] is what is worth keeping.

mod effect;
mod input;
mod link;
mod outbox;
mod request;
mod room;

use std::collections::BTreeMap;

use protocol::{
    ClientFrame, ErrorCode, ErrorFrame, Limits, NoticeKind, Position, RoomId, ServerFrame,
    SubscribeRoom, Unsubscribe, UserId,
};

pub use effect::{Act, ClosedReason, Effect, FailureCode, Gone, LocalCode, OutboxState, State};
pub use input::{Config, Input, Moment, Saved};
use link::Link;
use outbox::{Outbox, Refusal};
use room::{Log, Room};

/// The number of a socket: 1 for the first that the engine asks for, then 2, and so on.
pub type Conn = u64;

/// The longest wait a server can ask for, in `retry_after_ms` or `reconnect_in_ms`.
const ASKED_WAIT_MAX_MS: u64 = 60_000;

/// A client's state.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    user: Option<UserId>,
    link: Link,
    limits: Limits,
    rooms: BTreeMap<RoomId, Room>,
    outbox: Outbox,
    /// Counts the `ref`s of requests.
    requests: u64,
}

/// One call of [`Engine::handle`]: its moment and the effects so far.
struct Turn<'a> {
    now: u64,
    random: f64,
    out: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    fn emit(&mut self, effect: Effect) {
        self.out.push(effect);
    }

    fn send(&mut self, conn: Conn, frame: ClientFrame) {
        self.emit(Effect::SendFrame { conn, frame });
    }

    /// Full jitter: anything from nothing to `base × 2^attempt`, at most `cap`.
    fn backoff(&self, config: &Config, attempt: u32) -> u64 {
        let ceiling = 2u64
            .checked_pow(attempt)
            .and_then(|factor| factor.checked_mul(config.backoff_base_ms))
            .map_or(config.backoff_cap_ms, |ms| ms.min(config.backoff_cap_ms));
        (ceiling as f64 * self.random).floor() as u64
    }
}

impl Engine {
    /// A client that wants the rooms of `saved` and still has to send its outbox. It does nothing before `Start`.
    #[must_use]
    pub fn new(config: Config, saved: Saved) -> Self {
        let rooms = saved
            .positions
            .into_iter()
            .map(|(room, position)| (room.clone(), Room::new(room, Some(position))))
            .collect();
        Self {
            user: config.hello.as_ref().and_then(|hello| hello.user.clone()),
            link: Link::default(),
            limits: Limits::default(),
            rooms,
            outbox: Outbox::new(saved.outbox),
            requests: 0,
            config,
        }
    }

    /// What to write down so that another process can go on from here.
    #[must_use]
    pub fn saved(&self) -> Saved {
        let at = |(id, room): (&RoomId, &Room)| Some((id.clone(), room.position()?));
        Saved {
            positions: self.rooms.iter().filter_map(at).collect(),
            outbox: self.outbox.acts(),
        }
    }

    /// When to send the next [`Input::Tick`], in the milliseconds of [`Moment`].
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        let mut wake = self.link.wake_at();
        if self.link.live().is_some() {
            let rooms = self.rooms.values().filter_map(Room::wake_at).min();
            for other in [rooms, self.outbox.wake_at()] {
                wake = wake.into_iter().chain(other).min();
            }
        }
        wake
    }

    /// Takes in what happened and says what to do. Effects are to be carried out in order.
    pub fn handle(&mut self, input: Input, moment: Moment) -> Vec<Effect> {
        let mut out = Vec::new();
        let turn = &mut Turn {
            now: moment.now_ms,
            random: moment.random,
            out: &mut out,
        };
        match input {
            Input::Start { hello } => {
                if let Some(hello) = hello {
                    self.user = hello.user.clone();
                    self.config.hello = Some(hello);
                }
                self.link.start(&self.config, turn);
            }
            Input::Stop {} => self.stop(None, turn),
            Input::RetryNow {} => self.link.retry_now(&self.config, turn),
            Input::Opened { conn } => self.link.opened(conn, &self.config, turn),
            Input::Heard { conn } => self.link.heard(conn, turn.now),
            Input::Frame { conn, frame } => {
                self.link.heard(conn, turn.now);
                self.frame(conn, frame, turn);
            }
            Input::Closed { conn, code, reason } => self.closed(conn, code, reason, turn),
            Input::Tick {} => self.tick(turn),
            Input::Subscribe { rooms } => self.want(rooms, turn),
            Input::Unsubscribe { rooms } => self.unwant(rooms, turn),
            Input::Submit { act } => {
                self.outbox.submit(act, self.config.outbox_max, turn);
                self.pump(turn);
            }
            Input::Read(Position { room, seq }) => {
                if let Some(known) = self.rooms.get_mut(&room) {
                    known.read(seq, self.link.live(), turn);
                }
            }
            Input::Typing(typing) => {
                if let Some(conn) = self.link.live() {
                    turn.send(conn, ClientFrame::Typing(typing));
                }
            }
        }
        out
    }

    fn frame(&mut self, conn: Conn, frame: ServerFrame, turn: &mut Turn<'_>) {
        if let ServerFrame::Welcome(welcome) = &frame {
            if let Some(welcomed) = self.link.welcomed(conn, welcome.heartbeat_secs, turn) {
                self.user = Some(welcome.user.clone());
                self.limits = welcome.limits.clone();
                turn.emit(Effect::Signal { frame });
                self.resume(turn);
                if let Some(conn) = welcomed.replaces {
                    turn.emit(Effect::Close { conn });
                }
            }
            return;
        }
        if self.link.live() != Some(conn) {
            if let ServerFrame::Error(error) = frame {
                self.refused_at_the_door(conn, error, turn);
            }
            return;
        }
        match frame {
            ServerFrame::Event(event) => {
                let id = event.room.clone();
                self.in_room(&id, conn, turn, |room, log| room.event(event, log));
                self.pump(turn);
            }
            ServerFrame::Events {
                reference,
                room,
                events,
                ..
            } => {
                self.in_room(&room, conn, turn, |room, log| {
                    room.page(reference.as_deref(), events, log);
                });
                self.pump(turn);
            }
            ServerFrame::Subscribed(subscribed) => {
                let id = subscribed.room.clone();
                self.in_room(&id, conn, turn, |room, log| {
                    room.subscribed(subscribed, log)
                });
            }
            ServerFrame::Heads { rooms } => {
                for (room, head) in rooms {
                    if let Some(room) = self.rooms.get_mut(&room) {
                        room.head(head, &self.config, turn.now);
                    }
                }
            }
            ServerFrame::Ack {
                id,
                room,
                seq,
                at,
                duplicate,
            } => {
                let state = OutboxState::Sent {
                    room,
                    seq,
                    at,
                    duplicate,
                };
                self.outbox.settle(id, state, turn);
                self.pump(turn);
            }
            ServerFrame::Error(error) => self.error(error, turn),
            ServerFrame::Goaway {
                reconnect_in_ms, ..
            } => {
                let wait = reconnect_in_ms.min(ASKED_WAIT_MAX_MS);
                self.link.goaway(turn.now + wait);
                turn.emit(Effect::Signal { frame });
            }
            ServerFrame::Notice { kind, ref room } => {
                let gone = match kind {
                    NoticeKind::RoomRemoved => Some(Gone::Removed),
                    NoticeKind::RoomDeleted => Some(Gone::Deleted),
                    NoticeKind::RoomAdded | NoticeKind::SessionRevoked => None,
                };
                let room = room.clone();
                turn.emit(Effect::Signal { frame });
                if let (Some(gone), Some(room)) = (gone, room) {
                    self.room_closed(&room, ClosedReason::Gone(gone), None, turn);
                }
            }
            ServerFrame::Receipt { .. }
            | ServerFrame::Typing { .. }
            | ServerFrame::Presence { .. } => turn.emit(Effect::Signal { frame }),
            ServerFrame::Welcome(_) | ServerFrame::Unsubscribed { .. } => {}
        }
    }

    /// Does something with a room that is wanted.
    fn in_room(
        &mut self,
        id: &RoomId,
        conn: Conn,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut Room, &mut Log<'_, '_>),
    ) {
        if let Some(room) = self.rooms.get_mut(id) {
            let allowed = u32::try_from(self.limits.fetch_events).unwrap_or(u32::MAX);
            let mut log = Log {
                config: &self.config,
                fetch_limit: self.config.fetch_limit.min(allowed).max(1),
                user: self.user.as_ref(),
                outbox: &mut self.outbox,
                requests: &mut self.requests,
                conn,
                turn,
            };
            act(room, &mut log);
        }
    }

    /// A new connection is live: subscribe to every room from where it was left, then send what was not acknowledged.
    fn resume(&mut self, turn: &mut Turn<'_>) {
        for room in self.rooms.values_mut() {
            room.disconnected();
        }
        self.outbox.disconnected();
        self.subscribe_due(turn);
        self.pump(turn);
    }

    fn error(&mut self, error: ErrorFrame, turn: &mut Turn<'_>) {
        if error.code == ErrorCode::Unauthenticated {
            // Nothing is wrong with what was asked; it waits until somebody has signed in again.
            self.stop(Some((error.code, error.message)), turn);
            return;
        }
        if let Some(id) = error.id
            && self.outbox.contains(id)
        {
            let refusal = Refusal::from(error);
            self.outbox.refused(id, refusal, &self.config, turn);
            self.pump(turn);
            return;
        }
        let mut ours = false;
        let mut closed = Vec::new();
        for (id, room) in &mut self.rooms {
            let meant = error.room.as_ref().is_none_or(|named| named == id);
            if meant && room.is_about(error.reference.as_deref()) {
                ours = true;
                if error.code.is_retryable() {
                    let wait = error.retry_after_ms.unwrap_or(0).min(ASKED_WAIT_MAX_MS);
                    room.try_later(wait, error.reference.as_deref(), &self.config, turn);
                } else {
                    closed.push(id.clone());
                }
            }
        }
        for id in closed {
            let message = Some(error.message.clone());
            self.room_closed(&id, ClosedReason::Refused(error.code), message, turn);
        }
        if !ours {
            let frame = ServerFrame::Error(error);
            turn.emit(Effect::Signal { frame });
        }
    }

    /// An `error` before `welcome`: signing in failed.
    fn refused_at_the_door(&mut self, conn: Conn, error: ErrorFrame, turn: &mut Turn<'_>) {
        if !self.link.knows(conn) {
            return;
        }
        if error.code.is_retryable() {
            turn.emit(Effect::Close { conn });
            let wait = error.retry_after_ms.unwrap_or(0).min(ASKED_WAIT_MAX_MS);
            self.lost(conn, wait, turn);
        } else {
            self.stop(Some((error.code, error.message)), turn);
        }
    }

    fn room_closed(
        &mut self,
        id: &RoomId,
        reason: ClosedReason,
        message: Option<String>,
        turn: &mut Turn<'_>,
    ) {
        if self.rooms.remove(id).is_some() {
            turn.emit(Effect::RoomClosed {
                room: id.clone(),
                reason,
                message,
            });
        }
    }

    fn closed(
        &mut self,
        conn: Conn,
        code: Option<u16>,
        reason: Option<String>,
        turn: &mut Turn<'_>,
    ) {
        if !self.link.knows(conn) {
            return;
        }
        if code == Some(protocol::CloseCode::Unauthenticated.as_u16()) {
            self.offline_without(conn, turn);
            self.link.forget(conn);
            let message = reason.unwrap_or_default();
            self.stop(Some((ErrorCode::Unauthenticated, message)), turn);
        } else {
            self.lost(conn, 0, turn);
        }
    }

    /// Socket `conn` is no more; connect again after the backoff and at least `wait` ms.
    fn lost(&mut self, conn: Conn, wait: u64, turn: &mut Turn<'_>) {
        self.offline_without(conn, turn);
        self.link.lost(conn, wait, &self.config, turn);
    }

    /// If `conn` is the live socket, nothing is subscribed or on its way any more.
    fn offline_without(&mut self, conn: Conn, turn: &mut Turn<'_>) {
        if self.link.live() == Some(conn) {
            for room in self.rooms.values_mut() {
                room.disconnected();
            }
            self.outbox.offline(turn);
        }
    }

    fn stop(&mut self, why: Option<(ErrorCode, String)>, turn: &mut Turn<'_>) {
        if let Some(conn) = self.link.live() {
            self.offline_without(conn, turn);
        }
        self.link.stop(why, turn);
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        for conn in self.link.timed_out(turn.now) {
            turn.emit(Effect::Close { conn });
            self.lost(conn, 0, turn);
        }
        self.link.tick(&self.config, turn);
        let Some(conn) = self.link.live() else {
            return;
        };
        self.subscribe_due(turn);
        let due = |(id, room): (&RoomId, &Room)| {
            room.wake_at().filter(|at| *at <= turn.now)?;
            Some(id.clone())
        };
        let rooms: Vec<RoomId> = self.rooms.iter().filter_map(due).collect();
        for id in rooms {
            self.in_room(&id, conn, turn, Room::tick);
        }
        self.pump(turn);
    }

    fn want(&mut self, rooms: Vec<SubscribeRoom>, turn: &mut Turn<'_>) {
        for SubscribeRoom { room, after } in rooms {
            self.rooms
                .entry(room.clone())
                .or_insert_with(|| Room::new(room, after));
        }
        self.subscribe_due(turn);
    }

    fn unwant(&mut self, rooms: Vec<RoomId>, turn: &mut Turn<'_>) {
        let known: Vec<RoomId> = rooms
            .into_iter()
            .filter(|room| self.rooms.remove(room).is_some())
            .collect();
        if let (Some(conn), false) = (self.link.live(), known.is_empty()) {
            self.requests += 1;
            let frame = ClientFrame::Unsubscribe(Unsubscribe {
                reference: Some(self.requests.to_string()),
                rooms: known,
            });
            turn.send(conn, frame);
        }
    }

    /// Subscribes to every room that is wanted and not asked for, in as few frames as the server allows.
    fn subscribe_due(&mut self, turn: &mut Turn<'_>) {
        let Some(conn) = self.link.live() else {
            return;
        };
        let mut due: Vec<&mut Room> = self
            .rooms
            .values_mut()
            .filter(|room| room.wants_to_subscribe(turn.now))
            .collect();
        for batch in due.chunks_mut(self.limits.subscribe_rooms.max(1)) {
            self.requests += 1;
            let reference = self.requests.to_string();
            let deadline = turn.now + self.config.request_timeout_ms;
            let rooms = batch
                .iter_mut()
                .map(|room| room.subscribe(&reference, deadline))
                .collect();
            let frame = ClientFrame::Subscribe(protocol::Subscribe {
                reference: Some(reference),
                rooms,
            });
            turn.send(conn, frame);
        }
    }

    /// Sends what may be sent from the outbox.
    fn pump(&mut self, turn: &mut Turn<'_>) {
        if let Some(conn) = self.link.live() {
            let timeout = self.config.request_timeout_ms;
            self.outbox
                .pump(conn, self.limits.frame_bytes, timeout, turn);
        }
    }
}
