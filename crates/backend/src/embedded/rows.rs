//! From columns to the values of the protocol.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use protocol::{Event, MessageId, RoomId, Seq, Timestamp, UserId};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::codec::{self, Columns};
use crate::{Error, Result};

/// User names kept by one reader; past that all are forgotten and read again.
const NAMES_MAX: usize = 50_000;

/// Names of user numbers.
#[derive(Default)]
pub(super) struct Names(HashMap<i64, UserId>);

impl Names {
    pub fn user(&mut self, connection: &Connection, no: i64) -> Result<UserId> {
        if let Some(name) = self.0.get(&no) {
            return Ok(name.clone());
        }
        let name: String = connection
            .prepare_cached("SELECT id FROM users WHERE no = ?1")?
            .query_row([no], |row| row.get(0))?;
        let name = user(&name)?;
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        self.0.insert(no, name.clone());
        Ok(name)
    }
}

/// An event from a row `seq, at, user, id, kind, target, text, extra`.
pub(super) fn event(
    connection: &Connection,
    names: &mut Names,
    room: &RoomId,
    row: &Row<'_>,
) -> Result<Arc<Event>> {
    let seq = seq(row.get(0)?)?;
    Ok(Arc::new(Event {
        room: room.clone(),
        seq,
        prev: Some(seq.before()),
        at: Timestamp::from_millis(row.get(1)?),
        from: Some(names.user(connection, row.get(2)?)?),
        id: Some(MessageId::from_bytes(row.get(3)?)),
        body: codec::decode(columns(row, 4)?)?,
    }))
}

/// The columns `kind, target, text, extra` from `at` on.
pub(super) fn columns<'a>(row: &'a Row<'_>, at: usize) -> Result<Columns<'a>> {
    let target: Option<i64> = row.get(at + 1)?;
    Ok(Columns {
        kind: row.get(at)?,
        target: target.map(seq).transpose()?,
        text: text(row.get_ref(at + 2)?)?,
        extra: text(row.get_ref(at + 3)?)?,
    })
}

fn text(value: ValueRef<'_>) -> Result<Option<Cow<'_, str>>> {
    value
        .as_str_or_null()
        .map(|text| text.map(Cow::Borrowed))
        .map_err(|e| Error::Corrupt(format!("a text: {e}")))
}

pub(super) fn seq(number: i64) -> Result<Seq> {
    u64::try_from(number)
        .ok()
        .and_then(|number| Seq::new(number).ok())
        .ok_or_else(|| Error::Corrupt(format!("{number} is no seq")))
}

pub(super) fn user(text: &str) -> Result<UserId> {
    UserId::parse(text).map_err(|e| Error::Corrupt(format!("{text:?}: {e}")))
}

pub(super) fn room(text: &str) -> Result<RoomId> {
    RoomId::parse(text).map_err(|e| Error::Corrupt(format!("{text:?}: {e}")))
}

/// A number of rows, for `LIMIT`.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
