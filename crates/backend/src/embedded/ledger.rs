//! What the writer knows about the log, and the statements that make it longer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use protocol::{Event, EventBody, RoomId, Seq, Timestamp, UserId};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::codec::{self, kind};
use super::rows;
use crate::log::{Append, Appended};
use crate::{Error, Result};

/// A clock that is further behind the last event of a room than this was wrong then, or is now.
const CLOCK_BEHIND_MAX_MS: i64 = 60_000;

/// Rooms and users kept in memory each; past that all are forgotten and learnt again.
const NAMES_MAX: usize = 100_000;

pub(super) struct Ledger {
    rooms: HashMap<RoomId, Room>,
    users: HashMap<UserId, i64>,
    /// Rooms whose head moved in the present transaction.
    moved: HashSet<RoomId>,
    /// Forgotten rooms of which events are left.
    purges: Vec<i64>,
    /// The last ordinal given out.
    n: i64,
    /// A clock that went back was reported.
    clock_reported: bool,
}

#[derive(Clone, Copy)]
struct Room {
    no: i64,
    head: Seq,
    /// The time of the head. Kept for each room: a clock that was ahead once stops the time of those rooms only in
    /// which something happened meanwhile.
    at: Timestamp,
    forgotten: bool,
}

impl Room {
    fn empty(no: i64, forgotten: bool) -> Self {
        Self {
            no,
            head: Seq::ZERO,
            at: Timestamp::from_millis(i64::MIN),
            forgotten,
        }
    }
}

/// The ordinal of the last change of the log.
fn last_n(connection: &Connection) -> Result<i64> {
    let sql = "SELECT max(coalesce((SELECT max(n) FROM events), 0),
                          coalesce((SELECT max(forgotten_n) FROM rooms), 0))";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

fn set_forgotten(connection: &Connection, room: i64, n: i64) -> Result<()> {
    connection
        .prepare_cached("UPDATE rooms SET forgotten_n = ?2 WHERE no = ?1")?
        .execute([room, n])?;
    Ok(())
}

impl Ledger {
    /// Reads how far the log goes.
    pub fn load(connection: &Connection) -> Result<Self> {
        let purges = connection
            .prepare(
                "SELECT no FROM rooms WHERE forgotten_n IS NOT NULL
                   AND EXISTS (SELECT 1 FROM events WHERE room = no)",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        Ok(Self {
            rooms: HashMap::new(),
            users: HashMap::new(),
            moved: HashSet::new(),
            purges,
            n: last_n(connection)?,
            clock_reported: false,
        })
    }

    /// The ordinal of the last change of the log.
    pub fn n(&self) -> i64 {
        self.n
    }

    /// The heads that the transaction moved.
    pub fn take_moved(&mut self) -> Vec<(RoomId, Seq)> {
        let rooms = &self.rooms;
        let head = |room: RoomId| rooms.get(&room).map(|known| (room, known.head));
        self.moved.drain().filter_map(head).collect()
    }

    /// Keeps memory bounded. Not within a transaction.
    pub fn trim(&mut self) {
        if self.rooms.len() > NAMES_MAX {
            self.rooms.clear();
        }
        if self.users.len() > NAMES_MAX {
            self.users.clear();
        }
    }

    /// Writes the event, or finds the one that was written before.
    pub fn append(&mut self, connection: &Connection, append: Append) -> Result<Appended> {
        let room = self.room(connection, &append.room)?;
        if room.forgotten {
            return Err(Error::NotFound(format!("room {}", append.room)));
        }
        let user = self.user(connection, &append.from)?;
        if let EventBody::Edit { target, .. } | EventBody::Reaction { target, .. } = append.body
            && is_deleted(connection, room.no, target)?
        {
            // The first answer is also that of a retry, whatever happened to the message meanwhile.
            let gone = Error::NotFound(format!("there is no message {target} in this room"));
            return known(connection, room.no, user, append)?.ok_or(gone);
        }
        let columns = codec::encode(&append.body)?;
        let seq = room.head.next();
        let n = self.n + 1;
        let at = self.time_in(&room, &append.room);
        let id = append.id.as_uuid();
        let written = connection
            .prepare_cached(
                "INSERT INTO events (room, seq, n, at, user, id, kind, target, text, extra)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                 ON CONFLICT (id, room, user) DO NOTHING",
            )?
            .execute(params![
                room.no,
                seq.get().cast_signed(),
                n,
                at.as_millis(),
                user,
                id.as_bytes().as_slice(),
                columns.kind,
                columns.target.map(|target| target.get().cast_signed()),
                columns.text,
                columns.extra,
            ])?;
        if written == 0 {
            return known(connection, room.no, user, append)?
                .ok_or_else(|| Error::unavailable("an act is neither new nor known"));
        }
        self.n = n;
        match self.rooms.get_mut(&append.room) {
            Some(known) => (known.head, known.at) = (seq, at),
            None => return Err(Error::unavailable("the room was lost from memory")),
        }
        if !self.moved.contains(&append.room) {
            self.moved.insert(append.room.clone());
        }
        let event = Event {
            room: append.room,
            seq,
            prev: Some(seq.before()),
            at,
            from: Some(append.from),
            id: Some(append.id),
            body: append.body,
        };
        Ok(Appended {
            event: Arc::new(event),
            duplicate: false,
        })
    }

    /// The time of the next event: now, and never before the one before it.
    fn time_in(&mut self, room: &Room, id: &RoomId) -> Timestamp {
        let now = Timestamp::now();
        let behind_ms = room.at.as_millis().saturating_sub(now.as_millis());
        if behind_ms > CLOCK_BEHIND_MAX_MS && !self.clock_reported {
            self.clock_reported = true;
            tracing::error!(
                room.id = %id, behind_ms,
                "the clock is behind the last event of a room; the time of such rooms stands still until it has caught up"
            );
        }
        now.max(room.at)
    }

    /// Closes the room's log for ever. Its events go away in slices, see [`Ledger::purge`].
    pub fn forget(&mut self, connection: &Connection, room: &RoomId) -> Result<()> {
        let known = self.room(connection, room)?;
        if known.forgotten {
            return Ok(());
        }
        self.n += 1;
        set_forgotten(connection, known.no, self.n)?;
        self.purges.push(known.no);
        self.rooms.insert(room.clone(), Room::empty(known.no, true));
        self.moved.insert(room.clone());
        Ok(())
    }

    /// Whether events of forgotten rooms are left.
    pub fn has_purges(&self) -> bool {
        !self.purges.is_empty()
    }

    /// Removes some of them.
    pub fn purge(&mut self, connection: &Connection, rows: usize) -> Result<()> {
        let Some(&room) = self.purges.last() else {
            return Ok(());
        };
        let removed = connection
            .prepare_cached(
                "DELETE FROM events WHERE room = ?1 AND seq <= (
                     SELECT max(seq) FROM (SELECT seq FROM events WHERE room = ?1 ORDER BY seq LIMIT ?2))",
            )?
            .execute([room, rows::limit(rows)])?;
        if removed < rows {
            self.purges.pop();
        }
        Ok(())
    }

    fn room(&mut self, connection: &Connection, id: &RoomId) -> Result<Room> {
        if let Some(room) = self.rooms.get(id) {
            return Ok(*room);
        }
        let found = connection
            .prepare_cached("SELECT no, forgotten_n IS NOT NULL FROM rooms WHERE id = ?1")?
            .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let room = match found {
            Some((no, true)) => Room::empty(no, true),
            Some((no, false)) => with_head(connection, no)?,
            None => {
                let sql = "INSERT INTO rooms (id) VALUES (?1) RETURNING no";
                Room::empty(new_no(connection.prepare_cached(sql)?, id.as_str())?, false)
            }
        };
        self.rooms.insert(id.clone(), room);
        Ok(room)
    }

    fn user(&mut self, connection: &Connection, id: &UserId) -> Result<i64> {
        if let Some(no) = self.users.get(id) {
            return Ok(*no);
        }
        let found = connection
            .prepare_cached("SELECT no FROM users WHERE id = ?1")?
            .query_row([id.as_str()], |row| row.get(0))
            .optional()?;
        let no = match found {
            Some(no) => no,
            None => new_no(
                connection.prepare_cached("INSERT INTO users (id) VALUES (?1) RETURNING no")?,
                id.as_str(),
            )?,
        };
        self.users.insert(id.clone(), no);
        Ok(no)
    }
}

