//! `/v1/rooms`, `/v1/rooms/{id}` and `/v1/direct/{user}`.

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::Data;
use backend::Backends;
use backend::directory::{RoomFilter, RoomKind, RoomPatch};
use protocol::{Role, RoomId, UserId};
use rest::openapi::Refused;
use rest::{Caller, Json, Limit, Page, Path, Query, Refusal, Room, RoomPath, cursor};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::problems::{Conflict, Forbidden, NotFound, RateLimited, TooLarge};
use super::view;
use crate::rooms::{Draft, Made, Rooms};

const SEARCH_CHARS_MAX: usize = 100;

/// Which rooms to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only rooms of this kind.
    #[param(nullable = false)]
    kind: Option<rest::RoomKind>,
    /// Only rooms whose id, name or topic contains this, without regard to case.
    #[param(nullable = false, max_length = 100)]
    q: Option<String>,
    /// Only rooms the caller is a member of; otherwise public rooms too.
    #[param(nullable = false)]
    mine: Option<bool>,
    /// At most this many.
    #[serde(default)]
    #[param(value_type = Option<u32>, nullable = false, minimum = 1, maximum = 200, default = 50)]
    limit: Limit,
    /// `next` of the page before.
    #[param(nullable = false)]
    cursor: Option<String>,
}

/// Public rooms and one's own, in order of id.
#[utoipa::path(
    get, path = "/v1/rooms", tag = "rooms", operation_id = "list_rooms",
    params(ListQuery),
    responses((status = 200, description = "A page of rooms.", body = Page<Room>), Refused),
    security(("open_mode" = [])),
)]
pub async fn list(
    Caller(user): Caller,
    Query(query): Query<ListQuery>,
    backends: Data<Backends>,
) -> Result<HttpResponse, Refusal> {
    let text = query.q.filter(|text| !text.is_empty());
    if text
        .as_ref()
        .is_some_and(|text| text.chars().count() > SEARCH_CHARS_MAX)
    {
        let reason = format!("must be at most {SEARCH_CHARS_MAX} characters");
        return Err(Refusal::field("q", reason));
    }
    let filter = RoomFilter {
        kind: query.kind.map(RoomKind::from),
        text,
        mine: query.mine.unwrap_or(false),
        after: query.cursor.as_deref().map(cursor::decode).transpose()?,
        limit: query.limit.get() + 1,
    };
    let mut rooms = backends.directory.rooms(&user, &filter).await?;
    let next = super::cut(&mut rooms, query.limit, |(room, _)| &room.id);
    let items = view::rooms(&backends, &user, &rooms).await?;
    Ok(rest::ok(&Page { items, next }))
}

/// A room to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewRoom)]
pub struct CreateBody {
    /// A public room may choose its id, unless it looks like a UUID; it is never given out twice.
    #[schema(
        value_type = Option<String>,
        pattern = "^(?!([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$)[a-z0-9][a-z0-9-]{0,63}$"
    )]
    id: Option<RoomId>,
    /// `public` or `private`.
    #[schema(value_type = String, pattern = "^(public|private)$")]
    kind: rest::RoomKind,
    #[schema(max_length = 100, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    name: Option<String>,
    #[schema(max_length = 1000, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    topic: Option<String>,
}

/// Makes a room that the caller owns.
#[utoipa::path(
    post, path = "/v1/rooms", tag = "rooms", operation_id = "create_room",
    request_body = CreateBody,
    responses(
        (status = 201, description = "The room was made.", body = Room,
            headers(("location" = String, description = "The room's path."))),
        Conflict,
        TooLarge,
        RateLimited,
        Refused,
    ),
    security(("open_mode" = [])),
)]
pub async fn create(
    Caller(user): Caller,
    Json(body): Json<CreateBody>,
    rooms: Data<Rooms>,
    backends: Data<Backends>,
) -> Result<HttpResponse, Refusal> {
    let draft = Draft {
        id: body.id,
        kind: body.kind.into(),
        name: body.name.unwrap_or_default(),
        topic: body.topic.unwrap_or_default(),
    };
    let room = rooms.create(&user, draft).await?;
    let path = format!("/v1/rooms/{}", room.id);
    let view = view::room(&backends, &user, &room, Some(Role::Owner)).await?;
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, path))
        .json(view))
}

