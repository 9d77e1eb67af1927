//! `GET /v1/inbox`: the caller's rooms, what was last said there, and how much of it is new.

use actix_web::HttpResponse;
use actix_web::web::Data;
use backend::Backends;
use backend::directory::{Member, Room, RoomFilter};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use protocol::{RoomId, Seq, UserId};
use rest::openapi::Refused;
use rest::{Caller, Limit, Page, Query, Refusal, cursor};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::History;
use crate::scan::{Asked, Walk, is_message};
use crate::view::{self, Message};

/// More unread messages than this are not counted.
const UNREAD_MAX: u64 = 1000;
/// Rooms that are looked into at the same time.
const ROOMS_AT_ONCE: usize = 8;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Parameters {
    /// The most rooms on the page.
    #[param(value_type = Option<u32>, nullable = false, minimum = 1, maximum = 200, default = 50)]
    #[serde(default)]
    limit: Limit,
    /// The `next` of the page before.
    #[param(nullable = false)]
    cursor: Option<String>,
}

/// One of the caller's rooms.
#[derive(Debug, Serialize, ToSchema)]
pub struct InboxRoom {
    room: rest::Room,
    /// The last message; null where there is none among the room's latest events.
    #[schema(required = true)]
    last: Option<Message>,
    /// Messages of others that the caller has not read, counted up to 1000.
    #[schema(minimum = 0, maximum = 1000)]
    unread: u64,
    /// Where the caller has read up to.
    read: Seq,
    /// Up to where a client of the caller has the events.
    received: Seq,
}

/// Lists the caller's rooms with the last message and the number of unread ones.
///
/// In order of the rooms' ids.
#[utoipa::path(
    get, path = "/v1/inbox", tag = "history", operation_id = "read_inbox",
    params(Parameters),
    responses((status = 200, description = "A page of rooms.", body = Page<InboxRoom>), Refused)
)]
pub async fn read(
    Caller(caller): Caller,
    Query(parameters): Query<Parameters>,
    history: Data<History>,
) -> Result<HttpResponse, Refusal> {
    let backends = &history.backends;
    let after: Option<RoomId> = parameters
        .cursor
        .as_deref()
        .map(cursor::decode)
        .transpose()?;
    let limit = parameters.limit.get();
    let filter = RoomFilter {
        mine: true,
        after,
        // One more than asked for tells whether there is a next page.
        limit: limit + 1,
        ..RoomFilter::default()
    };
    let mut rooms = backends.directory.rooms(&caller, &filter).await?;
    let has_more = rooms.len() > limit;
    rooms.truncate(limit);
    let next = rooms
        .last()
        .filter(|_| has_more)
        .map(|(room, _)| cursor::encode(&room.id));
    let items: Vec<InboxRoom> = stream::iter(rooms)
        .filter_map(async |(room, member)| Some((room, member?)))
        .map(|(room, member)| look_into(backends, &caller, room, member))
        .buffered(ROOMS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(rest::ok(&Page { items, next }))
}

async fn look_into(
    backends: &Backends,
    caller: &UserId,
    room: Room,
    member: Member,
) -> Result<InboxRoom, Refusal> {
    let log = &*backends.log;
    let unread = log
        .unread(&room.id, caller, member.read, UNREAD_MAX)
        .await?;
    let newest = Asked::default();
    let walk = Walk::new(log, &room.id, is_message, &newest).await?;
    let found = walk.page(&newest, false, 1).await?;
    let last = view::present(log, &room.id, &found.events).await?.pop();
    let head = log.head(&room.id).await?;
    Ok(InboxRoom {
        room: rest::Room::of(&room, Some(member.role), head, caller),
        last,
        unread,
        read: member.read,
        received: member.received,
    })
}
