//! Events as Redis keeps them, and its answers.

use std::sync::Arc;

use ::redis::Value;
use protocol::{Event, EventBody, MessageId, RoomId, Seq, Timestamp, UserId};

use crate::{Error, Result};

fn corrupt(what: &str) -> Error {
    Error::Corrupt(format!("redis: {what} is not what was written"))
}

pub fn number(value: &Value) -> Result<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| corrupt("a number")),
        other => text(other)?.parse().map_err(|_| corrupt("a number")),
    }
}

pub fn text(value: &Value) -> Result<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| corrupt("a text")),
        Value::SimpleString(text) => Ok(text),
        Value::Okay => Ok("OK"),
        _ => Err(corrupt("a text")),
    }
}

pub fn list(value: &Value) -> Result<&[Value]> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Nil => Ok(&[]),
        _ => Err(corrupt("a list")),
    }
}

/// The pods of a room.
pub fn pods(value: &Value) -> Result<Arc<[String]>> {
    list(value)?
        .iter()
        .map(|pod| text(pod).map(str::to_owned))
        .collect()
}

/// Entries of a room's stream, in their order.
pub fn events(room: &RoomId, entries: &Value) -> Result<Vec<Arc<Event>>> {
    list(entries)?
        .iter()
        .map(|entry| event(room, entry).map(Arc::new))
        .collect()
}

fn event(room: &RoomId, entry: &Value) -> Result<Event> {
    let [id, fields] = list(entry)? else {
        return Err(corrupt("an entry"));
    };
    let seq = text(id)?
        .strip_suffix("-0")
        .and_then(|seq| seq.parse().ok());
    let seq = seq.ok_or_else(|| corrupt("an entry's id"))?;
    let fields = list(fields)?;
    let field = |name: &str| {
        fields
            .chunks_exact(2)
            .find(|pair| text(&pair[0]).is_ok_and(|found| found == name))
            .map(|pair| &pair[1])
            .ok_or_else(|| corrupt("an entry"))
    };
    let some = |name: &str| {
        field(name)
            .and_then(text)
            .map(|t| (!t.is_empty()).then_some(t))
    };
    let prev = match some("p")? {
        Some(prev) => Some(place(prev.parse().map_err(|_| corrupt("an entry"))?)?),
        None => None,
    };
    let from = some("f")?.map(UserId::parse).transpose();
    let id = some("i")?.map(MessageId::parse).transpose();
    let body: EventBody =
        serde_json::from_str(text(field("b")?)?).map_err(|_| corrupt("an event's body"))?;
    Ok(Event {
        room: room.clone(),
        seq: place(seq)?,
        prev,
        at: Timestamp::from_millis(number(field("a")?)?.cast_signed()),
        from: from.map_err(|_| corrupt("a user"))?,
        id: id.map_err(|_| corrupt("an id"))?,
        body,
    })
}

/// A number as a place in a log.
pub fn place(number: u64) -> Result<Seq> {
    Seq::new(number).map_err(|_| corrupt("a seq"))
}
