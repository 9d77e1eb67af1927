//! The refusals that some paths have beside those that all have ([`rest::openapi::Refused`]), for the description.
#![expect(dead_code, reason = "these are described, never made")]

use rest::Problem;
use utoipa::IntoResponses;

/// What a path about one room can answer.
#[derive(IntoResponses)]
pub enum NotFound {
    /// There is no such thing, or it is not the caller's to see: both look the same.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(#[to_schema] Problem),
}

/// What an act in a room can answer.
#[derive(IntoResponses)]
pub enum Forbidden {
    /// The caller can see the room but may not do this.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] Problem),
}

/// What a path that gives out names or ids can answer.
#[derive(IntoResponses)]
pub enum Conflict {
    /// The id was used before, with other content or by somebody else.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] Problem),
}

/// What a path with a body can answer.
#[derive(IntoResponses)]
pub enum TooLarge {
    /// The body, or a text in it, is over its limit.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] Problem),
}

/// What a path whose rate is limited can answer.
#[derive(IntoResponses)]
pub enum RateLimited {
    /// Too many of these from this user; try again later.
    #[response(status = 429, content_type = "application/problem+json")]
    RateLimited(#[to_schema] Problem),
}
