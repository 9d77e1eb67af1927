//! Reads of the collections. Each goes along an index.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::options::{FindOptions, Hint};
use mongodb::{ClientSession, bson};
use protocol::{RoomId, UserId};
use serde::de::DeserializeOwned;

use super::documents::{
    Id, InviteDocument, Key, Kind, MEMBERS, MemberDocument, MemberKey, Pair, ROOMS, RoomDocument,
};
use super::sessions::{Sessions, in_time};
use super::{grams, indexes};
use crate::directory::{Member, Room, RoomFilter, RoomKind};
use crate::{Error, Result};

/// Documents of one round when it is not known how many rounds it takes.
const PAGE: usize = 256;
/// How long one query may take: less than callers have, who may have asked Redis before.
const READ_WITHIN: Duration = Duration::from_millis(1500);

impl Sessions {
    pub async fn read_room(&self, id: &RoomId) -> Result<Option<Room>> {
        let found = self.one::<RoomDocument>(ROOMS, by_id(id), room_options());
        Ok(found.await?.and_then(RoomDocument::room))
    }

    pub async fn read_member(&self, room: &RoomId, user: &UserId) -> Result<Option<Member>> {
        let key = member_id(room, user)?;
        let found = self.one::<MemberDocument>(MEMBERS, doc! { "_id": key }, one());
        found.await?.map(MemberDocument::member).transpose()
    }

    pub async fn read_members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>> {
        let options = ordered(doc! { "_id": 1 }, limit);
        let found = self.all::<MemberDocument>(MEMBERS, members_of(room, after), options);
        let found = found.await?.into_iter();
        found.map(MemberDocument::member).collect()
    }

    pub async fn read_invite(&self, code: &str) -> Result<Option<InviteDocument>> {
        self.one(super::documents::INVITES, doc! { "_id": code }, one())
            .await
    }

    /// Rooms as [`crate::Directory::rooms`] promises.
    pub async fn read_rooms(
        &self,
        user: &UserId,
        filter: &RoomFilter,
    ) -> Result<Vec<(Room, Option<Member>)>> {
        let wanted = Wanted::new(filter);
        let all_public = async {
            if filter.mine || !matches!(filter.kind, None | Some(RoomKind::Public)) {
                return Ok(Vec::new());
            }
            self.public_rooms(&wanted).await
        };
        let (public, mine) = tokio::try_join!(all_public, self.rooms_of(user, &wanted))?;
        // Either list is complete up to its end or as long as the answer.
        let mut rooms: BTreeMap<RoomId, (Room, Option<Member>)> = BTreeMap::new();
        for room in public {
            rooms.insert(room.id.clone(), (room, None));
        }
        for (room, member) in mine {
            rooms.insert(room.id.clone(), (room, Some(member)));
        }
        Ok(rooms.into_values().take(filter.limit).collect())
    }

