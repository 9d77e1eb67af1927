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
    Delete, Edit, ErrorCode, Event, EventBody, Limits, React, Role, RoomId, Send, Seq, UserId,
    check_emoji, check_meta, check_text,
};
use rest::Refusal;

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
        self.append(into_append(user, room, send)).await
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

    /// Appends to the log and counts.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn append(&self, append: Append) -> Result<Appended, Refusal> {
        let begun = Instant::now();
        let result = self.backends.log.append(append).await;
        self.metrics.appended(&result, begun.elapsed());
        Ok(result?)
    }

    /// Replaces the text of one's own message.
    ///
    /// # Errors
    /// As [`send`](Self::send), and `forbidden` for somebody else's message. `not_found` also for a deleted one.
    pub async fn edit(&self, user: &UserId, edit: Edit) -> Result<Appended, Refusal> {
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
        self.append(Append {
            room: edit.room,
            from: user.clone(),
            id: edit.id,
            body,
        })
        .await
    }

    /// Takes a message back.
    ///
    /// # Errors
    /// As [`edit`](Self::edit).
    pub async fn delete(&self, user: &UserId, delete: Delete) -> Result<Appended, Refusal> {
        self.rate(user)?;
        let (_, Member { role, .. }) = self.rooms.member(user, &delete.room).await?;
        let message = self.message(&delete.room, delete.seq, "seq").await?;
        if message.from.as_ref() != Some(user) && role < Role::Admin {
            let reason = "only the author and admins can delete a message";
            return Err(Refusal::new(ErrorCode::Forbidden, reason));
        }
        self.append(Append {
            room: delete.room,
            from: user.clone(),
            id: delete.id,
            body: EventBody::Delete { target: delete.seq },
        })
        .await
    }

    /// Puts an emoji on a message or takes it off.
    ///
    /// # Errors
    /// As [`send`](Self::send). `not_found` also for a deleted message.
    pub async fn react(&self, user: &UserId, react: React) -> Result<Appended, Refusal> {
        check_emoji(&react.emoji)?;
        self.rate(user)?;
        self.rooms.member(user, &react.room).await?;
        self.message(&react.room, react.seq, "seq").await?;
        let body = EventBody::Reaction {
            target: react.seq,
            emoji: react.emoji,
            on: react.on,
        };
        self.append(Append {
            room: react.room,
            from: user.clone(),
            id: react.id,
            body,
        })
        .await
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
