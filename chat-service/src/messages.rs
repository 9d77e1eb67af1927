//! Messages: sending, editing, deleting, reacting. Sockets and REST come through here, so a rule is written once.
//!
//! | act | who may |
//! | --- | --- |
//! | send, react | members |
//! | edit | the author |
//! | delete | the author; admins and owners |
//!
//! A deleted message is `not_found` for edits and reactions. The log sees to that, since only there it is certain.

use std::sync::Arc;
use std::time::Instant;

use backend::Backends;
use backend::directory::Member;
use backend::log::{Append, Appended};
use protocol::{
    Delete, Edit, ErrorCode, Event, EventBody, Limits, React, Role, RoomId, Send, Seq, SessionId,
    UserId, check_emoji, check_meta, check_text,
};
use rest::Refusal;
use runtime::trace::{self, TARGET};
use tracing::{Instrument as _, Span, field, info_span};

use crate::metrics::Metrics;
use crate::rates::Rates;
use crate::rooms::Rooms;

/// Everything that writes messages into logs. Cheap to clone.
#[derive(Clone)]
pub struct Messages {
    backends: Backends,
    rooms: Rooms,
    limits: Arc<Limits>,
    rates: Arc<Rates>,
    metrics: Arc<Metrics>,
}

impl Messages {
    /// Messages of a family, under limits.
    #[must_use]
    pub fn new(
        backends: Backends,
        rooms: Rooms,
        limits: Arc<Limits>,
        rates: Arc<Rates>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            backends,
            rooms,
            limits,
            rates,
            metrics,
        }
    }

    /// Sends into `room`, or into the direct room with `to`.
    ///
    /// # Errors
    /// `bad_request`, `too_large`, `rate_limited`, `not_found`, `conflict`, and those of the log.
    pub async fn send(&self, user: &UserId, send: Send) -> Result<Appended, Refusal> {
        self.append(self.sending(user, send).await?, None).await
    }

    /// What a send appends, when it may be sent.
    ///
    /// # Errors
    /// `bad_request`, `too_large`, `rate_limited`, `not_found`.
    pub async fn sending(&self, user: &UserId, send: Send) -> Result<Append, Refusal> {
        self.judged(self.try_sending(user, send).await)
    }

    async fn try_sending(&self, user: &UserId, send: Send) -> Result<Append, Refusal> {
        self.check(user, &send)?;
        let room = match (&send.room, &send.to) {
            (Some(room), None) => self.rooms.enter(user, room).await?.0.id,
            (None, Some(with)) => self.rooms.direct(user, with).await?.id,
            _ => {
                let reason = "name either a room, or in `to` a user";
                return Err(Refusal::field("room", reason));
            }
        };
        if let Some(seq) = send.reply_to {
            self.message(&room, seq, "reply_to").await?;
        }
        Ok(into_append(user, room, send))
    }

    /// The checks of [`send`](Self::send) that need nothing but the frame, and the user's rate.
    ///
    /// # Errors
    /// `bad_request`, `too_large`, `rate_limited`.
    pub fn check(&self, user: &UserId, send: &Send) -> Result<(), Refusal> {
        check_text(&send.text, &self.limits)?;
        if let Some(meta) = &send.meta {
            check_meta(meta, &self.limits)?;
        }
        self.rate(user)
    }

    /// Appends to the log and counts, and traces some.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn append(
        &self,
        append: Append,
        session: Option<SessionId>,
    ) -> Result<Appended, Refusal> {
        let begun = Instant::now();
        let span = span_of(&append, session);
        let appending = self.backends.log.append(append);
        let result = if span.is_disabled() {
            appending.await
        } else {
            appending.instrument(span.clone()).await
        };
        record(&span, &result);
        self.metrics.appended(&result, begun.elapsed(), &span);
        self.judged(result.map_err(Refusal::from))
    }

    /// Counts what failed for no fault of the client.
    fn judged<T>(&self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        result.inspect_err(|refusal| self.metrics.failed(refusal.code))
    }

    /// What replaces the text of one's own message. The log refuses it for a deleted one.
    ///
    /// # Errors
    /// As [`sending`](Self::sending), and `forbidden` for somebody else's message.
    pub async fn editing(&self, user: &UserId, edit: Edit) -> Result<Append, Refusal> {
        self.judged(self.try_editing(user, edit).await)
    }

    async fn try_editing(&self, user: &UserId, edit: Edit) -> Result<Append, Refusal> {
        check_text(&edit.text, &self.limits)?;
        self.rate(user)?;
        self.rooms.member(user, &edit.room).await?;
        let message = self.message(&edit.room, edit.seq, "seq").await?;
        if message.from.as_ref() != Some(user) {
            let reason = "only the author can edit a message";
            return Err(Refusal::new(ErrorCode::Forbidden, reason));
        }
        let body = EventBody::Edit {
            target: edit.seq,
            text: edit.text,
        };
        Ok(Append {
            room: edit.room,
            from: user.clone(),
            id: edit.id,
            body,
        })
    }

    /// What takes a message back.
    ///
    /// # Errors
    /// As [`editing`](Self::editing).
    pub async fn deleting(&self, user: &UserId, delete: Delete) -> Result<Append, Refusal> {
        self.judged(self.try_deleting(user, delete).await)
    }

    async fn try_deleting(&self, user: &UserId, delete: Delete) -> Result<Append, Refusal> {
        self.rate(user)?;
        let (_, Member { role, .. }) = self.rooms.member(user, &delete.room).await?;
        let message = self.message(&delete.room, delete.seq, "seq").await?;
        if message.from.as_ref() != Some(user) && role < Role::Admin {
            let reason = "only the author and admins can delete a message";
            return Err(Refusal::new(ErrorCode::Forbidden, reason));
        }
        Ok(Append {
            room: delete.room,
            from: user.clone(),
            id: delete.id,
            body: EventBody::Delete { target: delete.seq },
        })
    }

    /// What puts an emoji on a message or takes it off. The log refuses it for a deleted one.
    ///
    /// # Errors
    /// As [`sending`](Self::sending).
    pub async fn reacting(&self, user: &UserId, react: React) -> Result<Append, Refusal> {
        self.judged(self.try_reacting(user, react).await)
    }

    async fn try_reacting(&self, user: &UserId, react: React) -> Result<Append, Refusal> {
        check_emoji(&react.emoji)?;
        self.rate(user)?;
        self.rooms.member(user, &react.room).await?;
        self.message(&react.room, react.seq, "seq").await?;
        let body = EventBody::Reaction {
            target: react.seq,
            emoji: react.emoji,
            on: react.on,
        };
        Ok(Append {
            room: react.room,
            from: user.clone(),
            id: react.id,
            body,
        })
    }

    fn rate(&self, user: &UserId) -> Result<(), Refusal> {
        self.rates.sends.take(user, Instant::now()).map_err(|wait| {
            let reason = format!(
                "at most {} sends per second, {} at once",
                self.limits.sends_per_sec, self.limits.sends_burst
            );
            Refusal::new(ErrorCode::RateLimited, reason).after(wait)
        })
    }

    /// The message at a place in the log.
    async fn message(&self, room: &RoomId, seq: Seq, field: &str) -> Result<Arc<Event>, Refusal> {
        let log = &self.backends.log;
        let mut page = log.read(room, seq.before(), 1).await?;
        if page.events.is_empty() && log.certain_head(room).await? >= seq {
            page = log.read(room, seq.before(), 1).await?;
        }
        match page.events.into_iter().next() {
            Some(event) if event.seq == seq && matches!(event.body, EventBody::Message { .. }) => {
                Ok(event)
            }
            _ => {
                let reason = format!("there is no message {seq} in this room");
                Err(Refusal {
                    code: ErrorCode::NotFound,
                    ..Refusal::field(field, reason)
                })
            }
        }
    }
}

