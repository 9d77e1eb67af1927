//! The rules of rooms, members and invites, on what a transaction has read. Nothing here waits or writes: the
//! transaction writes what differs in the end.
//!
//! One piece of work may see several changes of the same room, one after the other, and all of them are committed
//! together. A change that breaks a rule leaves no trace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use protocol::{EventBody, MemberChange, MessageId, Role, RoomChange, RoomId, Timestamp, UserId};

use super::documents::{
    AnnouncementDocument, InviteDocument, Kind, MemberDocument, MemberKey, Pair, RoomDocument,
    binary,
};
use crate::directory::{Changed, Invite, Member, NewRoom, Room, RoomPatch};
use crate::{Error, Result};

pub(super) const MEMBERS_MAX: i64 = 100_000;
/// Invites of one room that are good at the same time.
pub(super) const INVITES_MAX: usize = 100;
/// The least role that may invite.
const INVITER: Role = Role::Admin;

/// What a transaction has to read before a change can be judged.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    /// Memberships of these.
    pub users: Vec<UserId>,
    /// Invites with these codes.
    pub codes: Vec<String>,
    /// All invites of the room.
    pub invites: bool,
    /// The names of all members.
    pub everyone: bool,
    /// The room of these two, wherever it is.
    pub pair: Option<Pair>,
}

/// A room in the middle of one or more changes.
pub(super) struct Work {
    id: RoomId,
    maker: Arc<str>,
    now: Timestamp,
    /// The room as it was read and as it is now.
    pub was: Option<RoomDocument>,
    pub room: Option<RoomDocument>,
    /// Memberships that were read, and as they are now.
    pub members_were: HashMap<UserId, MemberDocument>,
    pub members: BTreeMap<UserId, MemberDocument>,
    pub invites_were: HashMap<String, InviteDocument>,
    pub invites: BTreeMap<String, InviteDocument>,
    /// Whose invites end, those too that were not read.
    pub uninvited: BTreeSet<UserId>,
    pub everyone: Vec<UserId>,
    /// The room that a pair has already.
    pub of_pair: Option<RoomDocument>,
    pub announcements: Vec<AnnouncementDocument>,
}

/// What a transaction has read.
#[derive(Default)]
pub(super) struct Found {
    pub room: Option<RoomDocument>,
    pub members: Vec<MemberDocument>,
    pub invites: Vec<InviteDocument>,
    pub everyone: Vec<UserId>,
    pub of_pair: Option<RoomDocument>,
}

impl Work {
    pub fn new(id: RoomId, maker: Arc<str>, found: Found) -> Self {
        let key = |member: MemberDocument| (member.key.user.clone(), member);
        let members_were: HashMap<_, _> = found.members.into_iter().map(key).collect();
        let code = |invite: InviteDocument| (invite.code.clone(), invite);
        let invites_were: HashMap<_, _> = found.invites.into_iter().map(code).collect();
        Self {
            id,
            maker,
            now: Timestamp::now(),
            was: found.room.clone(),
            room: found.room,
            members: members_were.clone().into_iter().collect(),
            members_were,
            invites: invites_were.clone().into_iter().collect(),
            invites_were,
            uninvited: BTreeSet::new(),
            everyone: found.everyone,
            of_pair: found.of_pair,
            announcements: Vec::new(),
        }
    }

    /// Whether there is anything to write.
    pub fn is_changed(&self) -> bool {
        self.room != self.was
    }

    /// Members as they were and as they are, where that differs.
    pub fn touched(
        &self,
    ) -> impl Iterator<Item = (&UserId, Option<&MemberDocument>, Option<&MemberDocument>)> {
        let users: BTreeSet<&UserId> = self
            .members_were
            .keys()
            .chain(self.members.keys())
            .collect();
        users
            .into_iter()
            .map(|user| (user, self.members_were.get(user), self.members.get(user)))
            .filter(|(_, was, is)| was != is)
    }

    /// Makes the room. The first who comes in owns it; of a direct room both come in.
    pub fn create(&mut self, new: &NewRoom, pair: Option<&Pair>) -> Result<Changed<Room>> {
        if let Some(room) = self.of_pair.clone().and_then(RoomDocument::room) {
            return Ok(Changed {
                value: room,
                announce: Vec::new(),
            });
        }
        if self.room.is_some() {
            return Err(Error::Conflict(format!("the room id {} is taken", self.id)));
        }
        let room = RoomDocument {
            id: new.id.clone(),
            kind: new.kind.into(),
            name: new.name.clone(),
            topic: new.topic.clone(),
            folded: folded(&new.id, &new.name, &new.topic),
            created_at: new.at.as_millis(),
            members: 0,
            owners: 0,
            pair: pair.cloned(),
            changes: 0,
            announced: 0,
            announced_at: 0,
        };
        self.room = Some(room);
        let told = self.announcements.len();
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let created = EventBody::Room {
            change: RoomChange::Created,
            name: text(&new.name),
            topic: text(&new.topic),
        };
        self.announce(&new.by, created)?;
        match pair {
            Some(pair) => {
                self.add(&pair.a, Role::Member, &new.by)?;
                self.add(&pair.b, Role::Member, &new.by)?;
            }
            None => {
                self.add(&new.by, Role::Owner, &new.by)?;
            }
        }
        self.changed(told, self.value()?)
    }