/// The room as its last event left it.
fn with_head(connection: &Connection, no: i64) -> Result<Room> {
    let last: Option<(i64, i64)> = connection
        .prepare_cached("SELECT seq, at FROM events WHERE room = ?1 ORDER BY seq DESC LIMIT 1")?
        .query_row([no], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let mut room = Room::empty(no, false);
    if let Some((seq, at)) = last {
        (room.head, room.at) = (rows::seq(seq)?, Timestamp::from_millis(at));
    }
    Ok(room)
}

fn new_no(mut insert: CachedStatement<'_>, id: &str) -> Result<i64> {
    Ok(insert.query_row([id], |row| row.get(0))?)
}

fn is_deleted(connection: &Connection, room: i64, seq: Seq) -> Result<bool> {
    let sql = "SELECT 1 FROM events WHERE room = ?1 AND target = ?2 AND kind = ?3";
    Ok(connection.prepare_cached(sql)?.exists(params![
        room,
        seq.get().cast_signed(),
        kind::DELETE
    ])?)
}

/// The event that the same act got when it came first.
fn known(
    connection: &Connection,
    room: i64,
    user: i64,
    append: Append,
) -> Result<Option<Appended>> {
    let id = append.id.as_uuid();
    let found = connection
        .prepare_cached(
            "SELECT seq, at, kind, target, text, extra FROM events
             WHERE room = ?1 AND user = ?2 AND id = ?3",
        )?
        .query_row(params![room, user, id.as_bytes().as_slice()], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                rows::columns(row, 2).and_then(codec::decode),
            ))
        })
        .optional()?;
    let Some((seq, at, body)) = found else {
        return Ok(None);
    };
    let body = body?;
    if body != append.body {
        return Err(Error::Conflict(format!(
            "the id {} was used before with other content",
            append.id
        )));
    }
    let seq = rows::seq(seq)?;
    Ok(Some(Appended {
        event: Arc::new(Event {
            room: append.room,
            seq,
            prev: Some(seq.before()),
            at: Timestamp::from_millis(at),
            from: Some(append.from),
            id: Some(append.id),
            body,
        }),
        duplicate: true,
    }))
}
