//! `GET /v1/presence`.

use actix_web::HttpResponse;
use actix_web::web::Data;
use backend::Backends;
use protocol::{Status, Timestamp, UserId};
use rest::openapi::Refused;
use rest::{Caller, Query, Refusal};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

const USERS_MAX: usize = 100;

/// Whose presence.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatusQuery {
    /// User ids with commas between them, at most 100.
    #[param(pattern = "^[a-z0-9][a-z0-9._-]{0,63}(,[a-z0-9][a-z0-9._-]{0,63}){0,99}$")]
    users: String,
}

/// Whether somebody is there.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatusView {
    user: UserId,
    status: Status,
    /// When the user was last online, when that is known and they are not now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_seen: Option<Timestamp>,
}

/// The states asked for, in that order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Statuses {
    items: Vec<StatusView>,
}

/// Whether users are there.
#[utoipa::path(
    get, path = "/v1/presence", tag = "presence", operation_id = "get_presence",
    params(StatusQuery),
    responses((status = 200, description = "One state per user.", body = Statuses), Refused),
    security(("open_mode" = [])),
)]
pub async fn status(
    _: Caller,
    Query(query): Query<StatusQuery>,
    backends: Data<Backends>,
) -> Result<HttpResponse, Refusal> {
    // Counted before anything is kept: the length of the list is the caller's choice.
    if query.users.split(',').count() > USERS_MAX {
        let reason = format!("must be at most {USERS_MAX} user ids");
        return Err(Refusal::field("users", reason));
    }
    let users: Vec<UserId> = query
        .users
        .split(',')
        .map(UserId::parse)
        .collect::<Result<_, _>>()
        .map_err(|error| Refusal::field("users", error.to_string()))?;
    let states = backends.presence.status(&users).await?;
    let items = states
        .into_iter()
        .map(|state| StatusView {
            user: state.user,
            status: state.status,
            last_seen: state.last_seen,
        })
        .collect();
    Ok(rest::ok(&Statuses { items }))
}
