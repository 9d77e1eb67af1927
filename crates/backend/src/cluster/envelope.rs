//! Many events in one AMQP message: one JSON object per line, each as on the wire to clients.

use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use protocol::{Event, RoomId, Timestamp};
use runtime::trace;
use tracing::Span;

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

/// Which spans the events of an envelope belong to: the number of the line, from 0, and a `traceparent`. Of an envelope with one
/// traced event it is also in the header of that name, as the W3C drafts it for AMQP, for tools that know that one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces(Vec<(usize, String)>);

impl Traces {
    /// Those of events in the order of the lines.
    pub(super) fn of<'a>(spans: impl Iterator<Item = &'a Span>) -> Self {
        let traced = spans
            .enumerate()
            .filter_map(|(line, span)| Some((line, trace::traceparent(span)?)));
        Self(traced.take(TRACES_MAX).collect())
    }

    /// What an envelope says.
    #[must_use]
    pub fn said(properties: &BasicProperties) -> Self {
        let header = |name: &str| properties.headers().as_ref()?.inner().get(name);
        let Some(AMQPValue::LongString(text)) = header(TRACES_HEADER) else {
            return Self::default();
        };
        let traces = std::str::from_utf8(text.as_bytes()).unwrap_or_default();
        let traces = traces.split(' ').take(TRACES_MAX).filter_map(|one| {
            let (line, traceparent) = one.split_once('=')?;
            (traceparent.len() <= TRACEPARENT_BYTES_MAX)
                .then_some((line.parse().ok()?, traceparent.to_owned()))
        });
        Self(traces.collect())
    }

    /// The `traceparent` of a line.
    #[must_use]
    pub fn of_line(&self, line: usize) -> Option<&str> {
        let found = self.0.iter().find(|(number, _)| *number == line);
        found.map(|(_, traceparent)| traceparent.as_str())
    }

    /// The headers that say it.
    pub(super) fn put(&self, headers: &mut FieldTable) {
        if let [(_, only)] = &self.0[..] {
            let value = AMQPValue::LongString(only.as_str().into());
            headers.insert(trace::TRACEPARENT.into(), value);
        }
        if !self.0.is_empty() {
            let texts: Vec<String> = self
                .0
                .iter()
                .map(|(line, traceparent)| format!("{line}={traceparent}"))
                .collect();
            let value = AMQPValue::LongString(texts.join(" ").into());
            headers.insert(TRACES_HEADER.into(), value);
        }
    }
}

const TRACES_HEADER: &str = "x-darda-traces";
/// Events of an envelope whose traces go on behind the broker.
const TRACES_MAX: usize = 16;
/// The longest `traceparent` that is looked at; those of version 00 have 55.
const TRACEPARENT_BYTES_MAX: usize = 128;

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
    fn an_envelope_says_which_lines_are_traced() {
        let parent =
            |n: u8| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033{n:02x}-01");
        for lines in [vec![], vec![3], vec![0, 999]] {
            let traces: Vec<_> = lines
                .iter()
                .map(|line| (*line, parent(*line as u8)))
                .collect();
            let traces = Traces(traces);
            let mut headers = FieldTable::default();
            traces.put(&mut headers);
            let only = headers.inner().contains_key(trace::TRACEPARENT);
            assert_eq!(only, lines.len() == 1);
            let properties = BasicProperties::default().with_headers(headers);
            let said = Traces::said(&properties);
            assert_eq!(said, traces);
            for line in lines {
                assert_eq!(said.of_line(line), Some(&*parent(line as u8)));
            }
            assert_eq!(said.of_line(1), None);
        }
    }

    #[test]
    fn nonsense_about_traces_says_nothing() {
        let long = format!("1={}", "0".repeat(TRACEPARENT_BYTES_MAX + 1));
        for text in ["", "1", "=", "x=00", "-1=00", &long] {
            let mut headers = FieldTable::default();
            headers.insert(TRACES_HEADER.into(), AMQPValue::LongString(text.into()));
            let properties = BasicProperties::default().with_headers(headers);
            assert_eq!(Traces::said(&properties), Traces::default(), "{text}");
        }
    }

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
