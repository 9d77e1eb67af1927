//! What waits for its ack. One act per room is on its way at a time, so a refusal cannot change the order.

use std::collections::HashSet;

use protocol::{ClientFrame, ErrorCode, ErrorFrame, Event, MessageId, RoomId, UserId};

use super::effect::{Act, Effect, FailureCode, LocalCode, OutboxState};
use super::{ASKED_WAIT_MAX_MS, Config, Conn, Turn};

#[derive(Debug)]
pub(super) struct Outbox {
    entries: Vec<Entry>,
    /// The sender has sent too much: nothing goes out before this.
    paused_until: u64,
}

#[derive(Debug)]
struct Entry {
    act: Act,
    phase: Phase,
    refusals: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Queued,
    Sending { deadline: u64 },
    Waiting { until: u64 },
}

/// Acts with the same lane are sent one after the other.
#[derive(PartialEq, Eq, Hash)]
enum Lane {
    Room(RoomId),
    User(UserId),
    /// Addressed to nobody; the server will say so.
    Nowhere,
}

/// An `error` for something in the outbox.
pub(super) struct Refusal {
    code: ErrorCode,
    message: String,
    retry_after_ms: u64,
}

impl From<ErrorFrame> for Refusal {
    fn from(error: ErrorFrame) -> Self {
        Self {
            code: error.code,
            message: error.message,
            retry_after_ms: error.retry_after_ms.unwrap_or(0).min(ASKED_WAIT_MAX_MS),
        }
    }
}

impl Entry {
    fn new(act: Act) -> Self {
        Self {
            act,
            phase: Phase::Queued,
            refusals: 0,
        }
    }

    fn lane(&self) -> Lane {
        match (&self.act, self.act.room()) {
            (_, Some(room)) => Lane::Room(room.clone()),
            (Act::Send(send), None) => send.to.clone().map_or(Lane::Nowhere, Lane::User),
            (_, None) => Lane::Nowhere,
        }
    }

    fn due_at(&self, paused_until: u64) -> u64 {
        match self.phase {
            Phase::Queued => paused_until,
            Phase::Sending { deadline } => deadline,
            Phase::Waiting { until } => until.max(paused_until),
        }
    }
}

impl Outbox {
    pub(super) fn new(acts: Vec<Act>) -> Self {
        Self {
            entries: acts.into_iter().map(Entry::new).collect(),
            paused_until: 0,
        }
    }

    pub(super) fn acts(&self) -> Vec<Act> {
        self.entries.iter().map(|entry| entry.act.clone()).collect()
    }

    pub(super) fn contains(&self, id: MessageId) -> bool {
        self.find(id).is_some()
    }

