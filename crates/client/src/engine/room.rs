//! One room: where its reader stands, what is missing, and what the server still has to be told.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{
    ClientFrame, Event, Fetch, Position, RoomId, Seq, ServerFrame, SubscribeRoom, Subscribed,
    UserId,
};

use super::effect::Effect;
use super::outbox::Outbox;
use super::request::{Phase, Request};
use super::{Config, Conn, Turn};

#[derive(Debug)]
pub(super) struct Room {
    id: RoomId,
    /// The last event delivered. `None` until the server has said where a new subscription begins.
    position: Option<Seq>,
    subscription: Request,
    /// The `after` of the subscription.
    asked: Option<Seq>,
    fetch: Request,
    /// Events behind a hole, by seq.
    held: BTreeMap<Seq, Arc<Event>>,
    /// The highest seq known to exist behind a hole; fetching goes on until it is reached.
    target: Seq,
    /// The head that the server has named, and until when its events may take.
    announced: Option<(Seq, u64)>,
    /// The last `received` that this connection carried.
    received_sent: Option<Seq>,
    received_at: Option<u64>,
    /// Whether anything was ever delivered, so that there is something to confirm.
    delivered: bool,
    /// How far the person has read.
    read: Option<Seq>,
}

/// What a room needs of the engine while it handles something.
pub(super) struct Log<'a, 'b> {
    pub(super) config: &'a Config,
    pub(super) fetch_limit: u32,
    pub(super) user: Option<&'a UserId>,
    pub(super) outbox: &'a mut Outbox,
    pub(super) requests: &'a mut u64,
    pub(super) conn: Conn,
    pub(super) turn: &'a mut Turn<'b>,
}

impl Room {
    pub(super) fn new(id: RoomId, position: Option<Seq>) -> Self {
        Self {
            id,
            position,
            subscription: Request::default(),
            asked: None,
            fetch: Request::default(),
            held: BTreeMap::new(),
            target: Seq::ZERO,
            announced: None,
            received_sent: None,
            received_at: None,
            delivered: false,
            read: None,
        }
    }

    pub(super) fn position(&self) -> Option<Seq> {
        self.position
    }