/// The first span of an act that is traced: a chosen one, or one of a request that is traced.
fn span_of(append: &Append, session: Option<SessionId>) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let id = append.id.as_uuid().as_u128();
    let request = trace::current();
    if request.is_disabled() && !trace::is_chosen(id) {
        return Span::none();
    }
    let span = trace::begin(id, || {
        info_span!(
            target: TARGET,
            parent: None,
            "send",
            otel.kind = "server",
            otel.status_code = field::Empty,
            error.r#type = field::Empty,
            trace_id = field::Empty,
            session.id = session.map(field::display),
            room.id = %append.room,
            room.seq = field::Empty,
            duplicate = field::Empty,
        )
    });
    trace::link(&span, &request);
    trace::link(&request, &span);
    span
}

fn record(span: &Span, result: &backend::Result<Appended>) {
    if span.is_disabled() {
        return;
    }
    match result {
        Ok(Appended { event, duplicate }) => {
            span.record("room.seq", event.seq.get());
            span.record("duplicate", duplicate);
        }
        Err(error) => {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", Refusal::from(error.clone()).code.as_str());
        }
    }
}

/// The event that a checked `send` asks for.
#[must_use]
pub fn into_append(user: &UserId, room: RoomId, send: Send) -> Append {
    Append {
        room,
        from: user.clone(),
        id: send.id,
        body: EventBody::Message {
            text: send.text,
            reply_to: send.reply_to,
            meta: send.meta,
        },
    }
}
