//! Reads of the directory's tables.

use protocol::{MessageId, Role, RoomId, Timestamp, UserId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{codec, rows};
use crate::directory::{Member, Room, RoomFilter, RoomKind};
use crate::log::Append;
use crate::{Error, Result};

/// The columns that [`read_room`] reads, of a `rooms` named `r`.
macro_rules! room_columns {
    () => {
        "r.id, r.kind, r.name, r.topic, r.created_at, r.members, r.pair_a, r.pair_b"
    };
}

/// The columns that [`read_member`] reads, of a `members` named `m`.
macro_rules! member_columns {
    () => {
        "m.user, m.role, m.joined_at, m.received, m.read"
    };
}

/// A room that is in the directory, and its number.
pub(super) fn room(connection: &Connection, id: &RoomId) -> Result<Option<(i64, Room)>> {
    connection
        .prepare_cached(concat!(
            "SELECT ",
            room_columns!(),
            ", r.no FROM rooms r WHERE r.id = ?1 AND r.state = 1"
        ))?
        .query_row([id.as_str()], |row| Ok((row.get(8)?, read_room(row))))
        .optional()?
        .map(|(no, room)| Ok((no, room?)))
        .transpose()
}

/// The room of a pair.
pub(super) fn direct(connection: &Connection, pair: &(UserId, UserId)) -> Result<Option<Room>> {
    connection
        .prepare_cached(concat!(
            "SELECT ",
            room_columns!(),
            " FROM rooms r WHERE r.pair_a = ?1 AND r.pair_b = ?2"
        ))?
        .query_row([pair.0.as_str(), pair.1.as_str()], |row| Ok(read_room(row)))
        .optional()?
        .transpose()
}

pub(super) fn member(connection: &Connection, room: i64, user: &UserId) -> Result<Option<Member>> {
    connection
        .prepare_cached(concat!(
            "SELECT ",
            member_columns!(),
            " FROM members m WHERE m.room = ?1 AND m.user = ?2"
        ))?
        .query_row(params![room, user.as_str()], |row| Ok(read_member(row, 0)))
        .optional()?
        .transpose()
}

pub(super) fn members(
    connection: &Connection,
    room: i64,
    after: Option<&UserId>,
    limit: usize,
) -> Result<Vec<Member>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        member_columns!(),
        " FROM members m WHERE m.room = ?1 AND m.user > ?2 ORDER BY m.user LIMIT ?3"
    ))?;
    let after = after.map_or("", UserId::as_str);
    let mut found = statement.query(params![room, after, rows::limit(limit)])?;
    let mut members = Vec::new();
    while let Some(row) = found.next()? {
        members.push(read_member(row, 0)?);
    }
    Ok(members)
}

pub(super) fn rooms(
    connection: &Connection,
    user: &UserId,
    filter: &RoomFilter,
) -> Result<Vec<(Room, Option<Member>)>> {
    let sql = if filter.mine {
        concat!(
            "SELECT ",
            room_columns!(),
            ", ",
            member_columns!(),
            " FROM members m JOIN rooms r ON r.no = m.room
             WHERE m.user = ?1 AND r.state = 1 AND r.id > ?2
               AND (?3 IS NULL OR r.kind = ?3) AND (?4 IS NULL OR instr(r.folded, ?4) > 0)
             ORDER BY r.id LIMIT ?5"
        )
    } else {
        concat!(
            "SELECT ",
            room_columns!(),
            ", ",
            member_columns!(),
            " FROM rooms r LEFT JOIN members m ON m.room = r.no AND m.user = ?1
             WHERE r.state = 1 AND r.id > ?2 AND (r.kind = 0 OR m.user IS NOT NULL)
               AND (?3 IS NULL OR r.kind = ?3) AND (?4 IS NULL OR instr(r.folded, ?4) > 0)
             ORDER BY r.id LIMIT ?5"
        )
    };
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query(params![
        user.as_str(),
        filter.after.as_ref().map_or("", RoomId::as_str),
        filter.kind.map(kind_number),
        filter.text.as_ref().map(|text| text.to_lowercase()),
        rows::limit(filter.limit),
    ])?;
    let mut rooms = Vec::new();
    while let Some(row) = found.next()? {
        let is_member = row.get::<_, Option<String>>(8)?.is_some();
        let member = is_member.then(|| read_member(row, 8)).transpose()?;
        rooms.push((read_room(row)?, member));
    }
    Ok(rooms)
}

