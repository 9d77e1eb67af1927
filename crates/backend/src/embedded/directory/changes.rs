//! Changes of the directory's tables. Each runs in a savepoint: an error leaves nothing behind.

use protocol::{EventBody, MemberChange, MessageId, Role, RoomChange, RoomId, Timestamp, UserId};
use rusqlite::{Connection, OptionalExtension, params};

use super::super::cache::Touched;
use super::super::codec;
use super::Done;
use super::queries::{self, kind_number, role_number};
use crate::directory::{Changed, Cursor, Invite, Member, NewRoom, Room, RoomKind, RoomPatch};
use crate::log::Append;
use crate::{Error, Result};

const MEMBERS_MAX: u64 = 100_000;
/// Invites of one room that are good at the same time.
const INVITES_MAX: i64 = 100;
/// The least role that may invite.
const INVITER: Role = Role::Admin;

/// A room in the middle of a change: what is announced and touched gathers here.
struct Work<'a> {
    connection: &'a Connection,
    no: i64,
    room: Room,
    announce: Vec<Append>,
    touched: Vec<Touched>,
}

impl<'a> Work<'a> {
    fn on(connection: &'a Connection, id: &RoomId) -> Result<Self> {
        let (no, room) =
            queries::room(connection, id)?.ok_or_else(|| Error::NotFound(format!("room {id}")))?;
        Ok(Self {
            connection,
            no,
            room,
            announce: Vec::new(),
            touched: Vec::new(),
        })
    }

    fn member(&self, user: &UserId) -> Result<Option<Member>> {
        queries::member(self.connection, self.no, user)
    }

    /// Keeps an event for the room's log until it is known to be there.
    fn announce(&mut self, by: &UserId, body: EventBody) -> Result<()> {
        let append = Append {
            room: self.room.id.clone(),
            from: by.clone(),
            id: MessageId::generate(),
            body,
        };
        let columns = codec::encode(&append.body)?;
        self.connection
            .prepare_cached(
                "INSERT INTO announcements (room, user, id, kind, extra) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                self.no,
                by.as_str(),
                append.id.as_uuid().as_bytes().as_slice(),
                columns.kind,
                columns.extra.as_deref().unwrap_or_default(),
            ])?;
        self.announce.push(append);
        Ok(())
    }

    /// Takes in somebody who is no member yet. The first in an empty room owns it.
    fn add(&mut self, user: &UserId, role: Role, by: &UserId) -> Result<Member> {
        let role = match self.room.kind {
            RoomKind::Public | RoomKind::Private if self.room.members == 0 => Role::Owner,
            _ => role,
        };
        if self.room.members >= MEMBERS_MAX {
            return Err(Error::Refused(format!(
                "the room {} has {MEMBERS_MAX} members and is full",
                self.room.id
            )));
        }
        let member = Member {
            user: user.clone(),
            role,
            joined_at: Timestamp::now(),
            received: protocol::Seq::ZERO,
            read: protocol::Seq::ZERO,
        };
        self.connection
            .prepare_cached(
                "INSERT INTO members (room, user, role, joined_at) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                self.no,
                user.as_str(),
                role_number(role),
                member.joined_at.as_millis(),
            ])?;
        self.count(self.room.members + 1)?;
        self.touch(user, Some(&member));
        self.announce(
            by,
            EventBody::Member {
                user: user.clone(),
                change: MemberChange::Joined,
                role: Some(role),
            },
        )?;
        Ok(member)
    }

    fn count(&mut self, members: u64) -> Result<()> {
        self.room.members = members;
        self.connection
            .prepare_cached("UPDATE rooms SET members = ?2 WHERE no = ?1")?
            .execute([self.no, members.cast_signed()])?;
        Ok(())
    }

    fn touch(&mut self, user: &UserId, member: Option<&Member>) {
        self.touched.push(Touched::Member(
            self.room.id.clone(),
            user.clone(),
            member.cloned(),
        ));
    }

    /// Ends the invites of somebody who may make none any more.
    fn end_invites_of(&self, user: &UserId) -> Result<()> {
        self.connection
            .prepare_cached("DELETE FROM invites WHERE room = ?1 AND user = ?2")?
            .execute(params![self.no, user.as_str()])?;
        Ok(())
    }

    fn is_last_owner(&self, member: &Member) -> Result<bool> {
        if member.role != Role::Owner {
            return Ok(false);
        }
        let owners: i64 = self
            .connection
            .prepare_cached(
                "SELECT count(*) FROM (SELECT 1 FROM members WHERE room = ?1 AND role = 2 LIMIT 2)",
            )?
            .query_row([self.no], |row| row.get(0))?;
        Ok(owners == 1)
    }

    fn done<T>(self, value: impl FnOnce(Room) -> T) -> Done<Changed<T>> {
        let mut touched = self.touched;
        touched.push(Touched::Room(self.room.clone()));
        Done {
            value: Changed {
                value: value(self.room),
                announce: self.announce,
            },
            touched,
        }
    }
}

