//! The REST surface: rooms, members, invitations, sending, presence.
//!
//! Handlers read the request, ask [`Rooms`](crate::rooms::Rooms) or [`Messages`](crate::messages::Messages), and write
//! the answer. The rules stand there, none here. Reading the log is the history service's.

mod invites;
mod members;
mod messages;
mod presence;
mod problems;
mod rooms;
mod view;

use actix_web::HttpResponse;
use actix_web::web::{ServiceConfig, resource};
use rest::{Limit, cursor};
use serde::Serialize;
use utoipa::OpenApi as _;

use crate::rooms::Made;

/// Adds the paths. Expects `web::Data` of [`Rooms`](crate::rooms::Rooms), [`Messages`](crate::messages::Messages) and
/// [`backend::Backends`]. The history service's paths go before: of `/v1/rooms/{id}/messages` they take `GET` alone.
pub fn configure(config: &mut ServiceConfig) {
    config
        .service(resource("/v1/rooms").get(rooms::list).post(rooms::create))
        .service(
            resource("/v1/rooms/{id}")
                .get(rooms::get)
                .patch(rooms::patch)
                .delete(rooms::delete),
        )
        .service(resource("/v1/rooms/{id}/members").get(members::list))
        .service(
            resource("/v1/rooms/{id}/members/{user}")
                .put(members::put)
                .patch(members::patch)
                .delete(members::delete),
        )
        .service(resource("/v1/rooms/{id}/invites").post(invites::create))
        .service(resource("/v1/rooms/{id}/messages").post(messages::send))
        .service(resource("/v1/invites/{code}").post(invites::redeem))
        .service(resource("/v1/direct/{user}").put(rooms::direct))
        .service(resource("/v1/presence").get(presence::status));
}

#[derive(utoipa::OpenApi)]
#[openapi(
    paths(
        rooms::list,
        rooms::create,
        rooms::get,
        rooms::patch,
        rooms::delete,
        rooms::direct,
        members::list,
        members::put,
        members::patch,
        members::delete,
        invites::create,
        invites::redeem,
        messages::send,
        presence::status,
    ),
    tags(
        (name = "rooms", description = "Rooms and who is in them."),
        (name = "messages", description = "What is written there."),
        (name = "presence", description = "Who is there."),
    ),
)]
struct Described;

/// The description of these paths; the programs merge it with the history service's.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    Described::openapi()
}

/// Cuts a list that was read one longer than asked for, and says where it goes on.
fn cut<T, P: Serialize>(
    items: &mut Vec<T>,
    limit: Limit,
    place: impl Fn(&T) -> &P,
) -> Option<String> {
    if items.len() <= limit.get() {
        return None;
    }
    items.truncate(limit.get());
    items.last().map(|last| cursor::encode(place(last)))
}

/// `201` for what had to be made, `200` for what was there.
fn answer<T: Serialize>(body: &Made<T>) -> HttpResponse {
    if body.new {
        rest::created(&body.value)
    } else {
        rest::ok(&body.value)
    }
}