    /// Ids of rooms as [`crate::Directory::room_ids`] promises.
    pub async fn read_room_ids(
        &self,
        user: &UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>> {
        let mut ids: Vec<RoomId> = Vec::new();
        let mut after = after.map_or(String::new(), RoomId::to_string);
        while ids.len() < limit {
            let most = limit - ids.len();
            let filter = doc! { "_id.user": user.as_str(), "_id.room": { "$gt": &after } };
            let mut options = ordered(doc! { "_id.room": 1 }, most);
            options.projection = Some(doc! { "_id": 1 });
            let page = self.all::<Key>(MEMBERS, filter, options).await?;
            let Some(last) = page.last() else { break };
            let last = last.key.room.to_string();
            // Members of deleted rooms follow them. Asked for afterwards: a room that is emptied by then was there when
            // its member was found.
            let emptying = doc! { "emptying": true, "_id": { "$gt": &after, "$lte": &last } };
            let options = FindOptions::builder()
                .projection(doc! { "_id": 1 })
                .hint(Hint::Keys(doc! { "emptying": 1 }))
                .build();
            let deleted = self.all::<Id>(ROOMS, emptying, options).await?;
            let is_last = page.len() < most;
            let rooms = page.into_iter().map(|key| key.key.room);
            ids.extend(rooms.filter(|room| deleted.iter().all(|deleted| deleted.id != *room)));
            if is_last {
                break;
            }
            after = last;
        }
        Ok(ids)
    }

    async fn public_rooms(&self, wanted: &Wanted<'_>) -> Result<Vec<Room>> {
        let mut rooms = Vec::new();
        let mut after = wanted.after();
        loop {
            let asked = wanted.text.as_deref().map(grams::asked).unwrap_or_default();
            let (filter, index) = public_after(&after, &asked);
            let mut options = ordered(doc! { "_id": 1 }, wanted.page(rooms.len()));
            options.projection = room_options().projection;
            options.hint = Some(Hint::Keys(index));
            let page = self.all::<RoomDocument>(ROOMS, filter, options).await?;
            let is_last = page.len() < wanted.page(rooms.len());
            after = page.last().map(|room| room.id.to_string()).unwrap_or(after);
            let page = page.into_iter().filter(|room| wanted.has_text(room));
            rooms.extend(page.filter_map(RoomDocument::room));
            if is_last || rooms.len() >= wanted.limit {
                rooms.truncate(wanted.limit);
                return Ok(rooms);
            }
        }
    }

    async fn rooms_of(&self, user: &UserId, wanted: &Wanted<'_>) -> Result<Vec<(Room, Member)>> {
        let mut rooms = Vec::new();
        let mut after = wanted.after();
        loop {
            let filter = doc! { "_id.user": user.as_str(), "_id.room": { "$gt": &after } };
            let options = ordered(doc! { "_id.room": 1 }, wanted.page(rooms.len()));
            let page = self.all::<MemberDocument>(MEMBERS, filter, options).await?;
            let is_last = page.len() < wanted.page(rooms.len());
            let ids: Vec<&str> = page.iter().map(|member| member.key.room.as_str()).collect();
            let known = if ids.is_empty() {
                Vec::new()
            } else {
                let filter = doc! { "_id": { "$in": ids } };
                let options = FindOptions::builder()
                    .projection(room_options().projection)
                    .build();
                self.all::<RoomDocument>(ROOMS, filter, options).await?
            };
            let mut known: HashMap<RoomId, RoomDocument> = known
                .into_iter()
                .map(|room| (room.id.clone(), room))
                .collect();
            for member in page {
                after = member.key.room.to_string();
                let room = known.remove(&member.key.room);
                let room = room.filter(|room| wanted.has_kind(room) && wanted.has_text(room));
                if let Some(room) = room.and_then(RoomDocument::room) {
                    rooms.push((room, member.member()?));
                }
            }
            if is_last || rooms.len() >= wanted.limit {
                rooms.truncate(wanted.limit);
                return Ok(rooms);
            }
        }
    }

    pub async fn one<T: DeserializeOwned + Send + Sync>(
        &self,
        collection: &str,
        filter: Document,
        mut options: FindOptions,
    ) -> Result<Option<T>> {
        options.limit = Some(1);
        Ok(self.all(collection, filter, options).await?.pop())
    }

    pub async fn all<T: DeserializeOwned + Send + Sync>(
        &self,
        collection: &str,
        filter: Document,
        options: FindOptions,
    ) -> Result<Vec<T>> {
        in_time(async {
            let _permit = self.permit().await?;
            let mut session = self.open().await?;
            let found = find_in(&self.mongo, &mut session, collection, filter, options);
            self.mongo.run_within(READ_WITHIN, found).await
        })
        .await
    }
}

/// All that a query finds.
pub(super) async fn find_in<T: DeserializeOwned + Send + Sync>(
    mongo: &super::super::Mongo,
    session: &mut ClientSession,
    collection: &str,
    filter: Document,
    options: FindOptions,
) -> mongodb::error::Result<Vec<T>> {
    let mut cursor = mongo
        .collection::<T>(collection)
        .find(filter)
        .with_options(options)
        .session(&mut *session)
        .await?;
    let mut found = Vec::new();
    while let Some(document) = cursor.next(session).await {
        found.push(document?);
    }
    Ok(found)
}

/// A filter of rooms, in the terms of the documents.
struct Wanted<'a> {
    filter: &'a RoomFilter,
    kind: Option<Kind>,
    text: Option<String>,
    limit: usize,
}

