//! `/v1/rooms/{id}/invites` and `/v1/invites/{code}`.

use actix_web::HttpResponse;
use actix_web::web::Data;
use backend::Backends;
use protocol::{RoomId, Timestamp};
use rest::openapi::Refused;
use rest::{Caller, Json, Path, Refusal, Room, RoomPath};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problems::{Forbidden, NotFound, TooLarge};
use super::view;
use crate::rooms::{InviteTerms, Rooms};

/// What an invite shall be good for.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewInvite)]
pub struct CreateBody {
    /// How many people may use it.
    #[schema(minimum = 1, maximum = 1000, default = 10)]
    max_uses: Option<u32>,
    /// How long, in seconds.
    #[schema(minimum = 1, maximum = 2_592_000, default = 604_800)]
    expires_in_secs: Option<u64>,
}

/// A code that lets its bearers into a room.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Invite)]
pub struct InviteView {
    code: String,
    room: RoomId,
    uses_left: u32,
    expires_at: Timestamp,
}

/// Makes an invite. Admins and owners may.
///
/// It ends with its time, with its last use, and when whoever made it leaves the room or becomes a plain member. A room
/// has at most 100 at a time; one more is `too_large`.
#[utoipa::path(
    post, path = "/v1/rooms/{id}/invites", tag = "rooms", operation_id = "create_invite",
    params(("id" = RoomId, Path, description = "The room.")),
    request_body = CreateBody,
    responses(
        (status = 201, description = "The invite.", body = InviteView),
        Forbidden,
        NotFound,
        TooLarge,
        Refused,
    ),
    security(("open_mode" = [])),
)]
pub async fn create(
    Caller(user): Caller,
    Path(RoomPath { id }): Path<RoomPath>,
    Json(body): Json<CreateBody>,
    rooms: Data<Rooms>,
) -> Result<HttpResponse, Refusal> {
    let default = InviteTerms::default();
    let terms = InviteTerms {
        max_uses: body.max_uses.unwrap_or(default.max_uses),
        expires_in_secs: body.expires_in_secs.unwrap_or(default.expires_in_secs),
    };
    let invite = rooms.invite(&user, &id, terms).await?;
    Ok(rest::created(&InviteView {
        code: invite.code,
        room: invite.room,
        uses_left: invite.uses_left,
        expires_at: invite.expires_at,
    }))
}

/// The path of an invite.
#[derive(Debug, Deserialize)]
pub struct RedeemPath {
    code: String,
}

/// Enters a room by an invite. Costs no use for somebody who is a member already.
#[utoipa::path(
    post, path = "/v1/invites/{code}", tag = "rooms", operation_id = "redeem_invite",
    params(("code" = String, Path, description = "The code.")),
    responses(
        (status = 200, description = "The room.", body = Room),
        Forbidden,
        NotFound,
        Refused,
    ),
    security(("open_mode" = [])),
)]
pub async fn redeem(
    Caller(user): Caller,
    Path(RedeemPath { code }): Path<RedeemPath>,
    rooms: Data<Rooms>,
    backends: Data<Backends>,
) -> Result<HttpResponse, Refusal> {
    let room = rooms.redeem(&user, &code).await?;
    let (room, member) = rooms.member(&user, &room.id).await?;
    let view = view::room(&backends, &user, &room, Some(member.role)).await?;
    Ok(rest::ok(&view))
}