    pub fn patch(&mut self, patch: &RoomPatch, by: &UserId) -> Result<Changed<Room>> {
        let told = self.announcements.len();
        let room = self.open()?;
        let renamed = patch.name.as_ref().filter(|name| **name != room.name);
        let about = patch.topic.as_ref().filter(|topic| **topic != room.topic);
        if let Some(name) = renamed {
            room.name.clone_from(name);
        }
        if let Some(topic) = about {
            room.topic.clone_from(topic);
        }
        room.folded = folded(&room.id, &room.name, &room.topic);
        if let Some(name) = renamed {
            let body = EventBody::Room {
                change: RoomChange::Renamed,
                name: Some(name.clone()),
                topic: None,
            };
            self.announce(by, body)?;
        }
        if let Some(topic) = about {
            let body = EventBody::Room {
                change: RoomChange::Topic,
                name: None,
                topic: Some(topic.clone()),
            };
            self.announce(by, body)?;
        }
        self.changed(told, self.value()?)
    }

    /// Leaves nothing of the room but its id, and its last event to be announced.
    pub fn delete(&mut self, by: &UserId) -> Result<Vec<UserId>> {
        let last = EventBody::Room {
            change: RoomChange::Deleted,
            name: None,
            topic: None,
        };
        self.open()?;
        self.announcements.clear();
        self.announce(by, last)?;
        let room = self.open()?;
        room.kind = Kind::Deleted;
        room.name.clear();
        room.topic.clear();
        room.folded.clear();
        room.members = 0;
        room.owners = 0;
        room.pair = None;
        room.changes += 1;
        Ok(std::mem::take(&mut self.everyone))
    }

    pub fn put_member(
        &mut self,
        user: &UserId,
        role: Role,
        by: &UserId,
    ) -> Result<Changed<Member>> {
        let told = self.announcements.len();
        let kind = self.open()?.kind;
        let member = match self.members.get(user) {
            Some(member) => member.clone(),
            None if kind == Kind::Direct => return Err(self.fixed()),
            None => self.add(user, role, by)?,
        };
        self.changed(told, member.member()?)
    }

    pub fn set_role(&mut self, user: &UserId, role: Role, by: &UserId) -> Result<Changed<Member>> {
        let told = self.announcements.len();
        let (kind, owners) = self.open().map(|room| (room.kind, room.owners))?;
        let mut member = self.member(user)?;
        if kind == Kind::Direct {
            return Err(self.fixed());
        }
        if member.role == role {
            return self.changed(told, member.member()?);
        }
        if member.role == Role::Owner && owners <= 1 {
            return Err(self.last_owner(user));
        }
        let before = std::mem::replace(&mut member.role, role);
        self.members.insert(user.clone(), member.clone());
        self.open()?.owners += owns(role) - owns(before);
        if role < INVITER {
            self.uninvite(user);
        }
        self.announce(
            by,
            EventBody::Member {
                user: user.clone(),
                change: MemberChange::Role,
                role: Some(role),
            },
        )?;
        self.changed(told, member.member()?)
    }

    pub fn remove_member(&mut self, user: &UserId, by: &UserId) -> Result<Changed<()>> {
        let told = self.announcements.len();
        let (kind, owners, members) = self
            .open()
            .map(|room| (room.kind, room.owners, room.members))?;
        let member = self.member(user)?;
        if kind == Kind::Direct {
            return Err(self.fixed());
        }
        if members > 1 && member.role == Role::Owner && owners <= 1 {
            return Err(self.last_owner(user));
        }
        if members <= 1 && kind == Kind::Private {
            return Err(Error::Refused(
                "the last member of a private room cannot leave it; delete the room instead"
                    .to_owned(),
            ));
        }
        self.members.remove(user);
        let room = self.open()?;
        room.members -= 1;
        room.owners -= owns(member.role);
        self.uninvite(user);
        let change = if user == by {
            MemberChange::Left
        } else {
            MemberChange::Removed
        };
        self.announce(
            by,
            EventBody::Member {
                user: user.clone(),
                change,
                role: None,
            },
        )?;
        self.changed(told, ())
    }

