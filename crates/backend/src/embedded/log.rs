//! The log on SQLite: appends through the writer, reads through the readers.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use protocol::{Event, RoomId, Seq, Timestamp, UserId};
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::Shared;
use super::codec::kind;
use super::readers::{Reader, Readers};
use super::rows;
use super::writer::Writer;
use crate::log::{Append, Appended, Page};
use crate::{Log, Result};

/// Edits, deletes and reactions returned per message.
const RELATED_MAX: usize = 1000;

pub(super) struct SqliteLog {
    pub writer: Writer,
    pub readers: Readers,
    pub shared: Arc<Shared>,
    /// Ends the threads when the last port is dropped.
    pub _guard: Arc<super::Guard>,
}

#[async_trait]
impl Log for SqliteLog {
    async fn append(&self, append: Append) -> Result<Appended> {
        self.writer.append(append).await
    }

    async fn read(&self, room: &RoomId, after: Seq, limit: usize) -> Result<Page> {
        let room = room.clone();
        self.readers
            .read(move |reader| {
                let Some(no) = room_no(&reader.connection, &room)? else {
                    return Ok(Page::default());
                };
                let sql = "SELECT seq, at, user, id, kind, target, text, extra FROM events
                           WHERE room = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
                let events = events(
                    reader,
                    &room,
                    sql,
                    params![no, number(after), rows::limit(limit)],
                )?;
                let head = match events.last() {
                    // The room ended before the page did.
                    Some(last) if events.len() < limit => last.seq,
                    _ => head(&reader.connection, no)?,
                };
                Ok(Page { events, head })
            })
            .await
    }

    async fn read_before(&self, room: &RoomId, before: Seq, limit: usize) -> Result<Page> {
        let room = room.clone();
        self.readers
            .read(move |reader| {
                let Some(no) = room_no(&reader.connection, &room)? else {
                    return Ok(Page::default());
                };
                let sql = "SELECT seq, at, user, id, kind, target, text, extra FROM events
                           WHERE room = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3";
                let mut events = events(
                    reader,
                    &room,
                    sql,
                    params![no, number(before), rows::limit(limit)],
                )?;
                events.reverse();
                let head = head(&reader.connection, no)?;
                Ok(Page { events, head })
            })
            .await
    }

    async fn head(&self, room: &RoomId) -> Result<Seq> {
        self.shared.check_open()?;
        let epoch = match self.shared.heads.get(room) {
            Ok(head) => return Ok(head),
            Err(epoch) => epoch,
        };
        let id = room.clone();
        let head = self
            .readers
            .read(move |reader| match room_no(&reader.connection, &id)? {
                Some(no) => head(&reader.connection, no),
                None => Ok(Seq::ZERO),
            })
            .await?;
        self.shared.heads.learn(room, head, epoch);
        Ok(head)
    }

    async fn related(&self, room: &RoomId, targets: &[Seq]) -> Result<Vec<Arc<Event>>> {
        let room = room.clone();
        let targets: BTreeSet<Seq> = targets.iter().copied().collect();
        self.readers
            .read(move |reader| {
                let Some(no) = room_no(&reader.connection, &room)? else {
                    return Ok(Vec::new());
                };
                let most = targets.len() * RELATED_MAX;
                let sql = "SELECT seq, at, user, id, kind, target, text, extra FROM events
                           WHERE room = ?1 AND target = ?2 ORDER BY seq DESC LIMIT ?3";
                let mut found = Vec::new();
                for target in targets {
                    found.extend(events(
                        reader,
                        &room,
                        sql,
                        params![no, number(target), rows::limit(most)],
                    )?);
                }
                found.sort_unstable_by_key(|event| event.seq);
                found.drain(..found.len().saturating_sub(most));
                Ok(found)
            })
            .await
    }

    async fn first_at(&self, room: &RoomId, at: Timestamp) -> Result<Seq> {
        let room = room.clone();
        self.readers
            .read(move |reader| {
                let Some(no) = room_no(&reader.connection, &room)? else {
                    return Ok(Seq::ZERO.next());
                };
                first_at(&reader.connection, no, at)
            })
            .await
    }

    async fn unread(&self, room: &RoomId, user: &UserId, after: Seq, most: u64) -> Result<u64> {
        let room = room.clone();
        let user = user.clone();
        self.readers
            .read(move |reader| {
                let connection = &reader.connection;
                let Some(no) = room_no(connection, &room)? else {
                    return Ok(0);
                };
                let user: Option<i64> = connection
                    .prepare_cached("SELECT no FROM users WHERE id = ?1")?
                    .query_row([user.as_str()], |row| row.get(0))
                    .optional()?;
                let count: i64 = connection
                    .prepare_cached(
                        "SELECT count(*) FROM (SELECT 1 FROM events
                         WHERE room = ?1 AND seq > ?2 AND kind = ?3 AND user IS NOT ?4 LIMIT ?5)",
                    )?
                    .query_row(
                        params![
                            no,
                            number(after),
                            kind::MESSAGE,
                            user,
                            i64::try_from(most).unwrap_or(i64::MAX)
                        ],
                        |row| row.get(0),
                    )?;
                Ok(count.unsigned_abs())
            })
            .await
    }

    async fn forget(&self, room: &RoomId) -> Result<()> {
        self.writer.forget(room.clone()).await
    }
}

fn number(seq: Seq) -> i64 {
    seq.get().cast_signed()
}

/// The number of a room whose log can be read.
fn room_no(connection: &Connection, room: &RoomId) -> Result<Option<i64>> {
    Ok(connection
        .prepare_cached("SELECT no FROM rooms WHERE id = ?1 AND forgotten_n IS NULL")?
        .query_row([room.as_str()], |row| row.get(0))
        .optional()?)
}

fn head(connection: &Connection, no: i64) -> Result<Seq> {
    let head: Option<i64> = connection
        .prepare_cached("SELECT max(seq) FROM events WHERE room = ?1")?
        .query_row([no], |row| row.get(0))?;
    rows::seq(head.unwrap_or(0))
}

/// Events by a query of the columns that `rows::event` reads.
fn events(
    reader: &mut Reader,
    room: &RoomId,
    sql: &str,
    params: impl Params,
) -> Result<Vec<Arc<Event>>> {
    let Reader {
        connection, names, ..
    } = reader;
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query(params)?;
    let mut events = Vec::new();
    while let Some(row) = found.next()? {
        events.push(rows::event(connection, names, room, row)?);
    }
    Ok(events)
}

/// Halves the range of seqs, which works because times never fall in a room.
fn first_at(connection: &Connection, no: i64, at: Timestamp) -> Result<Seq> {
    let mut probe =
        connection.prepare_cached("SELECT at FROM events WHERE room = ?1 AND seq = ?2")?;
    let (mut low, mut high) = (1, number(head(connection, no)?) + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let time: i64 = probe.query_row([no, middle], |row| row.get(0))?;
        if time < at.as_millis() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    rows::seq(low)
}
