//! How an event lies in the collection `events`.
//!
//! Nothing a user sent is a field name: facts that senders add to a message are kept as pairs.

use std::borrow::Cow;

use ::mongodb as driver;
use driver::bson::Uuid;
use protocol::{
    Event, EventBody, MemberChange, MessageId, Role, RoomChange, RoomId, Seq, Timestamp, UserId,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Words of the field `body.kind`.
pub(super) mod kind {
    pub const MESSAGE: &str = "message";
    pub const EDIT: &str = "edit";
    pub const DELETE: &str = "delete";
    pub const REACTION: &str = "reaction";
    pub const FENCE: &str = "fence";
}

/// The key of an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Place<'a> {
    pub room: Cow<'a, str>,
    pub seq: i64,
}

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Document<'a> {
    #[serde(rename = "_id")]
    pub place: Place<'a>,
    /// Null at a fence.
    pub prev: Option<i64>,
    /// Milliseconds since 1970.
    pub at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    pub body: Body<'a>,
    /// Of a void: the event that belongs here is parked, and may take its place when a person sends it again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub parked: bool,
    /// How it came here. Only written with an event, and read apart.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub way: Option<Way<'a>>,
}

/// How an event came into the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Way<'a> {
    /// Which process published it, and when, as far as its envelope said. Times are milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<i64>,
    /// Which worker stored it, when the broker gave it to that worker, and when it was about to store it.
    pub worker: Cow<'a, str>,
    pub got: i64,
    pub put: i64,
}

/// What an event says: its kind, and the fields that the kind has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Body<'a> {
    pub kind: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<Vec<(Cow<'a, str>, Cow<'a, str>)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    emoji: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<Cow<'a, str>>,
}

/// The words of the two do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Change {
    Member(MemberChange),
    Room(RoomChange),
}

impl<'a> Document<'a> {
    pub fn new(event: &'a Event) -> Self {
        Self {
            place: Place::new(&event.room, event.seq),
            prev: event.prev.map(number),
            at: event.at.as_millis(),
            from: event.from.as_ref().map(|user| user.as_str().into()),
            id: event.id.map(uuid),
            body: Body::new(&event.body),
            parked: false,
            way: None,
        }
    }

    pub fn event(self) -> Result<Event> {
        let Self {
            place,
            prev,
            at,
            from,
            id,
            body,
            ..
        } = self;
        let read = || {
            Ok(Event {
                room: room(&place.room)?,
                seq: seq(place.seq)?,
                prev: prev.map(seq).transpose()?,
                at: Timestamp::from_millis(at),
                from: from.as_deref().map(user).transpose()?,
                id: id.map(|id| MessageId::from_bytes(id.bytes())),
                body: body.body()?,
            })
        };
        read().map_err(|e: Error| {
            Error::Corrupt(format!("event {} of {}: {e}", place.seq, place.room))
        })
    }
}

impl<'a> Place<'a> {
    pub fn new(room: &'a RoomId, seq: Seq) -> Self {
        Self {
            room: room.as_str().into(),
            seq: number(seq),
        }
    }
}

