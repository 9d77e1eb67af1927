//! Error codes of frames and HTTP problems, and WebSocket close codes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a request was refused. The same words are used in `error` frames and in HTTP problem documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request cannot be understood or breaks a rule; sending it again will not help.
    BadRequest,
    /// Nobody is signed in, or no longer.
    Unauthenticated,
    /// The act is not allowed to this user, in a room that the user can see.
    Forbidden,
    /// There is no such thing, or it is not the user's to see.
    NotFound,
    /// The same id was used before with other content, or a name is taken.
    Conflict,
    /// A text, frame or list is over its limit.
    TooLarge,
    /// Too many requests from this user; try again after `retry_after_ms`.
    RateLimited,
    /// Something the request needs is away, and it is not known whether what was asked is kept; send it again, with the
    /// same id, after `retry_after_ms`.
    Unavailable,
    /// There is too much work; nothing was accepted; try again after `retry_after_ms`.
    Overloaded,
    /// A defect of the server.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of the documentation.
    pub const ALL: [Self; 10] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::TooLarge,
        Self::RateLimited,
        Self::Unavailable,
        Self::Overloaded,
        Self::Internal,
    ];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status of a problem with this code.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::RateLimited => 429,
            Self::Unavailable | Self::Overloaded => 503,
            Self::Internal => 500,
        }
    }

    /// Whether the same request may succeed later without being changed.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::RateLimited | Self::Unavailable | Self::Overloaded | Self::Internal
        )
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the server closed a socket (RFC 6455 §7.4; 4000–4999 are ours).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The client said good-bye and is answered in kind.
    Normal = 1000,
    /// A broken WebSocket frame.
    Protocol = 1002,
    /// Text that is not UTF-8.
    InvalidPayload = 1007,
    /// Ten bad frames in a row.
    Policy = 1008,
    /// A frame over the limit.
    TooLarge = 1009,
    /// The process is leaving; connect again.
    Restart = 1012,
    /// No authentication in time, or a token that expired or was revoked.
    Unauthenticated = 4401,
    /// No answer to two pings.
    Timeout = 4408,
}

impl CloseCode {
    /// Every code, by number.
    pub const ALL: [Self; 8] = [
        Self::Normal,
        Self::Protocol,
        Self::InvalidPayload,
        Self::Policy,
        Self::TooLarge,
        Self::Restart,
        Self::Unauthenticated,
        Self::Timeout,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn as_u16(self) -> u16 {
        self as u16
    }
}
