//! `GET /v1/rooms/{id}/messages`: what people wrote, as it stands now.

use actix_web::HttpResponse;
use actix_web::web::Data;
use protocol::{RoomId, Seq, Timestamp};
use rest::openapi::Refused;
use rest::{Caller, Limit, Page, Path, Problem, Query, Refusal, RoomPath, access};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::History;
use crate::scan::{Asked, Walk, is_message};
use crate::view::{self, Message};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Parameters {
    /// Only messages before this seq.
    #[param(value_type = Option<i64>, nullable = false, minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    before: Option<Seq>,
    /// Only messages after this seq.
    #[param(value_type = Option<i64>, nullable = false, minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    after: Option<Seq>,
    /// Messages on both sides of this seq, itself included. The page has no `next`.
    #[param(value_type = Option<i64>, nullable = false, minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    around: Option<Seq>,
    /// Only messages of this time or later.
    #[param(value_type = Option<String>, format = DateTime, nullable = false)]
    since: Option<Timestamp>,
    /// Only messages before this time.
    #[param(value_type = Option<String>, format = DateTime, nullable = false)]
    until: Option<Timestamp>,
    /// The most messages on the page.
    #[param(value_type = Option<u32>, nullable = false, minimum = 1, maximum = 200, default = 50)]
    #[serde(default)]
    limit: Limit,
    /// The `next` of the page before; the other parameters stay as they were.
    #[param(nullable = false)]
    cursor: Option<String>,
}

/// Reads messages.
///
/// Edits, deletions and reactions are applied. Always in ascending order. With `after` or `since` the page is the
/// first of what was asked for and `next` goes up; otherwise it is the last and `next` goes down. A page can be
/// shorter than `limit`, even empty, where a room's log holds little but other events: only a null `next` is the end.
#[utoipa::path(
    get, path = "/v1/rooms/{id}/messages", tag = "history", operation_id = "read_messages",
    params(("id" = RoomId, Path, description = "The room."), Parameters),
    responses(
        (status = 200, description = "A page of messages.", body = Page<Message>),
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
        since: parameters.since,
        until: parameters.until,
        cursor: parameters.cursor.as_deref(),
    };
    let walk = Walk::new(&*backends.log, &id, is_message, &asked).await?;
    let found = walk.page(&asked, false, parameters.limit.get()).await?;
    let next = found.cursor();
    let items = view::present(&*backends.log, &id, &found.events).await?;
    Ok(rest::ok(&Page { items, next }))
}
