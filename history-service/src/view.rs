//! Messages as they stand: what was written, with every later edit, deletion and reaction applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use backend::Log;
use protocol::{Event, EventBody, MessageId, Meta, RoomId, Seq, Timestamp, UserId};
use rest::Refusal;
use serde::Serialize;
use utoipa::ToSchema;

/// A message as it stands now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Message {
    pub room: RoomId,
    /// Its place in the room's log.
    pub seq: Seq,
    pub id: MessageId,
    pub from: UserId,
    pub at: Timestamp,
    /// Its present text; null when it was deleted.
    #[schema(required = true)]
    pub text: Option<String>,
    /// The message it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reply_to: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub meta: Option<Meta>,
    /// When its text was last replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub edited_at: Option<Timestamp>,
    pub deleted: bool,
    /// In the order in which the emoji first appeared.
    pub reactions: Vec<Reaction>,
}

/// An emoji on a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reaction {
    pub emoji: String,
    /// Who put it there, first come first.
    pub users: Vec<UserId>,
}

impl Message {
    /// The message as it was written; `None` for any other event.
    fn written(event: &Event) -> Option<Self> {
        let EventBody::Message {
            text,
            reply_to,
            meta,
        } = &event.body
        else {
            return None;
        };
        Some(Self {
            room: event.room.clone(),
            seq: event.seq,
            id: event.id?,
            from: event.from.clone()?,
            at: event.at,
            text: Some(text.clone()),
            reply_to: *reply_to,
            meta: meta.clone(),
            edited_at: None,
            deleted: false,
            reactions: Vec::new(),
        })
    }

    /// Applies one later event about this message. Nothing changes a deleted one any more.
    fn apply(&mut self, event: &Event) {
        if self.deleted {
            return;
        }
        match &event.body {
            EventBody::Edit { text, .. } => {
                self.text = Some(text.clone());
                self.edited_at = Some(event.at);
            }
            EventBody::Delete { .. } => {
                self.text = None;
                self.meta = None;
                self.edited_at = None;
                self.deleted = true;
                self.reactions.clear();
            }
            EventBody::Reaction { emoji, on, .. } => {
                if let Some(user) = &event.from {
                    self.react(user, emoji, *on);
                }
            }
            _ => {}
        }
    }

    fn react(&mut self, user: &UserId, emoji: &str, on: bool) {
        let place = self.reactions.iter().position(|r| r.emoji == emoji);
        match (place, on) {
            (Some(place), true) => {
                let users = &mut self.reactions[place].users;
                if !users.contains(user) {
                    users.push(user.clone());
                }
            }
            (Some(place), false) => {
                self.reactions[place].users.retain(|other| other != user);
                self.reactions.retain(|reaction| !reaction.users.is_empty());
            }
            (None, true) => self.reactions.push(Reaction {
                emoji: emoji.to_owned(),
                users: vec![user.clone()],
            }),
            (None, false) => {}
        }
    }
}

/// The messages among the events of one room, as they stand.
pub async fn present(
    log: &dyn Log,
    room: &RoomId,
    events: &[Arc<Event>],
) -> Result<Vec<Message>, Refusal> {
    let messages: BTreeMap<Seq, Message> = events
        .iter()
        .filter_map(|event| Message::written(event))
        .map(|message| (message.seq, message))
        .collect();
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let targets: Vec<Seq> = messages.keys().copied().collect();
    let later = log.related(room, &targets).await?;
    Ok(combine(messages, &later))
}

fn combine(mut messages: BTreeMap<Seq, Message>, later: &[Arc<Event>]) -> Vec<Message> {
    for event in later {
        let message = event.body.target().and_then(|seq| messages.get_mut(&seq));
        if let Some(message) = message {
            message.apply(event);
        }
    }
    messages.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, from: &str, body: EventBody) -> Event {
        Event {
            room: RoomId::parse("general").unwrap(),
            seq: Seq::new(seq).unwrap(),
            prev: Seq::new(seq - 1).ok(),
            at: Timestamp::from_millis(seq as i64),
            from: UserId::parse(from).ok(),
            id: Some(MessageId::generate()),
            body,
        }
    }

    fn after(later: &[(&str, EventBody)]) -> Message {
        let body = EventBody::Message {
            text: "one".to_owned(),
            reply_to: None,
            meta: Some(Meta::from([("k".to_owned(), "v".to_owned())])),
        };
        let message = Message::written(&event(1, "alice", body)).unwrap();
        let later: Vec<_> = (2..)
            .zip(later)
            .map(|(seq, (from, body))| Arc::new(event(seq, from, body.clone())))
            .collect();
        combine(BTreeMap::from([(message.seq, message)]), &later).remove(0)
    }

    fn target() -> Seq {
        Seq::new(1).unwrap()
    }

    fn edit(text: &str) -> EventBody {
        EventBody::Edit {
            target: target(),
            text: text.to_owned(),
        }
    }

    fn react(emoji: &str, on: bool) -> EventBody {
        EventBody::Reaction {
            target: target(),
            emoji: emoji.to_owned(),
            on,
        }
    }

    #[test]
    fn the_last_edit_holds() {
        let message = after(&[("alice", edit("two")), ("alice", edit("three"))]);
        assert_eq!(message.text.as_deref(), Some("three"));
        assert_eq!(message.edited_at, Some(Timestamp::from_millis(3)));
    }

    #[test]
    fn nothing_changes_a_deleted_message() {
        let delete = EventBody::Delete { target: target() };
        let message = after(&[
            ("bob", react("x", true)),
            ("alice", delete),
            ("alice", edit("back")),
            ("bob", react("y", true)),
        ]);
        assert!(message.deleted);
        assert_eq!(message.text, None);
        assert_eq!(message.meta, None);
        assert_eq!(message.edited_at, None);
        assert!(message.reactions.is_empty());
    }

    #[test]
    fn reactions_count_each_user_once() {
        let message = after(&[
            ("bob", react("x", true)),
            ("bob", react("y", true)),
            ("carol", react("x", true)),
            ("bob", react("x", true)),
            ("bob", react("y", false)),
            ("dora", react("z", false)),
        ]);
        let [reaction] = &message.reactions[..] else {
            panic!("{:?}", message.reactions);
        };
        assert_eq!(reaction.emoji, "x");
        let users: Vec<_> = reaction.users.iter().map(UserId::as_str).collect();
        assert_eq!(users, ["bob", "carol"]);
    }
}