    pub(super) fn wake_at(&self) -> Option<u64> {
        let announced = self.announced.map(|(_, at)| at);
        [
            self.subscription.due_at(),
            self.fetch.due_at(),
            announced,
            self.received_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Forgets what belonged to the connection. The next one is asked for everything after the position.
    pub(super) fn disconnected(&mut self) {
        self.subscription = Request::default();
        self.received_sent = None;
        self.received_at = None;
        self.forget_hole();
    }

    fn forget_hole(&mut self) {
        self.fetch = Request::default();
        self.held.clear();
        self.target = Seq::ZERO;
        self.announced = None;
    }

    pub(super) fn wants_to_subscribe(&self, now: u64) -> bool {
        match self.subscription.phase {
            Phase::None => true,
            Phase::Live { .. } => false,
            Phase::Asked { .. } | Phase::Retry { .. } => {
                self.subscription.due_at().is_some_and(|at| at <= now)
            }
        }
    }

    pub(super) fn subscribe(&mut self, reference: &str, deadline: u64) -> SubscribeRoom {
        self.subscription.phase = Phase::Asked {
            reference: reference.to_owned(),
            deadline,
        };
        self.asked = self.position;
        SubscribeRoom {
            room: self.id.clone(),
            after: self.asked,
        }
    }

    /// Whether a refusal of `reference` concerns this room.
    pub(super) fn is_about(&self, reference: Option<&str>) -> bool {
        self.subscription.is_about(reference) || self.fetch.is_about(reference)
    }

    /// Request `reference` was refused for now.
    pub(super) fn try_later(
        &mut self,
        wait: u64,
        reference: Option<&str>,
        config: &Config,
        turn: &Turn<'_>,
    ) {
        if self.subscription.is_about(reference) {
            self.subscription.try_later(wait, config, turn);
        } else {
            self.fetch.try_later(wait, config, turn);
        }
    }

    pub(super) fn subscribed(&mut self, answer: Subscribed, log: &mut Log<'_, '_>) {
        let Some(reference) = answer
            .reference
            .clone()
            .filter(|reference| self.subscription.waits_for(Some(reference)))
        else {
            return;
        };
        self.subscription = Request {
            phase: Phase::Live { reference },
            failures: 0,
        };
        let asked = self.asked.unwrap_or(answer.after);
        if answer.head < asked || answer.after < asked {
            self.forget_hole();
            self.received_at = None;
            self.delivered = false;
            self.read = None;
            self.position = Some(answer.after);
            log.turn.emit(Effect::ResetRoom {
                room: self.id.clone(),
                position: answer.after,
                head: answer.head,
            });
        }
        let position = *self.position.get_or_insert(answer.after);
        let (after, read) = (answer.after, answer.read);
        let frame = ServerFrame::Subscribed(answer);
        log.turn.emit(Effect::Signal { frame });
        if let Some(seq) = self.read.filter(|seq| *seq > read) {
            self.send_read(seq, log.conn, log.turn);
        }
        self.confirm_later(log);
        if after > position {
            self.missing(after, log);
        }
    }

    /// The one rule: what follows the position is delivered, what lies before it is dropped, what lies behind a hole
    /// waits until the hole is filled. A fence names no predecessor, so only the log can tell whether one is missing.
    pub(super) fn event(&mut self, event: Arc<Event>, log: &mut Log<'_, '_>) {
        let Some(position) = self.position else {
            return;
        };
        if event.seq <= position {
            return;
        }
        if event.prev == Some(position) {
            self.deliver(event, log);
            self.drain(log);
            return;
        }
        let seq = event.seq;
        if self.held.len() < log.config.hold_max {
            self.held.insert(seq, event);
        }
        self.missing(seq, log);
    }

    /// The answer to a fetch. It is a piece of the log without holes, so a fence in it follows what stands before it.
    pub(super) fn page(
        &mut self,
        reference: Option<&str>,
        events: Vec<Arc<Event>>,
        log: &mut Log<'_, '_>,
    ) {
        if !self.fetch.waits_for(reference) {
            return;
        }
        let before = self.position;
        for event in events {
            let position = self.position.unwrap_or(Seq::ZERO);
            if event.seq <= position {
                continue;
            }
            if event.prev.is_some_and(|prev| prev != position) {
                break;
            }
            self.deliver(event, log);
        }
        self.drain(log);
        if self.position >= Some(self.target) {
            self.fetch = Request::default();
        } else if self.position > before {
            self.fetch = Request::default();
            self.ask(log);
        } else {
            self.fetch.try_later(0, log.config, log.turn);
        }
    }

    fn deliver(&mut self, event: Arc<Event>, log: &mut Log<'_, '_>) {
        self.position = Some(event.seq);
        self.delivered = true;
        if let Some((head, at)) = &mut self.announced {
            if *head <= event.seq {
                self.announced = None;
            } else {
                *at = log.turn.now + log.config.heads_grace_ms;
            }
        }
        log.outbox.seen(&event, log.user, log.turn);
        log.turn.emit(Effect::Deliver { event });
        self.confirm_later(log);
    }

    /// Delivers the held events that now follow.
    fn drain(&mut self, log: &mut Log<'_, '_>) {
        while let Some(first) = self.held.first_entry() {
            let position = self.position.unwrap_or(Seq::ZERO);
            let stale = *first.key() <= position;
            if !stale && first.get().prev != Some(position) {
                return;
            }
            let event = first.remove();
            if !stale {
                self.deliver(event, log);
            }
        }
    }

    /// Everything up to `seq` exists and has not come.
    fn missing(&mut self, seq: Seq, log: &mut Log<'_, '_>) {
        self.target = self.target.max(seq);
        if matches!(self.fetch.phase, Phase::None) {
            self.ask(log);
        }
    }

    fn ask(&mut self, log: &mut Log<'_, '_>) {
        *log.requests += 1;
        let reference = log.requests.to_string();
        self.fetch.phase = Phase::Asked {
            reference: reference.clone(),
            deadline: log.turn.now + log.config.request_timeout_ms,
        };
        let frame = ClientFrame::Fetch(Fetch {
            reference: Some(reference),
            room: self.id.clone(),
            after: self.position.unwrap_or(Seq::ZERO),
            limit: log.fetch_limit,
        });
        log.turn.send(log.conn, frame);
    }

    /// The server says that the room ends at `head`. Its events may be on their way; if not, they are fetched.
    pub(super) fn head(&mut self, head: Seq, config: &Config, now: u64) {
        let behind = self.position.is_some_and(|position| position < head);
        if !behind || !matches!(self.subscription.phase, Phase::Live { .. }) {
            return;
        }
        let at = self
            .announced
            .map_or(now + config.heads_grace_ms, |(_, at)| at);
        self.announced = Some((head, at));
    }

    fn confirm_later(&mut self, log: &mut Log<'_, '_>) {
        if self.delivered && self.received_at.is_none() && self.received_sent != self.position {
            self.received_at = Some(log.turn.now + log.config.received_delay_ms);
        }
    }

    pub(super) fn read(&mut self, seq: Seq, live: Option<Conn>, turn: &mut Turn<'_>) {
        if self.read.is_some_and(|read| read >= seq) {
            return;
        }
        self.read = Some(seq);
        if let (Some(conn), Phase::Live { .. }) = (live, &self.subscription.phase) {
            self.send_read(seq, conn, turn);
        }
    }

    fn send_read(&self, seq: Seq, conn: Conn, turn: &mut Turn<'_>) {
        let room = self.id.clone();
        turn.send(conn, ClientFrame::Read(Position { room, seq }));
    }

    pub(super) fn tick(&mut self, log: &mut Log<'_, '_>) {
        let now = log.turn.now;
        if self.fetch.due_at().is_some_and(|at| at <= now) {
            if self.position >= Some(self.target) {
                self.fetch = Request::default();
            } else {
                self.ask(log);
            }
        }
        if let Some((head, _)) = self.announced.take_if(|(_, at)| *at <= now) {
            self.missing(head, log);
        }
        if self.received_at.take_if(|at| *at <= now).is_some()
            && let Some(seq) = self.position
        {
            self.received_sent = Some(seq);
            let room = self.id.clone();
            let frame = ClientFrame::Received(Position { room, seq });
            log.turn.send(log.conn, frame);
        }
    }
}