pub(super) fn create_room(
    connection: &Connection,
    new: NewRoom,
    with: Option<UserId>,
) -> Result<Done<Changed<Room>>> {
    let pair = pair(&new, with)?;
    if let Some(pair) = &pair
        && let Some(room) = queries::direct(connection, pair)?
    {
        return Ok(Done {
            value: Changed {
                value: room,
                announce: Vec::new(),
            },
            touched: Vec::new(),
        });
    }
    let room = Room {
        id: new.id,
        kind: new.kind,
        name: new.name,
        topic: new.topic,
        created_at: new.at,
        members: 0,
        pair,
    };
    let mut work = Work {
        connection,
        no: insert(connection, &room)?,
        room,
        announce: Vec::new(),
        touched: Vec::new(),
    };
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let created = EventBody::Room {
        change: RoomChange::Created,
        name: text(&work.room.name),
        topic: text(&work.room.topic),
    };
    work.announce(&new.by, created)?;
    match work.room.pair.clone() {
        Some((a, b)) => {
            work.add(&a, Role::Member, &new.by)?;
            work.add(&b, Role::Member, &new.by)?;
        }
        None => {
            work.add(&new.by, Role::Owner, &new.by)?;
        }
    }
    Ok(work.done(|room| room))
}

/// The two of a direct room, in order of name.
fn pair(new: &NewRoom, with: Option<UserId>) -> Result<Option<(UserId, UserId)>> {
    match (new.kind, with) {
        (RoomKind::Direct, Some(with)) if with != new.by => {
            let by = new.by.clone();
            Ok(Some(if by < with { (by, with) } else { (with, by) }))
        }
        (RoomKind::Direct, _) => Err(Error::Refused("a direct room has two users".to_owned())),
        (_, None) => Ok(None),
        (_, Some(_)) => Err(Error::Refused(
            "only a direct room is made with somebody".to_owned(),
        )),
    }
}

/// Gives the room its row. The log may have made one already.
fn insert(connection: &Connection, room: &Room) -> Result<i64> {
    connection
        .prepare_cached(
            "INSERT INTO rooms (id, state, kind, name, topic, folded, created_at, pair_a, pair_b)
             VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (id) DO UPDATE SET state = 1, kind = ?2, name = ?3, topic = ?4, folded = ?5,
                 created_at = ?6, pair_a = ?7, pair_b = ?8
             WHERE state = 0 AND forgotten_n IS NULL
             RETURNING no",
        )?
        .query_row(
            params![
                room.id.as_str(),
                kind_number(room.kind),
                room.name,
                room.topic,
                folded(room),
                room.created_at.as_millis(),
                room.pair.as_ref().map(|pair| pair.0.as_str()),
                room.pair.as_ref().map(|pair| pair.1.as_str()),
            ],
            |row| row.get(0),
        )
        .optional()?
        .ok_or_else(|| Error::Conflict(format!("the room id {} is taken", room.id)))
}

fn folded(room: &Room) -> String {
    format!("{}\n{}\n{}", room.id, room.name, room.topic).to_lowercase()
}

pub(super) fn patch_room(
    connection: &Connection,
    id: &RoomId,
    patch: RoomPatch,
    by: &UserId,
) -> Result<Done<Changed<Room>>> {
    let mut work = Work::on(connection, id)?;
    if let Some(name) = patch.name.filter(|name| *name != work.room.name) {
        work.room.name.clone_from(&name);
        work.announce(
            by,
            EventBody::Room {
                change: RoomChange::Renamed,
                name: Some(name),
                topic: None,
            },
        )?;
    }
    if let Some(topic) = patch.topic.filter(|topic| *topic != work.room.topic) {
        work.room.topic.clone_from(&topic);
        work.announce(
            by,
            EventBody::Room {
                change: RoomChange::Topic,
                name: None,
                topic: Some(topic),
            },
        )?;
    }
    if !work.announce.is_empty() {
        connection
            .prepare_cached("UPDATE rooms SET name = ?2, topic = ?3, folded = ?4 WHERE no = ?1")?
            .execute(params![
                work.no,
                work.room.name,
                work.room.topic,
                folded(&work.room)
            ])?;
    }
    Ok(work.done(|room| room))
}

