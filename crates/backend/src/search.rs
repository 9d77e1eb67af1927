//! Search: messages by their words.

mod words;

use async_trait::async_trait;
use protocol::{MessageId, RoomId, Seq, Timestamp, UserId};

pub use words::{TOKEN_LETTERS_MAX, TOKENS_MAX, is_unspaced, tokens};

use crate::Result;

/// What to look for. All words must occur; the last one may be unfinished (a prefix of at least two letters). There
/// are no operators: whatever looks like one is a word or nothing. A text without words finds nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub text: String,
    /// The rooms the user may read, or some of them.
    pub rooms: Vec<RoomId>,
    pub from: Option<UserId>,
    /// Only messages of this time or later.
    pub since: Option<Timestamp>,
    /// Only messages before this time.
    pub until: Option<Timestamp>,
    /// Continue after this place.
    pub cursor: Option<Cursor>,
    pub limit: usize,
}

/// A place in the results: newest first. Within one millisecond, and between rooms when a clock went back, the order is
/// the adapter's, always the same, and that of the log within a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub at: Timestamp,
    pub room: RoomId,
    pub seq: Seq,
}

/// A message that was found, with its present text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub room: RoomId,
    pub seq: Seq,
    pub id: MessageId,
    pub from: UserId,
    pub at: Timestamp,
    pub text: String,
}

/// Full text search over the present texts of messages: edits replace, deletes remove. Both families find the same
/// messages because both index the words of [`tokens`].
///
/// A message is found at the latest one second after its append returned, or, under load, once the index has caught up.
#[async_trait]
pub trait Search: Send + Sync {
    /// Newest first, at most `limit`.
    async fn search(&self, query: &Query) -> Result<Vec<Hit>>;
}
