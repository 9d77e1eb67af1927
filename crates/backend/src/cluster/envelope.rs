//! Many events in one AMQP message: one JSON object per line, each as on the wire to clients.

use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use protocol::{Event, RoomId, Timestamp};

/// The version of the form, in the header [`VERSION_HEADER`].
pub const VERSION: u32 = 1;
pub const VERSION_HEADER: &str = "x-darda-version";
pub const CONTENT_TYPE: &str = "application/x-ndjson";
/// Which process published the envelope, and when, in milliseconds since 1970.
const POD_HEADER: &str = "x-darda-pod";
const AT_HEADER: &str = "x-darda-at";
/// An envelope is closed when it has this many bytes or events.
pub const BYTES_MAX: usize = 64 * 1024;
pub const EVENTS_MAX: usize = 1000;

/// Where an envelope comes from, as far as it says. For people who look for what became of a message; nothing is decided
/// by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub pod: Option<Arc<str>>,
    /// When it was published.
    pub at: Option<Timestamp>,
}

impl Origin {
    /// What an envelope says of itself.
    #[must_use]
    pub fn of(properties: &BasicProperties) -> Self {
        let header = |name: &str| properties.headers().as_ref()?.inner().get(name);
        Self {
            pod: match header(POD_HEADER) {
                Some(AMQPValue::LongString(pod)) if pod.len() <= POD_BYTES_MAX => {
                    std::str::from_utf8(pod.as_bytes()).ok().map(Arc::from)
                }
                _ => None,
            },
            at: match header(AT_HEADER) {
                Some(AMQPValue::LongLongInt(at)) => Some(Timestamp::from_millis(*at)),
                _ => None,
            },
        }
    }

    /// The headers that say it.
    pub(super) fn put(&self, headers: &mut FieldTable) {
        if let Some(pod) = &self.pod {
            headers.insert(POD_HEADER.into(), AMQPValue::LongString((&**pod).into()));
        }
        if let Some(at) = self.at {
            headers.insert(AT_HEADER.into(), AMQPValue::LongLongInt(at.as_millis()));
        }
    }
}

/// The longest name of a process that is kept.
const POD_BYTES_MAX: usize = 64;

/// Puts an event at the end of an envelope.
pub fn push(envelope: &mut Vec<u8>, event: &Event) {
    envelope.extend_from_slice(&protocol::encode_event(event));
    envelope.push(b'\n');
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_says_where_it_comes_from() {
        let origin = Origin {
            pod: Some("5f0c3a12".into()),
            at: Some(Timestamp::from_millis(1_795_258_800_007)),
        };
        let mut headers = FieldTable::default();
        origin.put(&mut headers);
        let properties = BasicProperties::default().with_headers(headers);
        assert_eq!(Origin::of(&properties), origin);
        assert_eq!(Origin::of(&BasicProperties::default()), Origin::default());
    }
}