impl<'a> Wanted<'a> {
    fn new(filter: &'a RoomFilter) -> Self {
        let text = filter.text.as_ref().map(|text| text.to_lowercase());
        Self {
            filter,
            kind: filter.kind.map(Kind::from),
            text: text.filter(|text| !text.is_empty()),
            limit: filter.limit,
        }
    }

    fn after(&self) -> String {
        let after = self.filter.after.as_ref();
        after.map(RoomId::to_string).unwrap_or_default()
    }

    /// How many documents to read when some were found. All of them may be wanted where nothing is filtered.
    fn page(&self, found: usize) -> usize {
        let missing = self.limit.saturating_sub(found).max(1);
        if self.kind.is_some() || self.text.is_some() {
            missing.max(PAGE)
        } else {
            missing
        }
    }

    fn has_kind(&self, room: &RoomDocument) -> bool {
        self.kind.is_none_or(|kind| room.kind == kind)
    }

    fn has_text(&self, room: &RoomDocument) -> bool {
        let text = self.text.as_ref();
        text.is_none_or(|text| room.folded.contains(text.as_str()))
    }
}

/// Public rooms after one that may contain a text, and the index that finds them.
fn public_after(after: &str, asked: &[String]) -> (Document, Document) {
    let mut filter = doc! { "kind": "public", "_id": { "$gt": after } };
    if asked.is_empty() {
        return (filter, indexes::by_kind());
    }
    filter.insert("grams", doc! { "$all": asked });
    (filter, indexes::by_gram())
}

fn members_of(room: &RoomId, after: Option<&UserId>) -> Document {
    let after = after.map_or("", UserId::as_str);
    doc! { "_id": {
        "$gt": { "room": room.as_str(), "user": after },
        "$lt": { "room": room.as_str(), "user": Bson::MaxKey },
    } }
}

/// Everybody in a room.
pub(super) fn everyone_in(room: &RoomId) -> Document {
    members_of(room, None)
}

pub(super) fn by_id(room: &RoomId) -> Document {
    doc! { "_id": room.as_str() }
}

pub(super) fn by_pair(pair: &Pair) -> Document {
    doc! { "pair": { "a": pair.a.as_str(), "b": pair.b.as_str() } }
}

pub(super) fn member_id(room: &RoomId, user: &UserId) -> Result<Document> {
    let key = MemberKey {
        room: room.clone(),
        user: user.clone(),
    };
    document(&key)
}

/// A value as it is stored.
pub(super) fn document<T: serde::Serialize>(value: &T) -> Result<Document> {
    bson::serialize_to_document(value).map_err(|e| Error::Corrupt(format!("mongodb: {e}")))
}

fn one() -> FindOptions {
    FindOptions::default()
}

/// All of a room but the runs of its words, which only the index needs.
pub(super) fn without_grams() -> Document {
    doc! { "grams": 0 }
}

pub(super) fn room_options() -> FindOptions {
    FindOptions::builder().projection(without_grams()).build()
}

fn ordered(sort: Document, limit: usize) -> FindOptions {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).max(1);
    FindOptions::builder()
        .sort(sort)
        .limit(limit)
        .batch_size(u32::try_from(limit).unwrap_or(u32::MAX).min(100_000))
        .build()
}