/// One room: a public one, or one's own.
#[utoipa::path(
    get, path = "/v1/rooms/{id}", tag = "rooms", operation_id = "get_room",
    params(("id" = RoomId, Path, description = "The room.")),
    responses((status = 200, description = "The room.", body = Room), NotFound, Refused),
    security(("open_mode" = [])),
)]
pub async fn get(
    Caller(user): Caller,
    Path(RoomPath { id }): Path<RoomPath>,
    rooms: Data<Rooms>,
    backends: Data<Backends>,
) -> Result<HttpResponse, Refusal> {
    let (room, member) = rooms.visible(&user, &id).await?;
    let role = member.map(|mine| mine.role);
    let view = view::room(&backends, &user, &room, role).await?;
    Ok(rest::ok(&view))
}

/// New words for a room. What is left out stays; an empty text takes it away.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = RoomPatch)]
pub struct PatchBody {
    #[schema(max_length = 100, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    name: Option<String>,
    #[schema(max_length = 1000, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    topic: Option<String>,
}

/// Changes name and topic. Admins and owners may.
#[utoipa::path(
    patch, path = "/v1/rooms/{id}", tag = "rooms", operation_id = "patch_room",
    params(("id" = RoomId, Path, description = "The room.")),
    request_body = PatchBody,
    responses(
        (status = 200, description = "The room as it is now.", body = Room),
        Forbidden,
        NotFound,
        TooLarge,
        Refused,
    ),
    security(("open_mode" = [])),
)]
pub async fn patch(
    Caller(user): Caller,
    Path(RoomPath { id }): Path<RoomPath>,
    Json(body): Json<PatchBody>,
    rooms: Data<Rooms>,
    backends: Data<Backends>,
) -> Result<HttpResponse, Refusal> {
    let patch = RoomPatch {
        name: body.name,
        topic: body.topic,
    };
    let (room, member) = rooms.patch(&user, &id, patch).await?;
    let view = view::room(&backends, &user, &room, Some(member.role)).await?;
    Ok(rest::ok(&view))
}

/// Deletes a room with everything in it, for good. Owners may.
#[utoipa::path(
    delete, path = "/v1/rooms/{id}", tag = "rooms", operation_id = "delete_room",
    params(("id" = RoomId, Path, description = "The room.")),
    responses((status = 204, description = "The room is gone."), Forbidden, NotFound, Refused),
    security(("open_mode" = [])),
)]
pub async fn delete(
    Caller(user): Caller,
    Path(RoomPath { id }): Path<RoomPath>,
    rooms: Data<Rooms>,
) -> Result<HttpResponse, Refusal> {
    rooms.delete(&user, &id).await?;
    Ok(rest::no_content())
}

/// The path of a direct room.
#[derive(Debug, Deserialize)]
pub struct DirectPath {
    user: UserId,
}

/// The direct room of the caller and another user, made on first use.
#[utoipa::path(
    put, path = "/v1/direct/{user}", tag = "rooms", operation_id = "put_direct",
    params(("user" = UserId, Path, description = "The other user.")),
    responses(
        (status = 200, description = "The room the two have.", body = Room),
        (status = 201, description = "The room was made.", body = Room),
        Refused,
        RateLimited,
    ),
    security(("open_mode" = [])),
)]
pub async fn direct(
    Caller(user): Caller,
    Path(DirectPath { user: with }): Path<DirectPath>,
    rooms: Data<Rooms>,
    backends: Data<Backends>,
) -> Result<HttpResponse, Refusal> {
    let made = rooms.open_direct(&user, &with).await?;
    let value = view::room(&backends, &user, &made.value, Some(Role::Member)).await?;
    Ok(super::answer(&Made {
        value,
        new: made.new,
    }))
}
