//! Many events in one AMQP message: one JSON object per line, each as on the wire to clients.

use std::sync::Arc;

use protocol::{Event, RoomId};

/// The version of the form, in the header [`VERSION_HEADER`].
pub const VERSION: u32 = 1;
pub const VERSION_HEADER: &str = "x-darda-version";
pub const CONTENT_TYPE: &str = "application/x-ndjson";
/// An envelope is closed when it has this many bytes or events.
pub const BYTES_MAX: usize = 256 * 1024;
pub const EVENTS_MAX: usize = 1000;

/// Puts an event at the end of an envelope.
pub fn push(envelope: &mut Vec<u8>, event: &Event) {
    envelope.extend_from_slice(&protocol::encode_event(event));
    envelope.push(b'\n');
}

/// Puts events into one envelope, however large.
#[must_use]
pub fn encode(events: &[Arc<Event>]) -> Vec<u8> {
    let mut envelope = Vec::with_capacity(events.len() * 256);
    for event in events {
        push(&mut envelope, event);
    }
    envelope
}

/// A line that is no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub line: Vec<u8>,
    pub reason: String,
}

/// The events of an envelope in order; lines that are none stand in their places.
#[must_use]
pub fn decode(envelope: &[u8]) -> Vec<Result<Event, Broken>> {
    envelope
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            serde_json::from_slice::<Event>(line).map_err(|error| Broken {
                line: line.to_vec(),
                reason: error.to_string(),
            })
        })
        .collect()
}

/// The shard of a room.
#[must_use]
pub fn shard(room: &RoomId, shards: u16) -> u16 {
    (crc32fast::hash(room.as_str().as_bytes()) % u32::from(shards)) as u16
}