pub(super) fn room_ids(
    connection: &Connection,
    user: &UserId,
    after: Option<&RoomId>,
    limit: usize,
) -> Result<Vec<RoomId>> {
    let mut statement = connection.prepare_cached(
        "SELECT r.id FROM members m JOIN rooms r ON r.no = m.room
         WHERE m.user = ?1 AND r.state = 1 AND r.id > ?2 ORDER BY r.id LIMIT ?3",
    )?;
    let mut found = statement.query(params![
        user.as_str(),
        after.map_or("", RoomId::as_str),
        rows::limit(limit),
    ])?;
    let mut ids = Vec::new();
    while let Some(row) = found.next()? {
        let id: String = row.get(0)?;
        ids.push(rows::room(&id)?);
    }
    Ok(ids)
}

pub(super) fn unannounced(connection: &Connection, limit: usize) -> Result<Vec<Append>> {
    let mut statement = connection.prepare_cached(
        "SELECT r.id, a.user, a.id, a.kind, NULL, NULL, a.extra
         FROM announcements a JOIN rooms r ON r.no = a.room ORDER BY a.no LIMIT ?1",
    )?;
    let mut found = statement.query([rows::limit(limit)])?;
    let mut appends = Vec::new();
    while let Some(row) = found.next()? {
        let room: String = row.get(0)?;
        let from: String = row.get(1)?;
        appends.push(Append {
            room: rows::room(&room)?,
            from: rows::user(&from)?,
            id: MessageId::from_bytes(row.get(2)?),
            body: codec::decode(rows::columns(row, 3)?)?,
        });
    }
    Ok(appends)
}

fn read_room(row: &Row<'_>) -> Result<Room> {
    let id: String = row.get(0)?;
    let pair: (Option<String>, Option<String>) = (row.get(6)?, row.get(7)?);
    Ok(Room {
        id: rows::room(&id)?,
        kind: kind_of(row.get(1)?)?,
        name: row.get(2)?,
        topic: row.get(3)?,
        created_at: Timestamp::from_millis(row.get(4)?),
        members: row.get::<_, i64>(5)?.unsigned_abs(),
        pair: match pair {
            (Some(a), Some(b)) => Some((rows::user(&a)?, rows::user(&b)?)),
            _ => None,
        },
    })
}

fn read_member(row: &Row<'_>, at: usize) -> Result<Member> {
    let user: String = row.get(at)?;
    Ok(Member {
        user: rows::user(&user)?,
        role: role_of(row.get(at + 1)?)?,
        joined_at: Timestamp::from_millis(row.get(at + 2)?),
        received: rows::seq(row.get(at + 3)?)?,
        read: rows::seq(row.get(at + 4)?)?,
    })
}

pub(super) fn kind_number(kind: RoomKind) -> i64 {
    match kind {
        RoomKind::Public => 0,
        RoomKind::Private => 1,
        RoomKind::Direct => 2,
    }
}

fn kind_of(number: i64) -> Result<RoomKind> {
    match number {
        0 => Ok(RoomKind::Public),
        1 => Ok(RoomKind::Private),
        2 => Ok(RoomKind::Direct),
        other => Err(Error::Corrupt(format!("a room of unknown kind {other}"))),
    }
}

pub(super) fn role_number(role: Role) -> i64 {
    match role {
        Role::Member => 0,
        Role::Admin => 1,
        Role::Owner => 2,
    }
}

fn role_of(number: i64) -> Result<Role> {
    match number {
        0 => Ok(Role::Member),
        1 => Ok(Role::Admin),
        2 => Ok(Role::Owner),
        other => Err(Error::Corrupt(format!("a member of unknown role {other}"))),
    }
}
