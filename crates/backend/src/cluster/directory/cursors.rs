//! Cursors live in the documents of the members and only go up, so that no order among those who move them is needed.

use std::collections::BTreeMap;

use bson::{Document, doc};
use mongodb::bson;
use protocol::{RoomId, Seq, UserId};
use serde::{Deserialize, Serialize};

use super::Inner;
use super::documents::{MEMBERS, MemberKey};
use super::queries::document;
use super::sessions::in_time;
use crate::directory::Cursor;
use crate::{Error, Result};

/// Cursors in one command.
const TOGETHER_MAX: usize = 1000;

/// Whose cursor, and where `received` and `read` are at least.
type CursorMoved = ((RoomId, UserId), (Seq, Seq));

/// The command `update`.
#[derive(Serialize)]
struct Update {
    update: &'static str,
    updates: Vec<One>,
    ordered: bool,
    #[serde(rename = "writeConcern")]
    write_concern: Concern,
}

#[derive(Serialize)]
struct Concern {
    w: &'static str,
    j: bool,
}

#[derive(Serialize)]
struct One {
    q: ById,
    u: Max,
}

#[derive(Serialize)]
struct ById {
    #[serde(rename = "_id")]
    key: MemberKey,
}

#[derive(Serialize)]
struct Max {
    #[serde(rename = "$max")]
    max: Moved,
}

#[derive(Serialize)]
struct Moved {
    received: i64,
    read: i64,
}

/// What the command answers when something is wrong.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "writeErrors", default)]
    errors: Vec<Document>,
    #[serde(rename = "writeConcernError")]
    concern: Option<Document>,
}

impl Inner {
    pub async fn advance(&self, cursors: Vec<Cursor>) -> Result<()> {
        let mut moved: BTreeMap<(RoomId, UserId), (Seq, Seq)> = BTreeMap::new();
        for cursor in cursors {
            let one = moved.entry((cursor.room, cursor.user)).or_default();
            // What was read was received too.
            *one = (
                one.0.max(cursor.received).max(cursor.read),
                one.1.max(cursor.read),
            );
        }
        let moved: Vec<CursorMoved> = moved.into_iter().collect();
        for moved in moved.chunks(TOGETHER_MAX) {
            let kept = self.keep_cursors(moved).await;
            if kept.is_ok() {
                let keys = moved.iter().map(|((room, user), (received, read))| {
                    let key = self.shared.member_key(room, user);
                    (key, number(*received), number(*read))
                });
                self.shared.advance(keys).await;
            }
            // Also when it is not known whether they were kept: what is true is read again then.
            for (key, (received, read)) in moved {
                match kept {
                    Ok(()) => self.members.update(key, |member| {
                        if let Some(member) = member {
                            member.received = member.received.max(*received);
                            member.read = member.read.max(*read);
                        }
                    }),
                    Err(_) => self.members.forget(key),
                }
            }
            kept?;
        }
        Ok(())
    }

    async fn keep_cursors(&self, moved: &[CursorMoved]) -> Result<()> {
        let updates = moved.iter().map(|((room, user), (received, read))| One {
            q: ById {
                key: MemberKey {
                    room: room.clone(),
                    user: user.clone(),
                },
            },
            u: Max {
                max: Moved {
                    received: number(*received),
                    read: number(*read),
                },
            },
        });
        let command = document(&Update {
            update: MEMBERS,
            updates: updates.collect(),
            ordered: false,
            write_concern: Concern {
                w: "majority",
                j: true,
            },
        })?;
        in_time(async {
            let _permit = self.sessions.permit().await?;
            let mut session = self.sessions.open().await?;
            let sent = self
                .sessions
                .mongo
                .database()
                .run_command(command)
                .session(&mut session);
            let answer = self.sessions.mongo.run(sent).await?;
            let answer: Answer = bson::deserialize_from_document(answer)
                .map_err(|e| Error::Corrupt(format!("mongodb: {e}")))?;
            if let Some(error) = answer.errors.first().or(answer.concern.as_ref()) {
                return Err(Error::unavailable(format!(
                    "mongodb: a cursor was not kept: {error}"
                )));
            }
            self.sessions.changed(&session);
            Ok(())
        })
        .await
    }
}

fn number(seq: Seq) -> i64 {
    i64::try_from(seq.get()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_value_in_the_command() {
        let update = Update {
            update: MEMBERS,
            updates: vec![One {
                q: ById {
                    key: MemberKey {
                        room: RoomId::parse("general").unwrap(),
                        user: UserId::parse("alice").unwrap(),
                    },
                },
                u: Max {
                    max: Moved {
                        received: 2,
                        read: 1,
                    },
                },
            }],
            ordered: false,
            write_concern: Concern {
                w: "majority",
                j: true,
            },
        };
        let expected = doc! {
            "update": "members",
            "updates": [{
                "q": { "_id": { "room": "general", "user": "alice" } },
                "u": { "$max": { "received": 2_i64, "read": 1_i64 } },
            }],
            "ordered": false,
            "writeConcern": { "w": "majority", "j": true },
        };
        assert_eq!(document(&update).unwrap(), expected);
    }
}