impl<'a> Body<'a> {
    fn new(body: &'a EventBody) -> Self {
        let of = |kind: &'static str| Self {
            kind: kind.into(),
            ..Self::default()
        };
        let word = |text: &'a String| Some(Cow::Borrowed(text.as_str()));
        let of = of(body.kind());
        match body {
            EventBody::Message {
                text,
                reply_to,
                meta,
            } => Self {
                text: word(text),
                reply_to: reply_to.map(number),
                meta: meta.as_ref().map(|meta| {
                    meta.iter()
                        .map(|(key, value)| (key.into(), value.into()))
                        .collect()
                }),
                ..of
            },
            EventBody::Edit { target, text } => Self {
                target: Some(number(*target)),
                text: word(text),
                ..of
            },
            EventBody::Delete { target } => Self {
                target: Some(number(*target)),
                ..of
            },
            EventBody::Reaction { target, emoji, on } => Self {
                target: Some(number(*target)),
                emoji: word(emoji),
                on: Some(*on),
                ..of
            },
            EventBody::Member { user, change, role } => Self {
                user: Some(user.as_str().into()),
                change: Some(Change::Member(*change)),
                role: *role,
                ..of
            },
            EventBody::Room {
                change,
                name,
                topic,
            } => Self {
                change: Some(Change::Room(*change)),
                name: name.as_ref().and_then(word),
                topic: topic.as_ref().and_then(word),
                ..of
            },
            EventBody::Fence {} | EventBody::Void {} => of,
        }
    }

    fn body(self) -> Result<EventBody> {
        let text = |text: Option<Cow<'_, str>>, field| text.map(Cow::into_owned).ok_or(field);
        let target = self
            .target
            .map(seq)
            .transpose()?
            .ok_or_else(|| lacks("target"));
        Ok(match &*self.kind {
            "message" => EventBody::Message {
                text: text(self.text, "text").map_err(lacks)?,
                reply_to: self.reply_to.map(seq).transpose()?,
                meta: self.meta.map(|pairs| {
                    pairs
                        .into_iter()
                        .map(|(key, value)| (key.into_owned(), value.into_owned()))
                        .collect()
                }),
            },
            "edit" => EventBody::Edit {
                target: target?,
                text: text(self.text, "text").map_err(lacks)?,
            },
            "delete" => EventBody::Delete { target: target? },
            "reaction" => EventBody::Reaction {
                target: target?,
                emoji: text(self.emoji, "emoji").map_err(lacks)?,
                on: self.on.ok_or_else(|| lacks("on"))?,
            },
            "member" => match self.change {
                Some(Change::Member(change)) => EventBody::Member {
                    user: user(&self.user.ok_or_else(|| lacks("user"))?)?,
                    change,
                    role: self.role,
                },
                _ => return Err(lacks("change")),
            },
            "room" => match self.change {
                Some(Change::Room(change)) => EventBody::Room {
                    change,
                    name: self.name.map(Cow::into_owned),
                    topic: self.topic.map(Cow::into_owned),
                },
                _ => return Err(lacks("change")),
            },
            "fence" => EventBody::Fence {},
            "void" => EventBody::Void {},
            other => return Err(Error::Corrupt(format!("of unknown kind {other:?}"))),
        })
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde wants it so.
fn is_false(flag: &bool) -> bool {
    !flag
}

pub(super) fn number(seq: Seq) -> i64 {
    seq.get().cast_signed()
}

pub(super) fn uuid(id: MessageId) -> Uuid {
    Uuid::from_bytes(id.as_uuid().into_bytes())
}

pub(super) fn seq(number: i64) -> Result<Seq> {
    u64::try_from(number)
        .ok()
        .and_then(|number| Seq::new(number).ok())
        .ok_or_else(|| Error::Corrupt(format!("{number} is no seq")))
}

pub(super) fn room(text: &str) -> Result<RoomId> {
    RoomId::parse(text).map_err(|e| Error::Corrupt(format!("{text:?}: {e}")))
}

fn user(text: &str) -> Result<UserId> {
    UserId::parse(text).map_err(|e| Error::Corrupt(format!("{text:?}: {e}")))
}

fn lacks(field: &str) -> Error {
    Error::Corrupt(format!("lacks its {field}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: EventBody) -> Event {
        Event {
            room: RoomId::parse("general").unwrap(),
            seq: Seq::new(7).unwrap(),
            prev: Some(Seq::new(6).unwrap()),
            at: Timestamp::from_millis(1_795_258_800_007),
            from: Some(UserId::parse("alice").unwrap()),
            id: Some(MessageId::generate()),
            body,
        }
    }

    #[test]
    fn every_event_comes_back() {
        let target = Seq::new(3).unwrap();
        let bodies = [
            EventBody::Message {
                text: "a\u{0}b 👍".into(),
                reply_to: None,
                meta: None,
            },
            EventBody::Message {
                text: String::new(),
                reply_to: Some(Seq::MAX),
                meta: Some([("$where.a".to_owned(), "v".to_owned())].into()),
            },
            EventBody::Edit {
                target,
                text: "x".into(),
            },
            EventBody::Delete { target },
            EventBody::Reaction {
                target,
                emoji: "👍".into(),
                on: false,
            },
            EventBody::Member {
                user: UserId::parse("bob").unwrap(),
                change: MemberChange::Role,
                role: Some(Role::Admin),
            },
            EventBody::Room {
                change: RoomChange::Renamed,
                name: Some("n".into()),
                topic: None,
            },
            EventBody::Void {},
        ];
        let mut events: Vec<_> = bodies.map(event).into();
        events.push(Event {
            prev: None,
            from: None,
            id: None,
            ..event(EventBody::Fence {})
        });
        for event in events {
            let bytes = driver::bson::serialize_to_vec(&Document::new(&event)).unwrap();
            let back: Document<'static> = driver::bson::deserialize_from_slice(&bytes).unwrap();
            assert_eq!(back.event().unwrap(), event);
        }
    }
}
