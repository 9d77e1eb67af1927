//! One transaction of MongoDB: reads what some changes of a room need, lets them happen and writes the difference.
//!
//! A transaction begins by writing to the room's document, so that it is the only one about this room: another one meets
//! a write conflict there, waits for a moment and begins again with what the first one left.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::error::{Error as DriverError, ErrorKind, WriteFailure};
use mongodb::error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::{FindOptions, ReturnDocument};
use mongodb::{ClientSession, bson};
use protocol::{RoomId, UserId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::super::Mongo;
use super::super::mongo::trouble;
use super::documents::{
    ANNOUNCEMENTS, AnnouncementDocument, INVITES, InviteDocument, Kind, MEMBERS, MemberDocument,
    ROOMS, RoomDocument,
};
use super::grams;
use super::orphans::Orphans;
use super::queries::{
    by_id, by_pair, everyone_in, find_in, member_id, room_options, without_grams,
};
use super::sessions::Sessions;
use super::shared::Shared;
use super::work::{Found, Needs, Work};
use crate::Error;

/// How long the changes of one transaction may take, with all that is tried again.
pub(super) const DONE_WITHIN: Duration = Duration::from_millis(1750);
/// Whoever is in conflict for longer than this may be so with somebody who is no more.
const HELD_UP: Duration = Duration::from_millis(300);
/// The pause before the second try; it doubles up to the other one. A try that meets another transaction costs little.
const PAUSE_MIN: Duration = Duration::from_millis(3);
const PAUSE_MAX: Duration = Duration::from_millis(24);
/// The pause before a commit without an answer is sent again.
const COMMIT_PAUSE: Duration = Duration::from_millis(100);
/// Members that are deleted together with their room; those of larger ones follow.
const DELETED_AT_ONCE: i64 = 1000;
/// Keys in one query.
const KEYS_MAX: usize = 1000;

/// The code with which MongoDB refuses a key that is taken.
const DUPLICATE_KEY: i32 = 11000;

/// What became of a transaction.
pub(super) enum Outcome {
    Committed(Work),
    /// There was nothing to write. This is what was true after that time.
    Found(Work, std::time::Instant),
    /// Nothing was written.
    Failed(Error),
    /// It was to be committed, and there was no answer to that.
    Unknown(Work, Error),
}

pub(super) struct Transactions {
    pub sessions: Arc<Sessions>,
    pub shared: Arc<Shared>,
    pub maker: Arc<str>,
    pub orphans: Orphans,
}

impl Transactions {
    /// Lets `changes` happen to a room, all in one transaction. They are called again for every try.
    pub async fn run(
        &self,
        room: &RoomId,
        needs: &Needs,
        mut changes: impl FnMut(&mut Work) + Send,
    ) -> Outcome {
        let begun = Instant::now();
        let deadline = begun + DONE_WITHIN;
        let mut pause = PAUSE_MIN;
        loop {
            let tried = self.attempt(room, needs, &mut changes, deadline);
            let conflict = match tried.await {
                Ok(outcome) => return outcome,
                Err(Trouble::Final(error)) => return Outcome::Failed(error),
                Err(Trouble::Conflict(error)) => error,
            };
            if begun.elapsed() > HELD_UP {
                self.orphans.end(&self.sessions.mongo).await;
            }
            let wait = pause.mul_f64(rand::random_range(0.5..1.5));
            if Instant::now() + wait >= deadline {
                tracing::debug!(room.id = room.as_str(), %conflict, "a change of a room was given up");
                return Outcome::Failed(Error::unavailable(format!(
                    "many changes of the room {room} at once"
                )));
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(
        &self,
        room: &RoomId,
        needs: &Needs,
        changes: &mut (impl FnMut(&mut Work) + Send),
        deadline: Instant,
    ) -> std::result::Result<Outcome, Trouble> {
        let mongo = &self.sessions.mongo;
        let mut session = self.sessions.open().await?;
        let started = tokio::time::timeout_at(deadline, session.start_transaction()).await;
        // Also what the driver says of a replica set that it cannot reach.
        match started {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(Error::unavailable(format!("mongodb: {}", error.kind)).into());
            }
            Err(_) => return Err(Error::unavailable("mongodb: no answer in time").into()),
        }
        let body = async {
            let found = read(mongo, &mut session, room, needs).await?;
            let mut work = Work::new(room.clone(), Arc::clone(&self.maker), found);
            changes(&mut work);
            write(mongo, &mut session, &work).await?;
            Ok(work)
        };
        let body = tokio::time::timeout_at(deadline, mongo.attempt(body)).await;
        let body = body.map_err(|_| Error::unavailable("mongodb: no answer in time"))?;
        let work = body?.map_err(Trouble::of)?;
        if !work.is_changed() {
            // What it has read is as durable as what it would have written.
            let read_at = std::time::Instant::now();
            return Ok(match self.commit(session, work, deadline).await? {
                Outcome::Committed(work) => Outcome::Found(work, read_at),
                other => other,
            });
        }
        let begun = tokio::time::timeout_at(deadline, self.shared.begin(room, &work)).await;
        let begun = begun.map_err(|_| Error::unavailable("redis: no answer in time"))??;
        let outcome = self.commit(session, work, deadline).await;
        match &outcome {
            Ok(Outcome::Committed(_) | Outcome::Found(..)) => self.shared.settle(begun).await,
            // Redis does not vouch for it until it is clear what is true.
            Ok(Outcome::Unknown(..)) => {}
            Ok(Outcome::Failed(_)) | Err(_) => self.shared.abandon(begun).await,
        }
        outcome
    }

    /// Nobody was told the outcome yet, so that an unknown one is asked for until the time is over.
    async fn commit(
        &self,
        mut session: ClientSession,
        work: Work,
        deadline: Instant,
    ) -> std::result::Result<Outcome, Trouble> {
        let mongo = &self.sessions.mongo;
        loop {
            let committing = mongo.attempt(session.commit_transaction());
            let error = match tokio::time::timeout_at(deadline, committing).await {
                Ok(Ok(Ok(()))) => {
                    self.sessions.changed(&session);
                    return Ok(Outcome::Committed(work));
                }
                Ok(Ok(Err(error))) if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {
                    trouble(&error)
                }
                Ok(Ok(Err(error))) => return Err(Trouble::of(error)),
                Ok(Err(error)) => error,
                Err(_) => Error::unavailable("mongodb: no answer in time"),
            };
            if Instant::now() + COMMIT_PAUSE >= deadline {
                return Ok(Outcome::Unknown(work, error));
            }
            tokio::time::sleep(COMMIT_PAUSE).await;
        }
    }
}

/// Why a try did not succeed.
enum Trouble {
    /// Another transaction was faster. Nothing of this one is left.
    Conflict(DriverError),
    Final(Error),
}

impl Trouble {
    fn of(error: DriverError) -> Self {
        if error.contains_label(TRANSIENT_TRANSACTION_ERROR) || is_taken(&error) {
            Self::Conflict(error)
        } else {
            Self::Final(trouble(&error))
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Whether a unique key is taken, by something that was not there when the transaction looked.
fn is_taken(error: &DriverError) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        ErrorKind::InsertMany(error) => error
            .write_errors
            .iter()
            .flatten()
            .any(|error| error.code == DUPLICATE_KEY),
        _ => false,
    }
}

async fn read(
    mongo: &Mongo,
    session: &mut ClientSession,
    room: &RoomId,
    needs: &Needs,
) -> mongodb::error::Result<Found> {
    let mut found = Found {
        room: lock(mongo, session, room).await?,
        ..Found::default()
    };
    if let Some(pair) = &needs.pair {
        let of_pair = find_in(mongo, session, ROOMS, by_pair(pair), room_options());
        found.of_pair = of_pair.await?.pop();
    }
    for users in needs.users.chunks(KEYS_MAX) {
        let filter = doc! { "_id": { "$in": member_ids(room, users)? } };
        let members = find_in(mongo, session, MEMBERS, filter, plenty());
        found.members.extend(members.await?);
    }
    if !needs.codes.is_empty() {
        let filter = doc! { "_id": { "$in": &needs.codes } };
        let invites = find_in(mongo, session, INVITES, filter, plenty());
        found.invites.extend(invites.await?);
    }
    if needs.invites {
        let filter = doc! { "room": room.as_str() };
        let invites = find_in(mongo, session, INVITES, filter, plenty());
        found.invites.extend(invites.await?);
    }
    if needs.everyone {
        let names = find_in::<Named>(mongo, session, MEMBERS, everyone_in(room), names());
        let names = names.await?.into_iter();
        found.everyone = names.map(|named| named.key.user).collect();
    }
    Ok(found)
}

/// The room, which no other transaction changes until this one is over.
async fn lock(
    mongo: &Mongo,
    session: &mut ClientSession,
    room: &RoomId,
) -> mongodb::error::Result<Option<RoomDocument>> {
    let update = doc! { "$inc": { "changes": 1_i64 } };
    mongo
        .collection::<RoomDocument>(ROOMS)
        .find_one_and_update(by_id(room), update)
        .projection(without_grams())
        .return_document(ReturnDocument::After)
        .session(session)
        .await
}

/// A member's name alone, read from the index.
#[derive(Deserialize)]
struct Named {
    #[serde(rename = "_id")]
    key: super::documents::MemberKey,
}

fn names() -> FindOptions {
    FindOptions::builder()
        .projection(doc! { "_id": 1 })
        .sort(doc! { "_id": 1 })
        .batch_size(100_000)
        .build()
}

fn plenty() -> FindOptions {
    FindOptions::builder()
        .batch_size(u32::try_from(KEYS_MAX).unwrap_or(u32::MAX))
        .build()
}

/// Writes what differs between what was read and what is now, the room first: there conflicts show.
async fn write(
    mongo: &Mongo,
    session: &mut ClientSession,
    work: &Work,
) -> mongodb::error::Result<()> {
    let Some(room) = &work.room else {
        return Ok(());
    };
    if !work.is_changed() {
        return Ok(());
    }
    write_room(mongo, session, work.was.as_ref(), room).await?;
    if room.kind == Kind::Deleted {
        write_end(mongo, session, work.was.as_ref(), &room.id).await?;
    } else {
        write_members(mongo, session, work, &room.id).await?;
        write_invites(mongo, session, work, &room.id).await?;
    }
    if !work.announcements.is_empty() {
        mongo
            .collection::<AnnouncementDocument>(ANNOUNCEMENTS)
            .insert_many(&work.announcements)
            .session(session)
            .await?;
    }
    Ok(())
}

/// A room with the runs of its words.
#[derive(Serialize)]
struct NewRoomDocument<'a> {
    #[serde(flatten)]
    room: &'a RoomDocument,
    #[serde(skip_serializing_if = "Option::is_none")]
    grams: Option<Vec<String>>,
}

async fn write_room(
    mongo: &Mongo,
    session: &mut ClientSession,
    was: Option<&RoomDocument>,
    room: &RoomDocument,
) -> mongodb::error::Result<()> {
    let grams = (room.kind == Kind::Public).then(|| grams::of(&room.folded));
    let Some(was) = was else {
        let rooms = mongo.collection::<NewRoomDocument<'_>>(ROOMS);
        let new = NewRoomDocument { room, grams };
        return rooms.insert_one(new).session(session).await.map(drop);
    };
    let mut set = doc! {
        "members": room.members,
        "owners": room.owners,
        "changes": room.changes,
        "announced": room.announced,
        "announced_at": room.announced_at,
    };
    let mut unset = Document::new();
    if room.folded != was.folded || room.name != was.name || room.topic != was.topic {
        set.insert("name", &room.name);
        set.insert("topic", &room.topic);
        set.insert("folded", &room.folded);
        if let Some(grams) = grams {
            set.insert("grams", grams);
        }
    }
    if room.kind == Kind::Deleted {
        set.insert("kind", "deleted");
        unset.extend([
            ("grams".to_owned(), "".into()),
            ("pair".to_owned(), "".into()),
        ]);
        if was.members > DELETED_AT_ONCE {
            set.insert("emptying", true);
        }
    }
    let mut update = doc! { "$set": set };
    if !unset.is_empty() {
        update.insert("$unset", unset);
    }
    let rooms = mongo.collection::<RoomDocument>(ROOMS);
    rooms
        .update_one(by_id(&room.id), update)
        .session(session)
        .await
        .map(drop)
}

/// What goes with a room.
async fn write_end(
    mongo: &Mongo,
    session: &mut ClientSession,
    was: Option<&RoomDocument>,
    room: &RoomId,
) -> mongodb::error::Result<()> {
    for collection in [INVITES, ANNOUNCEMENTS] {
        mongo
            .collection::<Document>(collection)
            .delete_many(doc! { "room": room.as_str() })
            .session(&mut *session)
            .await?;
    }
    if was.is_some_and(|was| was.members <= DELETED_AT_ONCE) {
        mongo
            .collection::<MemberDocument>(MEMBERS)
            .delete_many(everyone_in(room))
            .session(session)
            .await?;
    }
    Ok(())
}

async fn write_members(
    mongo: &Mongo,
    session: &mut ClientSession,
    work: &Work,
    room: &RoomId,
) -> mongodb::error::Result<()> {
    let members = mongo.collection::<MemberDocument>(MEMBERS);
    let gone = work.members_were.keys();
    let gone: Vec<_> = gone
        .filter(|user| !work.members.contains_key(*user))
        .cloned()
        .collect();
    if !gone.is_empty() {
        let filter = doc! { "_id": { "$in": member_ids(room, &gone)? } };
        members.delete_many(filter).session(&mut *session).await?;
    }
    let mut new = Vec::new();
    for (user, member) in &work.members {
        let Some(was) = work.members_were.get(user) else {
            new.push(member);
            continue;
        };
        let id = doc! { "_id": member_id(room, user).map_err(DriverError::custom)? };
        let with_role = MemberDocument {
            role: member.role,
            ..was.clone()
        };
        if *member == *was {
            continue;
        } else if *member == with_role {
            let role = bson::serialize_to_bson(&member.role)?;
            // Cursors move beside the transaction: only the role is written.
            let update = doc! { "$set": { "role": role } };
            members
                .update_one(id, update)
                .session(&mut *session)
                .await?;
        } else {
            // Somebody who left and came back.
            members
                .replace_one(id, member)
                .session(&mut *session)
                .await?;
        }
    }
    if !new.is_empty() {
        members.insert_many(new).session(session).await?;
    }
    Ok(())
}

async fn write_invites(
    mongo: &Mongo,
    session: &mut ClientSession,
    work: &Work,
    room: &RoomId,
) -> mongodb::error::Result<()> {
    let invites = mongo.collection::<InviteDocument>(INVITES);
    if !work.uninvited.is_empty() {
        let by: Vec<_> = work.uninvited.iter().map(UserId::as_str).collect();
        let filter = doc! { "room": room.as_str(), "by": { "$in": by } };
        invites.delete_many(filter).session(&mut *session).await?;
    }
    let gone = work.invites_were.keys();
    let gone: Vec<_> = gone
        .filter(|code| !work.invites.contains_key(*code))
        .collect();
    if !gone.is_empty() {
        let filter = doc! { "_id": { "$in": gone } };
        invites.delete_many(filter).session(&mut *session).await?;
    }
    let mut new = Vec::new();
    for (code, invite) in &work.invites {
        match work.invites_were.get(code) {
            None => new.push(invite),
            Some(was) if was != invite => {
                let update = doc! { "$set": { "uses_left": invite.uses_left } };
                let id = doc! { "_id": code };
                invites
                    .update_one(id, update)
                    .session(&mut *session)
                    .await?;
            }
            Some(_) => {}
        }
    }
    if !new.is_empty() {
        invites.insert_many(new).session(session).await?;
    }
    Ok(())
}

fn member_ids(room: &RoomId, users: &[UserId]) -> mongodb::error::Result<Vec<Document>> {
    users
        .iter()
        .map(|user| member_id(room, user).map_err(DriverError::custom))
        .collect()
}
