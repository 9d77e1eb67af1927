//! One error type for all ports, its variants chosen by what a caller can do.

use std::time::Duration;

/// The result of a port.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a port did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no such room, member, message or invite.
    #[error("not found: {0}")]
    NotFound(String),
    /// The same id was used with other content, or a name is taken.
    #[error("{0}")]
    Conflict(String),
    /// The request breaks a rule of the store, such as the number of members.
    #[error("{0}")]
    Refused(String),
    /// Something is away, and it is not known whether the change is kept. The same call, with the same ids, finds out
    /// and may succeed later.
    #[error("unavailable: {message}")]
    Unavailable {
        message: String,
        retry_after: Duration,
    },
    /// Too much work is waiting; nothing was accepted.
    #[error("overloaded: {message}")]
    Overloaded {
        message: String,
        retry_after: Duration,
    },
    /// What is stored cannot be what was written. A person has to look.
    #[error("corrupt: {0}")]
    Corrupt(String),
}

impl Error {
    /// Something the call needs is away; worth another try after a second.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable {
            message: message.into(),
            retry_after: Duration::from_secs(1),
        }
    }

    /// A queue is full; worth another try after a moment.
    pub fn overloaded(message: impl Into<String>) -> Self {
        Self::Overloaded {
            message: message.into(),
            retry_after: Duration::from_millis(500),
        }
    }
}