    pub fn put_invite(&mut self, invite: &Invite, at: Timestamp) -> Result<()> {
        if self.open()?.kind == Kind::Direct {
            return Err(self.fixed());
        }
        let by = self.members.get(&invite.by);
        if by.is_none_or(|by| by.role < INVITER) {
            return Err(Error::Refused(
                "only admins and owners invite into a room".to_owned(),
            ));
        }
        let is_over = |other: &InviteDocument| other.expires_at <= at.as_millis();
        let ours = self.invites.values().filter(|other| other.room == self.id);
        if ours.filter(|other| !is_over(other)).count() >= INVITES_MAX {
            return Err(Error::Refused(format!(
                "the room has {INVITES_MAX} invites that are neither used up nor expired"
            )));
        }
        if self.invites.contains_key(&invite.code) {
            return Err(Error::Conflict(
                "the code of the invite is taken".to_owned(),
            ));
        }
        let id = &self.id;
        self.invites
            .retain(|_, other| other.room != *id || !is_over(other));
        self.invites.insert(
            invite.code.clone(),
            InviteDocument {
                code: invite.code.clone(),
                room: invite.room.clone(),
                by: invite.by.clone(),
                uses_left: i64::from(invite.uses_left),
                expires_at: invite.expires_at.as_millis(),
            },
        );
        self.open()?.changes += 1;
        Ok(())
    }

    pub fn redeem(&mut self, code: &str, user: &UserId, at: Timestamp) -> Result<Changed<Room>> {
        let told = self.announcements.len();
        let invite = self.invites.get(code).filter(|invite| {
            invite.room == self.id && invite.expires_at > at.as_millis() && invite.uses_left > 0
        });
        let uses_left = invite.ok_or_else(no_invite)?.uses_left;
        self.open().map_err(|_| no_invite())?;
        if !self.members.contains_key(user) {
            self.add(user, Role::Member, user)?;
            if uses_left > 1 {
                let invite = self.invites.get_mut(code).ok_or_else(no_invite)?;
                invite.uses_left -= 1;
            } else {
                self.invites.remove(code);
            }
        }
        self.changed(told, self.value()?)
    }

    /// Takes in somebody who is no member yet. The first in an empty room owns it.
    fn add(&mut self, user: &UserId, role: Role, by: &UserId) -> Result<MemberDocument> {
        let joined_at = self.now.as_millis();
        let room = self.open()?;
        let role = match room.kind {
            Kind::Public | Kind::Private if room.members == 0 => Role::Owner,
            _ => role,
        };
        if room.members >= MEMBERS_MAX {
            return Err(Error::Refused(format!(
                "the room {} has {MEMBERS_MAX} members and is full",
                room.id
            )));
        }
        room.members += 1;
        room.owners += owns(role);
        let member = MemberDocument {
            key: MemberKey {
                room: room.id.clone(),
                user: user.clone(),
            },
            role,
            joined_at,
            received: 0,
            read: 0,
        };
        self.members.insert(user.clone(), member.clone());
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

    /// Keeps an event for the room's log until it is known to be there.
    fn announce(&mut self, by: &UserId, body: EventBody) -> Result<()> {
        let (maker, now) = (self.maker.to_string(), self.now.as_millis());
        let room = self.open()?;
        room.changes += 1;
        room.announced += 1;
        room.announced_at = room.announced_at.max(now);
        let announcement = AnnouncementDocument {
            id: binary(MessageId::generate()),
            room: room.id.clone(),
            from: by.clone(),
            at: room.announced_at,
            n: room.announced,
            maker,
            body,
        };
        self.announcements.push(announcement);
        Ok(())
    }

    /// Ends the invites of somebody who may make none any more.
    fn uninvite(&mut self, user: &UserId) {
        self.invites
            .retain(|_, invite| invite.room != self.id || invite.by != *user);
        self.uninvited.insert(user.clone());
    }

    fn open(&mut self) -> Result<&mut RoomDocument> {
        let id = &self.id;
        self.room
            .as_mut()
            .filter(|room| room.kind != Kind::Deleted)
            .ok_or_else(|| Error::NotFound(format!("room {id}")))
    }

    fn value(&self) -> Result<Room> {
        self.room
            .clone()
            .and_then(RoomDocument::room)
            .ok_or_else(|| Error::NotFound(format!("room {}", self.id)))
    }

    fn member(&self, user: &UserId) -> Result<MemberDocument> {
        let member = self.members.get(user).cloned();
        member.ok_or_else(|| Error::NotFound(format!("member {user} of room {}", self.id)))
    }

    /// An answer with what was announced since there were `told` announcements.
    fn changed<T>(&self, told: usize, value: T) -> Result<Changed<T>> {
        let announce = self.announcements[told..].iter().cloned();
        Ok(Changed {
            value,
            announce: announce
                .map(AnnouncementDocument::append)
                .collect::<Result<_>>()?,
        })
    }

    fn fixed(&self) -> Error {
        Error::Refused(format!(
            "the members of the direct room {} never change",
            self.id
        ))
    }

    fn last_owner(&self, user: &UserId) -> Error {
        Error::Refused(format!("{user} is the last owner of the room {}", self.id))
    }
}

/// Counts as an owner.
fn owns(role: Role) -> i64 {
    i64::from(role == Role::Owner)
}

fn no_invite() -> Error {
    Error::NotFound("invite".to_owned())
}

fn folded(id: &RoomId, name: &str, topic: &str) -> String {
    format!("{id}\n{name}\n{topic}").to_lowercase()
}
