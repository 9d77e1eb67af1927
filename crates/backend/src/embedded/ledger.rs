//! What the writer knows about the log, and the statements that make it longer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use protocol::{Event, EventBody, RoomId, Seq, Timestamp, UserId};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::codec::{self, kind};
use super::rows;
use crate::log::{Append, Appended};
use crate::{Error, Result};

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
    /// The last time given out.
    at: Timestamp,
}

#[derive(Clone, Copy)]
struct Room {
    no: i64,
    head: Seq,
    forgotten: bool,
}

impl Ledger {
    /// Reads how far the log goes.
    pub fn load(connection: &Connection) -> Result<Self> {
        let last: Option<(i64, i64)> = connection
            .query_row(
                "SELECT n, at FROM events ORDER BY n DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let forgotten: Option<i64> =
            connection.query_row("SELECT max(forgotten_n) FROM rooms", [], |row| row.get(0))?;
        let purges = connection
            .prepare(
                "SELECT no FROM rooms WHERE forgotten_n IS NOT NULL
                   AND EXISTS (SELECT 1 FROM events WHERE room = no)",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        let (n, at) = last.unwrap_or((0, i64::MIN));
        Ok(Self {
            rooms: HashMap::new(),
            users: HashMap::new(),
            moved: HashSet::new(),
            purges,
            n: n.max(forgotten.unwrap_or(0)),
            at: Timestamp::from_millis(at),
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
        let at = Timestamp::now().max(self.at);
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
        self.at = at;
        match self.rooms.get_mut(&append.room) {
            Some(known) => known.head = seq,
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

    /// Closes the room's log for ever. Its events go away in slices, see [`Ledger::purge`].
    pub fn forget(&mut self, connection: &Connection, room: &RoomId) -> Result<()> {
        let known = self.room(connection, room)?;
        if known.forgotten {
            return Ok(());
        }
        self.n += 1;
        connection
            .prepare_cached("UPDATE rooms SET forgotten_n = ?2 WHERE no = ?1")?
            .execute([known.no, self.n])?;
        connection
            .prepare_cached("DELETE FROM announcements WHERE room = ?1")?
            .execute([known.no])?;
        self.purges.push(known.no);
        let gone = Room {
            head: Seq::ZERO,
            forgotten: true,
            ..known
        };
        self.rooms.insert(room.clone(), gone);
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
            .prepare_cached(
                "SELECT no, forgotten_n IS NOT NULL,
                        coalesce((SELECT max(seq) FROM events WHERE room = no), 0)
                 FROM rooms WHERE id = ?1",
            )?
            .query_row([id.as_str()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let room = match found {
            Some((no, true, _)) => Room {
                no,
                head: Seq::ZERO,
                forgotten: true,
            },
            Some((no, false, head)) => Room {
                no,
                head: rows::seq(head)?,
                forgotten: false,
            },
            None => Room {
                no: new_no(
                    connection.prepare_cached("INSERT INTO rooms (id) VALUES (?1) RETURNING no")?,
                    id.as_str(),
                )?,
                head: Seq::ZERO,
                forgotten: false,
            },
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
