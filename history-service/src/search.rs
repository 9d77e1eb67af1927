//! `GET /v1/search`: messages by their words.

use std::time::Instant;

use actix_web::HttpResponse;
use actix_web::web::Data;
use backend::Backends;
use backend::search::{Cursor, Hit, Query as Search};
use protocol::{MessageId, RoomId, Seq, Timestamp, UserId};
use rest::openapi::Refused;
use rest::{Caller, Limit, Page, Problem, Query, Refusal, access, cursor};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::History;

/// The longest query.
const QUERY_CHARS_MAX: usize = 256;
/// The most rooms that are searched at once; of a user with more, those whose ids come first.
const ROOMS_MAX: usize = 5_000;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Parameters {
    /// Words that must all occur; the last one may be unfinished.
    #[param(min_length = 1, max_length = 256)]
    q: String,
    /// Only in this room; otherwise in all rooms the caller is a member of.
    #[param(value_type = Option<String>, pattern = "^[a-z0-9][a-z0-9-]{0,63}$", nullable = false)]
    room: Option<RoomId>,
    /// Only messages of this user.
    #[param(value_type = Option<String>, pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", nullable = false)]
    from: Option<UserId>,
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

/// A message that was found, with its present text.
#[derive(Debug, Serialize, ToSchema)]
pub struct FoundMessage {
    room: RoomId,
    seq: Seq,
    id: MessageId,
    from: UserId,
    at: Timestamp,
    text: String,
}

impl From<Hit> for FoundMessage {
    fn from(hit: Hit) -> Self {
        Self {
            room: hit.room,
            seq: hit.seq,
            id: hit.id,
            from: hit.from,
            at: hit.at,
            text: hit.text,
        }
    }
}

/// The place after a hit.
type Place = (Timestamp, RoomId, Seq);

/// Searches messages.
///
/// Newest first, by their present text.
#[utoipa::path(
    get, path = "/v1/search", tag = "history", operation_id = "search_messages",
    params(Parameters),
    responses(
        (status = 200, description = "A page of messages.", body = Page<FoundMessage>),
        (status = 404, description = "No such room, or not the caller's to see.", body = Problem,
            content_type = "application/problem+json"),
        Refused
    )
)]
pub async fn read(
    Caller(caller): Caller,
    Query(parameters): Query<Parameters>,
    history: Data<History>,
) -> Result<HttpResponse, Refusal> {
    let chars = parameters.q.chars().count();
    if !(1..=QUERY_CHARS_MAX).contains(&chars) {
        let reason = format!("must have 1 to {QUERY_CHARS_MAX} characters");
        return Err(Refusal::field("q", reason));
    }
    let cursor = match parameters.cursor.as_deref() {
        Some(text) => {
            let (at, room, seq): Place = cursor::decode(text)?;
            Some(Cursor { at, room, seq })
        }
        None => None,
    };
    let backends = &history.backends;
    let rooms = match parameters.room {
        Some(room) => vec![
            access::visible(&*backends.directory, &caller, &room)
                .await?
                .0
                .id,
        ],
        None => rooms_of(backends, &caller).await?,
    };
    let limit = parameters.limit.get();
    // One more than asked for tells whether there is a next page.
    let query = Search {
        text: parameters.q,
        rooms,
        from: parameters.from,
        since: parameters.since,
        until: parameters.until,
        cursor,
        limit: limit + 1,
    };
    let begun = Instant::now();
    let found = backends.search.search(&query).await;
    let took = begun.elapsed();
    history.search_seconds.observe(took.as_secs_f64());
    let mut hits = found?;
    let has_more = hits.len() > limit;
    hits.truncate(limit);
    let next = hits
        .last()
        .filter(|_| has_more)
        .map(|hit| cursor::encode(&(hit.at, &hit.room, hit.seq)));
    let items: Vec<FoundMessage> = hits.into_iter().map(FoundMessage::from).collect();
    Ok(rest::ok(&Page { items, next }))
}

/// The rooms of a user, the first of them where there are very many.
pub async fn rooms_of(backends: &Backends, user: &UserId) -> Result<Vec<RoomId>, Refusal> {
    Ok(backends.directory.room_ids(user, None, ROOMS_MAX).await?)
}