pub(super) fn delete_room(
    connection: &Connection,
    id: &RoomId,
    by: &UserId,
) -> Result<Done<Vec<UserId>>> {
    let mut work = Work::on(connection, id)?;
    let no = work.no;
    let most = usize::try_from(MEMBERS_MAX).unwrap_or(usize::MAX);
    let members = queries::members(connection, no, None, most)?;
    for sql in [
        "DELETE FROM members WHERE room = ?1",
        "DELETE FROM invites WHERE room = ?1",
        "DELETE FROM announcements WHERE room = ?1",
        "UPDATE rooms SET state = 2, name = '', topic = '', folded = '', members = 0,
             pair_a = NULL, pair_b = NULL WHERE no = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([no])?;
    }
    let last = EventBody::Room {
        change: RoomChange::Deleted,
        name: None,
        topic: None,
    };
    work.announce(by, last)?;
    Ok(Done {
        value: members.into_iter().map(|member| member.user).collect(),
        touched: vec![Touched::Gone(id.clone())],
    })
}

pub(super) fn put_member(
    connection: &Connection,
    id: &RoomId,
    user: &UserId,
    role: Role,
    by: &UserId,
) -> Result<Done<Changed<Member>>> {
    let mut work = Work::on(connection, id)?;
    let member = match work.member(user)? {
        Some(member) => member,
        None if work.room.kind == RoomKind::Direct => return Err(fixed(id)),
        None => work.add(user, role, by)?,
    };
    Ok(work.done(|_| member))
}

pub(super) fn set_role(
    connection: &Connection,
    id: &RoomId,
    user: &UserId,
    role: Role,
    by: &UserId,
) -> Result<Done<Changed<Member>>> {
    let mut work = Work::on(connection, id)?;
    let member = work.member(user)?.ok_or_else(|| no_member(user, id))?;
    if work.room.kind == RoomKind::Direct {
        return Err(fixed(id));
    }
    if member.role == role {
        return Ok(work.done(|_| member));
    }
    if work.is_last_owner(&member)? {
        return Err(last_owner(user, id));
    }
    let member = Member { role, ..member };
    connection
        .prepare_cached("UPDATE members SET role = ?3 WHERE room = ?1 AND user = ?2")?
        .execute(params![work.no, user.as_str(), role_number(role)])?;
    if role < INVITER {
        work.end_invites_of(user)?;
    }
    work.touch(user, Some(&member));
    work.announce(
        by,
        EventBody::Member {
            user: user.clone(),
            change: MemberChange::Role,
            role: Some(role),
        },
    )?;
    Ok(work.done(|_| member))
}

pub(super) fn remove_member(
    connection: &Connection,
    id: &RoomId,
    user: &UserId,
    by: &UserId,
) -> Result<Done<Changed<()>>> {
    let mut work = Work::on(connection, id)?;
    let member = work.member(user)?.ok_or_else(|| no_member(user, id))?;
    if work.room.kind == RoomKind::Direct {
        return Err(fixed(id));
    }
    if work.room.members > 1 && work.is_last_owner(&member)? {
        return Err(last_owner(user, id));
    }
    if work.room.members <= 1 && work.room.kind == RoomKind::Private {
        return Err(Error::Refused(
            "the last member of a private room cannot leave it; delete the room instead".to_owned(),
        ));
    }
    connection
        .prepare_cached("DELETE FROM members WHERE room = ?1 AND user = ?2")?
        .execute(params![work.no, user.as_str()])?;
    work.end_invites_of(user)?;
    work.count(work.room.members.saturating_sub(1))?;
    work.touch(user, None);
    let change = if user == by {
        MemberChange::Left
    } else {
        MemberChange::Removed
    };
    work.announce(
        by,
        EventBody::Member {
            user: user.clone(),
            change,
            role: None,
        },
    )?;
    Ok(work.done(|_| ()))
}

