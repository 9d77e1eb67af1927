//! The present words of messages: what edits and deletes make of them, for search.
//!
//! `body` of a message stays as it was written. Beside it, `now` holds the text of its newest edit, and `gone` says that it
//! was deleted.

use std::collections::HashMap;

use ::mongodb as driver;
use driver::bson::{Document as Fields, doc};
use protocol::{Event, EventBody, RoomId, Seq};

use super::document::number;
use super::{EVENTS, Store, place};
use crate::Result;

/// What the newest of several events makes of a message.
enum Change<'a> {
    Text(Seq, &'a str),
    Gone,
}

impl Store {
    /// Applies edits and deletes to the messages they are about, which are stored already: they were shown before
    /// anybody could change them. To be repeated as often as needed.
    pub(super) async fn keep_present(&self, events: &[&Event]) -> Result<()> {
        let mut changes: HashMap<(&RoomId, Seq), Change<'_>> = HashMap::new();
        for event in events {
            match &event.body {
                EventBody::Edit { target, text } => {
                    let key = (&event.room, *target);
                    let is_newer = match changes.get(&key) {
                        None => true,
                        Some(Change::Text(seq, _)) => *seq < event.seq,
                        Some(Change::Gone) => false,
                    };
                    if is_newer {
                        changes.insert(key, Change::Text(event.seq, text));
                    }
                }
                EventBody::Delete { target } => {
                    changes.insert((&event.room, *target), Change::Gone);
                }
                _ => {}
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let updates: Vec<Fields> = changes
            .into_iter()
            .map(|((room, target), change)| update(room, target, &change))
            .collect();
        // One command for all: the driver's own has a round trip for each.
        let concern = doc! { "w": "majority", "j": true };
        for updates in updates.chunks(1000) {
            let command = doc! {
                "update": EVENTS, "updates": updates.to_vec(), "ordered": false, "writeConcern": concern.clone(),
            };
            let call = self.mongo.database().run_command(command);
            let answer = self
                .mongo
                .run_within(super::insert::BATCH_WITHIN, call)
                .await?;
            if let Ok(errors) = answer.get_array("writeErrors") {
                return Err(crate::Error::unavailable(format!(
                    "mongodb: {} edits were not applied",
                    errors.len()
                )));
            }
        }
        Ok(())
    }
}

fn update(room: &RoomId, target: Seq, change: &Change<'_>) -> Fields {
    let at = place(room, target);
    match change {
        Change::Gone => doc! {
            "q": { "_id": at, "body.kind": "message" },
            "u": { "$set": { "gone": true } },
        },
        Change::Text(seq, text) => {
            let seq = number(*seq);
            doc! {
                "q": { "_id": at, "body.kind": "message", "gone": { "$exists": false }, "now.seq": { "$not": { "$gte": seq } } },
                "u": { "$set": { "now": { "seq": seq, "text": *text } } },
            }
        }
    }
}
