//! A request that was refused: one type for sockets and HTTP, one match from the ports' errors.

use std::time::Duration;

use protocol::{ErrorCode, ErrorFrame};

/// One field that was wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Where it is: a query parameter, a path part, or a path into the body.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

/// Why a request was not carried out, in the words of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: String,
    pub retry_after: Option<Duration>,
    pub errors: Vec<FieldError>,
}

impl Refusal {
    /// A refusal with a code and a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
            errors: Vec::new(),
        }
    }

    /// One field was wrong.
    pub fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        let (field, reason) = (field.into(), reason.into());
        Self {
            message: format!("{field}: {reason}"),
            errors: vec![FieldError { field, reason }],
            ..Self::new(ErrorCode::BadRequest, "")
        }
    }

    /// There is no such room, or the caller may not know about it: the same words for both.
    #[must_use]
    pub fn no_room() -> Self {
        Self::new(ErrorCode::NotFound, "no such room")
    }

    /// The same request is worth another try after `after`.
    #[must_use]
    pub fn after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The `error` frame that says the same.
    #[must_use]
    pub fn into_frame(self) -> ErrorFrame {
        ErrorFrame {
            retry_after_ms: self
                .retry_after
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            ..ErrorFrame::new(self.code, self.message)
        }
    }
}

impl From<(ErrorCode, String)> for Refusal {
    fn from((code, message): (ErrorCode, String)) -> Self {
        Self::new(code, message)
    }
}

impl From<backend::Error> for Refusal {
    fn from(error: backend::Error) -> Self {
        use backend::Error;
        match error {
            Error::NotFound(message) => Self::new(ErrorCode::NotFound, message),
            Error::Conflict(message) => Self::new(ErrorCode::Conflict, message),
            Error::Refused(message) => Self::new(ErrorCode::Forbidden, message),
            Error::Unavailable {
                message,
                retry_after,
            } => Self::new(ErrorCode::Unavailable, message).after(retry_after),
            Error::Overloaded {
                message,
                retry_after,
            } => Self::new(ErrorCode::Overloaded, message).after(retry_after),
            Error::Corrupt(message) => {
                tracing::error!(%message, "stored data is corrupt");
                Self::new(ErrorCode::Internal, "stored data cannot be read")
            }
        }
    }
}
