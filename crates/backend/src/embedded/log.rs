//! The log on SQLite: appends through the writer, reads through the readers.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use protocol::{Event, MessageId, RoomId, Seq, Timestamp, UserId};
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::Shared;
use super::codec::kind;
use super::readers::{Reader, Readers};
use super::rows;
use super::writer::Writer;
use crate::log::{
    Append, Appended, Page, Passed, REACTIONS_TOTAL_MAX, Step, Way, share_of_reactions,
};
use crate::{Log, Result};

/// Events looked at to learn which messages have any about them.
const WALK_MAX: usize = 1000;

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
                let targets = with_related(&reader.connection, no, targets)?;
                let mut found = Vec::new();
                let mut left = REACTIONS_TOTAL_MAX;
                // People look at the last messages first, and so these choose first.
                for (others, target) in targets.iter().enumerate().rev() {
                    let target = number(*target);
                    for kind in [kind::EDIT, kind::DELETE] {
                        found.extend(events(reader, &room, NEWEST, params![no, target, kind])?);
                    }
                    let share = share_of_reactions(left, others);
                    let reactions = params![no, target, rows::limit(share)];
                    let reactions = events(reader, &room, REACTIONS, reactions)?;
                    left = left.saturating_sub(reactions.len());
                    found.extend(reactions);
                }
                found.sort_unstable_by_key(|event| event.seq);
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

    async fn ways(&self, id: MessageId, rooms: &[RoomId]) -> Result<Vec<Way>> {
        let rooms = rooms.to_vec();
        self.readers
            .read(move |reader| {
                let found: Vec<(i64, String)> = reader
                    .connection
                    .prepare_cached(ROOMS_OF_ID)?
                    .query_map(
                        params![id.as_uuid().as_bytes(), rows::limit(WALK_MAX)],
                        |row| Ok((row.get(0)?, row.get(1)?)),
                    )?
                    .collect::<rusqlite::Result<_>>()?;
                let mut ways = Vec::new();
                for (no, room) in found {
                    let room = rooms.iter().find(|wanted| wanted.as_str() == room);
                    let Some(room) = room else {
                        continue;
                    };
                    let id = id.as_uuid();
                    let of_id = events(reader, room, OF_ID, params![no, id.as_bytes()])?;
                    ways.extend(of_id.into_iter().map(way));
                }
                Ok(ways)
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

/// The rooms in which an id was used.
const ROOMS_OF_ID: &str = "SELECT DISTINCT rooms.no, rooms.id FROM events
    JOIN rooms ON rooms.no = events.room
    WHERE events.id = ?1 AND rooms.forgotten_n IS NULL LIMIT ?2";

/// The events with an id in a room.
const OF_ID: &str =
    "SELECT seq, at, user, id, kind, target, text, extra FROM events INDEXED BY events_act
    WHERE room = ?1 AND id = ?2 ORDER BY seq";

/// What is in the database has been synced, and that is all of its way.
fn way(event: Arc<Event>) -> Way {
    let appended = Passed {
        at: Some(event.at),
        ..Passed::new(Step::Appended, true)
    };
    Way {
        event,
        is_safe: true,
        steps: vec![appended, Passed::new(Step::Persisted, true)],
    }
}

// Left to itself SQLite may take the primary key for these, and so walk through all of a room for one message.

/// The newest event of a kind about a message.
const NEWEST: &str =
    "SELECT seq, at, user, id, kind, target, text, extra FROM events INDEXED BY events_target
    WHERE room = ?1 AND target = ?2 AND kind = ?3 ORDER BY seq DESC LIMIT 1";

/// The newest reactions to a message, put on (4) and taken off (5). Two walks down the index that are merged: one walk
/// over both kinds would gather and sort all there are.
const REACTIONS: &str =
    "SELECT seq, at, user, id, kind, target, text, extra FROM events INDEXED BY events_target
        WHERE room = ?1 AND target = ?2 AND kind = 4
    UNION ALL
    SELECT seq, at, user, id, kind, target, text, extra FROM events INDEXED BY events_target
        WHERE room = ?1 AND target = ?2 AND kind = 5
    ORDER BY seq DESC LIMIT ?3";

/// Those of the messages about which there is anything, as far as one short walk can tell: most have nothing, and three
/// questions about each would cost more than the page itself.
fn with_related(
    connection: &Connection,
    room: i64,
    mut targets: BTreeSet<Seq>,
) -> Result<BTreeSet<Seq>> {
    let (Some(first), Some(last)) = (targets.first(), targets.last()) else {
        return Ok(targets);
    };
    let known: Vec<i64> = connection
        .prepare_cached(
            "SELECT target FROM events INDEXED BY events_target
             WHERE room = ?1 AND target BETWEEN ?2 AND ?3 LIMIT ?4",
        )?
        .query_map(
            params![room, number(*first), number(*last), rows::limit(WALK_MAX)],
            |row| row.get(0),
        )?
        .collect::<rusqlite::Result<_>>()?;
    if known.len() < WALK_MAX {
        targets.retain(|target| known.binary_search(&number(*target)).is_ok());
    }
    Ok(targets)
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
pub(super) fn first_at(connection: &Connection, no: i64, at: Timestamp) -> Result<Seq> {
    let mut probe =
        connection.prepare_cached("SELECT at FROM events WHERE room = ?1 AND seq = ?2")?;
    let (mut low, mut high) = (1, number(head(connection, no)?) + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        // Nothing is there when the room is forgotten at this moment; then any answer will do.
        let time: Option<i64> = probe.query_row([no, middle], |row| row.get(0)).optional()?;
        match time {
            Some(time) if time < at.as_millis() => low = middle + 1,
            _ => high = middle,
        }
    }
    rows::seq(low)
}
