//! `/v1/rooms/{id}/members`.

use actix_web::HttpResponse;
use actix_web::web::Data;
use protocol::{Role, RoomId, UserId};
use rest::openapi::Refused;
use rest::{Caller, Json, Limit, Page, Path, Query, Refusal, RoomPath, cursor};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::problems::{Forbidden, NotFound, RateLimited, TooLarge};
use super::view::MemberView;
use crate::rooms::{Made, Rooms};

/// The path of one membership.
#[derive(Debug, Deserialize)]
pub struct MemberPath {
    id: RoomId,
    user: Who,
}

/// A user, or `me` for the caller (so nobody but the caller can be reached under the name "me").
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Who(UserId);

impl Who {
    fn of(self, caller: &UserId) -> UserId {
        match self.0.as_str() {
            "me" => caller.clone(),
            _ => self.0,
        }
    }
}

/// Which members to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// At most this many.
    #[serde(default)]
    #[param(value_type = Option<u32>, nullable = false, minimum = 1, maximum = 200, default = 50)]
    limit: Limit,
    /// `next` of the page before.
    #[param(nullable = false)]
    cursor: Option<String>,
}

/// The members in order of name, of a public room or one's own.
#[utoipa::path(
    get, path = "/v1/rooms/{id}/members", tag = "rooms", operation_id = "list_members",
    params(("id" = RoomId, Path, description = "The room."), ListQuery),
    responses(
        (status = 200, description = "A page of members.", body = Page<MemberView>),
        NotFound,
        Refused,
    ),
    security(("open_mode" = [])),
)]
pub async fn list(
    Caller(caller): Caller,
    Path(RoomPath { id }): Path<RoomPath>,
    Query(query): Query<ListQuery>,
    rooms: Data<Rooms>,
) -> Result<HttpResponse, Refusal> {
    let after: Option<UserId> = query.cursor.as_deref().map(cursor::decode).transpose()?;
    let mut members = rooms
        .members(&caller, &id, after.as_ref(), query.limit.get() + 1)
        .await?;
    let next = super::cut(&mut members, query.limit, |member| &member.user);
    let items = members.into_iter().map(MemberView::from).collect();
    Ok(rest::ok(&Page { items, next }))
}

/// Makes a user a member: oneself (`me`) of a public room, others as admin or owner.
#[utoipa::path(
    put, path = "/v1/rooms/{id}/members/{user}", tag = "rooms", operation_id = "put_member",
    params(
        ("id" = RoomId, Path, description = "The room."),
        ("user" = UserId, Path, description = "The user; `me` is the caller."),
    ),
    responses(
        (status = 200, description = "The user was a member already.", body = MemberView),
        (status = 201, description = "The user is a member now.", body = MemberView),
        Forbidden,
        NotFound,
        RateLimited,
        Refused,
    ),
    security(("open_mode" = [])),
)]
pub async fn put(
    Caller(caller): Caller,
    Path(path): Path<MemberPath>,
    rooms: Data<Rooms>,
) -> Result<HttpResponse, Refusal> {
    let user = path.user.of(&caller);
    let made = rooms.put_member(&caller, &path.id, &user).await?;
    Ok(super::answer(&Made {
        value: MemberView::from(made.value),
        new: made.new,
    }))
}

/// Another role for a member.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MemberPatch)]
pub struct PatchBody {
    role: Role,
}

/// Gives a member another role. Owners may give any; an admin may only step down.
#[utoipa::path(
    patch, path = "/v1/rooms/{id}/members/{user}", tag = "rooms", operation_id = "patch_member",
    params(
        ("id" = RoomId, Path, description = "The room."),
        ("user" = UserId, Path, description = "The user; `me` is the caller."),
    ),
    request_body = PatchBody,
    responses(
        (status = 200, description = "The member as they are now.", body = MemberView),
        Forbidden,
        NotFound,
        TooLarge,
        Refused,
    ),
    security(("open_mode" = [])),
)]
pub async fn patch(
    Caller(caller): Caller,
    Path(path): Path<MemberPath>,
    Json(body): Json<PatchBody>,
    rooms: Data<Rooms>,
) -> Result<HttpResponse, Refusal> {
    let user = path.user.of(&caller);
    let member = rooms.set_role(&caller, &path.id, &user, body.role).await?;
    Ok(rest::ok(&MemberView::from(member)))
}

/// Ends a membership: one's own (`me`), another's as owner, or a plain member's as admin.
#[utoipa::path(
    delete, path = "/v1/rooms/{id}/members/{user}", tag = "rooms", operation_id = "delete_member",
    params(
        ("id" = RoomId, Path, description = "The room."),
        ("user" = UserId, Path, description = "The user; `me` is the caller."),
    ),
    responses(
        (status = 204, description = "The user is no member any more."),
        Forbidden,
        NotFound,
        Refused,
    ),
    security(("open_mode" = [])),
)]
pub async fn delete(
    Caller(caller): Caller,
    Path(path): Path<MemberPath>,
    rooms: Data<Rooms>,
) -> Result<HttpResponse, Refusal> {
    let user = path.user.of(&caller);
    rooms.remove_member(&caller, &path.id, &user).await?;
    Ok(rest::no_content())
}
