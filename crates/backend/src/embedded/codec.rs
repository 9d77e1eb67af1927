//! How an event's body lies in columns.

use std::borrow::Cow;

use protocol::{EventBody, MemberChange, Meta, Role, RoomChange, Seq, UserId};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Numbers of the `kind` column. Never changed, only added.
pub(super) mod kind {
    pub const MESSAGE: i64 = 1;
    pub const EDIT: i64 = 2;
    pub const DELETE: i64 = 3;
    pub const REACTION_ON: i64 = 4;
    pub const REACTION_OFF: i64 = 5;
    pub const MEMBER: i64 = 6;
    pub const ROOM: i64 = 7;
}

/// A body as its columns.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Columns<'a> {
    pub kind: i64,
    pub target: Option<Seq>,
    pub text: Option<Cow<'a, str>>,
    pub extra: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct MessageExtra {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<Meta>,
}

#[derive(Serialize, Deserialize)]
struct MemberExtra {
    user: UserId,
    change: MemberChange,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
}

#[derive(Serialize, Deserialize)]
struct RoomExtra {
    change: RoomChange,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
}

/// The columns of a body. Fences and voids have none: a log that is kept in one place never jumps.
pub(super) fn encode(body: &EventBody) -> Result<Columns<'_>> {
    let columns = |kind, target, text, extra| Columns {
        kind,
        target,
        text,
        extra,
    };
    Ok(match body {
        EventBody::Message {
            text,
            reply_to,
            meta,
        } => {
            let extra = (reply_to.is_some() || meta.is_some()).then(|| {
                json(&MessageExtra {
                    reply_to: *reply_to,
                    meta: meta.clone(),
                })
            });
            columns(kind::MESSAGE, None, Some(text.into()), extra.transpose()?)
        }
        EventBody::Edit { target, text } => {
            columns(kind::EDIT, Some(*target), Some(text.into()), None)
        }
        EventBody::Delete { target } => columns(kind::DELETE, Some(*target), None, None),
        EventBody::Reaction { target, emoji, on } => {
            let kind = if *on {
                kind::REACTION_ON
            } else {
                kind::REACTION_OFF
            };
            columns(kind, Some(*target), Some(emoji.into()), None)
        }
        EventBody::Member { user, change, role } => {
            let extra = json(&MemberExtra {
                user: user.clone(),
                change: *change,
                role: *role,
            })?;
            columns(kind::MEMBER, None, None, Some(extra))
        }
        EventBody::Room {
            change,
            name,
            topic,
        } => {
            let extra = json(&RoomExtra {
                change: *change,
                name: name.clone(),
                topic: topic.clone(),
            })?;
            columns(kind::ROOM, None, None, Some(extra))
        }
        EventBody::Fence {} | EventBody::Void {} => {
            return Err(Error::Refused(
                "fences and voids are not for callers to append".to_owned(),
            ));
        }
    })
}

fn json<T: Serialize>(value: &T) -> Result<Cow<'static, str>> {
    serde_json::to_string(value)
        .map(Cow::Owned)
        .map_err(|e| Error::Refused(format!("the event cannot be written: {e}")))
}

/// The body that was kept in these columns.
pub(super) fn decode(columns: Columns<'_>) -> Result<EventBody> {
    let Columns {
        kind,
        target,
        text,
        extra,
    } = columns;
    let target = || target.ok_or_else(|| lacks("target"));
    let text = || text.map(Cow::into_owned).ok_or_else(|| lacks("text"));
    Ok(match kind {
        kind::MESSAGE => {
            let MessageExtra { reply_to, meta } = match extra {
                Some(extra) => parse(&extra)?,
                None => MessageExtra {
                    reply_to: None,
                    meta: None,
                },
            };
            EventBody::Message {
                text: text()?,
                reply_to,
                meta,
            }
        }
        kind::EDIT => EventBody::Edit {
            target: target()?,
            text: text()?,
        },
        kind::DELETE => EventBody::Delete { target: target()? },
        kind::REACTION_ON | kind::REACTION_OFF => EventBody::Reaction {
            target: target()?,
            emoji: text()?,
            on: kind == kind::REACTION_ON,
        },
        kind::MEMBER => {
            let MemberExtra { user, change, role } = parse(&extra.ok_or_else(|| lacks("extra"))?)?;
            EventBody::Member { user, change, role }
        }
        kind::ROOM => {
            let RoomExtra {
                change,
                name,
                topic,
            } = parse(&extra.ok_or_else(|| lacks("extra"))?)?;
            EventBody::Room {
                change,
                name,
                topic,
            }
        }
        other => return Err(Error::Corrupt(format!("an event of unknown kind {other}"))),
    })
}

fn lacks(column: &str) -> Error {
    Error::Corrupt(format!("an event lacks its {column}"))
}

fn parse<'a, T: Deserialize<'a>>(extra: &'a str) -> Result<T> {
    serde_json::from_str(extra).map_err(|e| Error::Corrupt(format!("an event's extra: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_comes_back() {
        let user = UserId::parse("bob").unwrap();
        let seq = Seq::new(7).unwrap();
        let bodies = [
            EventBody::Message {
                text: "a\u{0}b 👍".into(),
                reply_to: None,
                meta: None,
            },
            EventBody::Message {
                text: String::new(),
                reply_to: Some(seq),
                meta: Some([("k".to_owned(), "v".to_owned())].into()),
            },
            EventBody::Edit {
                target: seq,
                text: "x".into(),
            },
            EventBody::Delete { target: seq },
            EventBody::Reaction {
                target: seq,
                emoji: "👍".into(),
                on: true,
            },
            EventBody::Reaction {
                target: seq,
                emoji: "👍".into(),
                on: false,
            },
            EventBody::Member {
                user,
                change: MemberChange::Role,
                role: Some(Role::Admin),
            },
            EventBody::Room {
                change: RoomChange::Renamed,
                name: Some("n".into()),
                topic: None,
            },
        ];
        for body in bodies {
            assert_eq!(decode(encode(&body).unwrap()).unwrap(), body);
        }
        assert!(encode(&EventBody::Fence {}).is_err());
    }
}