    fn find(&self, id: MessageId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.act.id() == id)
    }

    pub(super) fn submit(&mut self, act: Act, max: usize, turn: &mut Turn<'_>) {
        let id = act.id();
        if self.contains(id) {
            return;
        }
        let state = if self.entries.len() >= max {
            OutboxState::Failed {
                code: FailureCode::Local(LocalCode::OutboxFull),
                message: "the outbox is full".to_owned(),
            }
        } else {
            self.entries.push(Entry::new(act));
            OutboxState::Queued
        };
        turn.emit(Effect::Outbox { id, state });
    }

    /// The first entries of all lanes.
    fn heads(&self) -> Vec<usize> {
        let mut lanes = HashSet::new();
        let first = |(index, entry): (usize, &Entry)| lanes.insert(entry.lane()).then_some(index);
        self.entries.iter().enumerate().filter_map(first).collect()
    }

    pub(super) fn wake_at(&self) -> Option<u64> {
        let due = |index: usize| self.entries[index].due_at(self.paused_until);
        self.heads().into_iter().map(due).min()
    }

    /// Sends the first act of every lane that is neither on its way nor waiting. An act whose answer is overdue is sent
    /// again: its id makes that harmless.
    pub(super) fn pump(
        &mut self,
        conn: Conn,
        frame_bytes: usize,
        timeout_ms: u64,
        turn: &mut Turn<'_>,
    ) {
        while !self.entries.is_empty() {
            let mut too_large = Vec::new();
            for index in self.heads() {
                let entry = &mut self.entries[index];
                if entry.due_at(self.paused_until) > turn.now {
                    continue;
                }
                let id = entry.act.id();
                let frame = ClientFrame::from(entry.act.clone());
                if frame.encode().len() > frame_bytes {
                    too_large.push(id);
                    continue;
                }
                entry.phase = Phase::Sending {
                    deadline: turn.now + timeout_ms,
                };
                turn.send(conn, frame);
                let state = OutboxState::Sending;
                turn.emit(Effect::Outbox { id, state });
            }
            if too_large.is_empty() {
                return;
            }
            // The server would close the connection over it, again and again.
            for id in too_large {
                let state = OutboxState::Failed {
                    code: FailureCode::Server(ErrorCode::TooLarge),
                    message: "the frame is larger than the server accepts".to_owned(),
                };
                self.settle(id, state, turn);
            }
        }
    }

    /// The fate of `id` is known.
    pub(super) fn settle(&mut self, id: MessageId, state: OutboxState, turn: &mut Turn<'_>) {
        if let Some(index) = self.find(id) {
            self.entries.remove(index);
            turn.emit(Effect::Outbox { id, state });
        }
    }

    /// An event in the log proves that the act was kept, as well as an ack does.
    pub(super) fn seen(&mut self, event: &Event, user: Option<&UserId>, turn: &mut Turn<'_>) {
        let (Some(id), Some(from)) = (event.id, event.from.as_ref()) else {
            return;
        };
        if self.entries.is_empty() || Some(from) != user {
            return;
        }
        let here = |index: &usize| {
            let room = self.entries[*index].act.room();
            room.is_none_or(|room| *room == event.room)
        };
        if self.find(id).filter(here).is_some() {
            let state = OutboxState::Sent {
                room: event.room.clone(),
                seq: event.seq,
                at: event.at,
                duplicate: false,
            };
            self.settle(id, state, turn);
        }
    }

    pub(super) fn refused(
        &mut self,
        id: MessageId,
        refusal: Refusal,
        config: &Config,
        turn: &mut Turn<'_>,
    ) {
        let Some(index) = self.find(id) else {
            return;
        };
        let entry = &mut self.entries[index];
        let hopeless =
            refusal.code == ErrorCode::Internal && entry.refusals + 1 >= config.internal_max;
        if !refusal.code.is_retryable() || hopeless {
            let state = OutboxState::Failed {
                code: FailureCode::Server(refusal.code),
                message: refusal.message,
            };
            self.settle(id, state, turn);
            return;
        }
        if !matches!(entry.phase, Phase::Sending { .. }) {
            return;
        }
        let retry_in_ms = refusal.retry_after_ms + turn.backoff(config, entry.refusals);
        let until = turn.now + retry_in_ms;
        entry.refusals += 1;
        entry.phase = Phase::Waiting { until };
        if refusal.code == ErrorCode::RateLimited {
            self.paused_until = self.paused_until.max(until);
        }
        let state = OutboxState::Waiting {
            code: refusal.code,
            retry_in_ms,
        };
        turn.emit(Effect::Outbox { id, state });
    }

    /// Whatever was on its way may or may not have arrived; it will be sent again.
    pub(super) fn disconnected(&mut self) -> Vec<MessageId> {
        let mut back = Vec::new();
        for entry in &mut self.entries {
            if matches!(entry.phase, Phase::Sending { .. }) {
                entry.phase = Phase::Queued;
                back.push(entry.act.id());
            }
        }
        back
    }

    /// Like [`Self::disconnected`], and says so: no other connection takes over at once.
    pub(super) fn offline(&mut self, turn: &mut Turn<'_>) {
        for id in self.disconnected() {
            let state = OutboxState::Queued;
            turn.emit(Effect::Outbox { id, state });
        }
    }
}
