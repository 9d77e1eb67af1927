//! What a server accepts, and the checks that need nothing but the limits.

use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Meta};

/// The limits a server tells its clients in `welcome`. Bytes are bytes of UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// A WebSocket message, header not counted.
    pub frame_bytes: usize,
    /// The text of one message.
    pub text_bytes: usize,
    /// All keys and values of one message's `meta`.
    pub meta_bytes: usize,
    /// Rooms one connection may be subscribed to.
    pub subscriptions: usize,
    /// Rooms in one `subscribe`.
    pub subscribe_rooms: usize,
    /// Events in one `fetch`.
    pub fetch_events: usize,
    /// Sends per second of one user, in the long run.
    pub sends_per_sec: u32,
    /// Sends of one user at once.
    pub sends_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 64 * 1024,
            text_bytes: 16 * 1024,
            meta_bytes: 2 * 1024,
            subscriptions: 1000,
            subscribe_rooms: 200,
            fetch_events: 200,
            sends_per_sec: 20,
            sends_burst: 100,
        }
    }
}

/// Checks the text of a message or an edit.
///
/// # Errors
/// The code and a sentence for the sender, when the text is empty or too long.
pub fn check_text(text: &str, limits: &Limits) -> Result<(), (ErrorCode, String)> {
    if text.trim().is_empty() {
        return Err((
            ErrorCode::BadRequest,
            "text: must not be empty or only white space".to_owned(),
        ));
    }
    if text.len() > limits.text_bytes {
        return Err((
            ErrorCode::TooLarge,
            format!(
                "text: is {} bytes, at most {} are allowed",
                text.len(),
                limits.text_bytes
            ),
        ));
    }
    Ok(())
}

/// Checks the emoji of a reaction: 1 to 64 bytes without white space or control characters.
///
/// # Errors
/// The code and a sentence for the sender.
pub fn check_emoji(emoji: &str) -> Result<(), (ErrorCode, String)> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    if matches!(emoji.len(), 1..=64) && emoji.chars().all(plain) {
        Ok(())
    } else {
        Err((
            ErrorCode::BadRequest,
            "emoji: must be 1 to 64 bytes without white space or control characters".to_owned(),
        ))
    }
}

/// Checks the sum of a meta map's keys and values.
///
/// # Errors
/// The code and a sentence for the sender.
pub fn check_meta(meta: &Meta, limits: &Limits) -> Result<(), (ErrorCode, String)> {
    let bytes: usize = meta
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > limits.meta_bytes {
        return Err((
            ErrorCode::TooLarge,
            format!(
                "meta: is {bytes} bytes, at most {} are allowed",
                limits.meta_bytes
            ),
        ));
    }
    Ok(())
}