fn fixed(id: &RoomId) -> Error {
    Error::Refused(format!("the members of the direct room {id} never change"))
}

fn no_member(user: &UserId, id: &RoomId) -> Error {
    Error::NotFound(format!("member {user} of room {id}"))
}

fn last_owner(user: &UserId, id: &RoomId) -> Error {
    Error::Refused(format!("{user} is the last owner of the room {id}"))
}

pub(super) fn advance(connection: &Connection, cursors: &[Cursor]) -> Result<Done<()>> {
    let mut touched = Vec::new();
    for cursor in cursors {
        // What was read was received too.
        let read = cursor.read;
        let received = cursor.received.max(read);
        let moved = connection
            .prepare_cached(
                "UPDATE members SET received = max(received, ?3), read = max(read, ?4)
                 WHERE room = (SELECT no FROM rooms WHERE id = ?1 AND state = 1) AND user = ?2
                   AND (received < ?3 OR read < ?4)
                 RETURNING room",
            )?
            .query_row(
                params![
                    cursor.room.as_str(),
                    cursor.user.as_str(),
                    received.get().cast_signed(),
                    read.get().cast_signed(),
                ],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(no) = moved {
            let member = queries::member(connection, no, &cursor.user)?;
            touched.push(Touched::Member(
                cursor.room.clone(),
                cursor.user.clone(),
                member,
            ));
        }
    }
    Ok(Done { value: (), touched })
}

pub(super) fn put_invite(
    connection: &Connection,
    invite: &Invite,
    at: Timestamp,
) -> Result<Done<()>> {
    let work = Work::on(connection, &invite.room)?;
    if work.room.kind == RoomKind::Direct {
        return Err(fixed(&invite.room));
    }
    if work.member(&invite.by)?.is_none_or(|by| by.role < INVITER) {
        return Err(Error::Refused(
            "only admins and owners invite into a room".to_owned(),
        ));
    }
    connection
        .prepare_cached(
            "DELETE FROM invites WHERE room = ?1 AND (uses_left = 0 OR expires_at <= ?2)",
        )?
        .execute([work.no, at.as_millis()])?;
    let others: i64 = connection
        .prepare_cached("SELECT count(*) FROM invites WHERE room = ?1")?
        .query_row([work.no], |row| row.get(0))?;
    if others >= INVITES_MAX {
        return Err(Error::Refused(format!(
            "the room has {INVITES_MAX} invites that are neither used up nor expired"
        )));
    }
    let kept = connection
        .prepare_cached(
            "INSERT INTO invites (code, room, user, uses_left, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (code) DO NOTHING",
        )?
        .execute(params![
            invite.code,
            work.no,
            invite.by.as_str(),
            invite.uses_left,
            invite.expires_at.as_millis(),
        ])?;
    if kept == 0 {
        return Err(Error::Conflict(
            "the code of the invite is taken".to_owned(),
        ));
    }
    Ok(Done {
        value: (),
        touched: Vec::new(),
    })
}

pub(super) fn redeem_invite(
    connection: &Connection,
    code: &str,
    user: &UserId,
    at: Timestamp,
) -> Result<Done<Changed<Room>>> {
    let id: Option<String> = connection
        .prepare_cached(
            "SELECT r.id FROM invites i JOIN rooms r ON r.no = i.room
             WHERE i.code = ?1 AND i.uses_left > 0 AND i.expires_at > ?2",
        )?
        .query_row(params![code, at.as_millis()], |row| row.get(0))
        .optional()?;
    let id = id.ok_or_else(|| Error::NotFound("invite".to_owned()))?;
    let mut work = Work::on(connection, &super::super::rows::room(&id)?)?;
    if work.member(user)?.is_none() {
        work.add(user, Role::Member, user)?;
        connection
            .prepare_cached("UPDATE invites SET uses_left = uses_left - 1 WHERE code = ?1")?
            .execute([code])?;
    }
    Ok(work.done(|room| room))
}

pub(super) fn announced(connection: &Connection, ids: &[MessageId]) -> Result<Done<()>> {
    let mut delete = connection.prepare_cached("DELETE FROM announcements WHERE id = ?1")?;
    for id in ids {
        delete.execute([id.as_uuid().as_bytes().as_slice()])?;
    }
    Ok(Done {
        value: (),
        touched: Vec::new(),
    })
}
