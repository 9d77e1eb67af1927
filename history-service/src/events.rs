//! `GET /v1/rooms/{id}/events`: the log itself.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::Data;
use protocol::{Event, RoomId, Seq};
use rest::openapi::Refused;
use rest::{Caller, Limit, Path, Problem, Query, Refusal, RoomPath, access};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::History;
use crate::scan::{Asked, Walk, is_any};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Parameters {
    /// Only events after this seq; the page is the first of them.
    #[param(value_type = Option<i64>, nullable = false, minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    after: Option<Seq>,
    /// Only events before this seq; without `after` the page is the last of them.
    #[param(value_type = Option<i64>, nullable = false, minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    before: Option<Seq>,
    /// Events on both sides of this seq, itself included. The page has no `next`.
    #[param(value_type = Option<i64>, nullable = false, minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    around: Option<Seq>,
    /// The most events on the page.
    #[param(value_type = Option<u32>, nullable = false, minimum = 1, maximum = 200, default = 50)]
    #[serde(default)]
    limit: Limit,
    /// The `next` of the page before; the other parameters stay as they were.
    #[param(nullable = false)]
    cursor: Option<String>,
}

/// A piece of a room's log, ascending, without holes.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventPage {
    #[schema(value_type = Vec<Event>)]
    items: Vec<Arc<Event>>,
    /// The `cursor` of the next page; null at the end.
    #[schema(required = true)]
    next: Option<String>,
    /// The last seq of the room.
    head: Seq,
}

/// Reads a room's log.
///
/// Events as they were stored, in ascending order. Without `after`, `before` and `around` from the beginning. Members
/// may read a room, and everybody a public one.
#[utoipa::path(
    get, path = "/v1/rooms/{id}/events", tag = "history", operation_id = "read_events",
    params(("id" = RoomId, Path, description = "The room."), Parameters),
    responses(
        (status = 200, description = "A page of the log.", body = EventPage),
        (status = 404, description = "No such room, or not the caller's to see.", body = Problem,
            content_type = "application/problem+json"),
        Refused
    )
)]
pub async fn read(
    Caller(caller): Caller,
    Path(RoomPath { id }): Path<RoomPath>,
    Query(parameters): Query<Parameters>,
    history: Data<History>,
) -> Result<HttpResponse, Refusal> {
    let backends = &history.backends;
    access::visible(&*backends.directory, &caller, &id).await?;
    let asked = Asked {
        after: parameters.after,
        before: parameters.before,
        around: parameters.around,
        cursor: parameters.cursor.as_deref(),
        ..Asked::default()
    };
    let walk = Walk::new(&*backends.log, &id, is_any, &asked).await?;
    let found = walk.page(&asked, true, parameters.limit.get()).await?;
    Ok(rest::ok(&EventPage {
        next: found.cursor(),
        head: found.head,
        items: found.events,
    }))
}
