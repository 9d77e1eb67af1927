//! `GET /v1/rooms/{id}/export`: a whole log, one event a line.

use actix_web::HttpResponse;
use actix_web::http::header::CONTENT_DISPOSITION;
use actix_web::web::Data;
use backend::Backends;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use protocol::{RoomId, Seq, UserId};
use rest::openapi::Refused;
use rest::{Caller, Path, Problem, Refusal, RoomPath, access};
use tracing::warn;

use crate::History;

/// Events read and written at once: what an export holds in memory.
const EVENTS_AT_ONCE: usize = 200;

/// Exports a room's log.
///
/// Every event from the first to the last one at the time of the request, one JSON object a line, in ascending order.
/// An answer that breaks off is not complete.
#[utoipa::path(
    get, path = "/v1/rooms/{id}/export", tag = "history", operation_id = "export_room",
    params(("id" = RoomId, Path, description = "The room.")),
    responses(
        (status = 200, description = "One event a line.", body = String, content_type = "application/x-ndjson"),
        (status = 404, description = "No such room, or not the caller's to see.", body = Problem,
            content_type = "application/problem+json"),
        Refused
    )
)]
pub async fn read(
    Caller(caller): Caller,
    Path(RoomPath { id }): Path<RoomPath>,
    history: Data<History>,
) -> Result<HttpResponse, Refusal> {
    let backends = history.backends.clone();
    access::visible(&*backends.directory, &caller, &id).await?;
    // What is written meanwhile is not followed, or an export of a busy room would never end.
    let end = backends.log.head(&id).await?;
    let name = format!("attachment; filename=\"{id}.ndjson\"");
    Ok(HttpResponse::Ok()
        .content_type("application/x-ndjson")
        .insert_header((CONTENT_DISPOSITION, name))
        .streaming(lines(backends, caller, id, end)))
}

/// The log in pieces, each read when the one before it has been taken.
fn lines(
    backends: Backends,
    caller: UserId,
    room: RoomId,
    end: Seq,
) -> impl Stream<Item = Result<Bytes, Refusal>> {
    let state = (backends, caller, room, Seq::ZERO);
    stream::try_unfold(state, move |(backends, caller, room, after)| async move {
        if after >= end {
            return Ok(None);
        }
        let piece = piece(&backends, &caller, &room, after, end).await;
        let piece = piece.inspect_err(|refusal| {
            warn!(room.id = %room, after = after.get(), %refusal, "an export broke off");
        })?;
        Ok(piece.map(|(bytes, last)| (bytes, (backends, caller, room, last))))
    })
}

/// The next lines, up to `end`, and the seq of the last.
async fn piece(
    backends: &Backends,
    caller: &UserId,
    room: &RoomId,
    after: Seq,
    end: Seq,
) -> Result<Option<(Bytes, Seq)>, Refusal> {
    // A large export takes a while, and a member can be removed meanwhile.
    access::visible(&*backends.directory, caller, room).await?;
    let page = backends.log.read(room, after, EVENTS_AT_ONCE).await?;
    let mut bytes = BytesMut::new();
    let mut last = None;
    for event in page.events.iter().take_while(|event| event.seq <= end) {
        serde_json::to_writer((&mut bytes).writer(), event)
            .expect("an event has string keys, and memory takes every byte");
        bytes.put_u8(b'\n');
        last = Some(event.seq);
    }
    Ok(last.map(|last| (bytes.freeze(), last)))
}
