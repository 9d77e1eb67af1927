//! `POST /v1/rooms/{id}/messages`: a `send` without a socket.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::Data;
use protocol::{MessageId, Meta, RoomId, Send, Seq, Timestamp};
use rest::openapi::Refused;
use rest::{Caller, Json, Path, Refusal, RoomPath};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problems::{Conflict, NotFound, RateLimited, TooLarge};
use crate::messages::Messages;

/// A message to be sent.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewMessage)]
pub struct SendBody {
    /// The sender's id of the message. Sending the same again is safe and is answered with the place of the first.
    id: MessageId,
    #[schema(min_length = 1, pattern = "\\S")]
    text: String,
    /// The seq of the message this one answers.
    reply_to: Option<Seq>,
    /// Small facts, at most 2 KiB.
    meta: Option<Meta>,
}

/// The place a message got.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Ack)]
pub struct AckView {
    id: MessageId,
    room: RoomId,
    seq: Seq,
    at: Timestamp,
    /// The message was there already. Left out when it was not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    duplicate: bool,
}

/// Sends a message. Members may; it is kept for good when this answers.
#[utoipa::path(
    post, path = "/v1/rooms/{id}/messages", tag = "messages", operation_id = "send_message",
    params(("id" = RoomId, Path, description = "The room.")),
    request_body = SendBody,
    responses(
        (status = 201, description = "The message is stored.", body = AckView),
        (status = 200, description = "It was stored already.", body = AckView),
        NotFound,
        Conflict,
        TooLarge,
        RateLimited,
        Refused,
    ),
    security(("open_mode" = [])),
)]
pub async fn send(
    Caller(user): Caller,
    Path(RoomPath { id }): Path<RoomPath>,
    Json(body): Json<SendBody>,
    messages: Data<Messages>,
) -> Result<HttpResponse, Refusal> {
    let send = Send {
        id: body.id,
        room: Some(id),
        to: None,
        text: body.text,
        reply_to: body.reply_to,
        meta: body.meta,
    };
    let stored = messages.send(&user, send).await?;
    let status = if stored.duplicate {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok(HttpResponse::build(status).json(AckView {
        id: body.id,
        room: stored.event.room.clone(),
        seq: stored.event.seq,
        at: stored.event.at,
        duplicate: stored.duplicate,
    }))
}
