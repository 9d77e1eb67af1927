//! What pods send each other over the broker: envelopes of events, and signals as one JSON object per line.

use std::sync::Arc;

use ::lapin as driver;
use driver::BasicProperties;
use driver::types::{AMQPValue, FieldTable, ShortString};
use protocol::Event;
use serde::{Deserialize, Serialize};

use crate::cluster::envelope;
use crate::relay::Signal;

/// What the lines of a message are; the `type` property of the message names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Events,
    Signals,
    /// Events that were sent to the pod may have got lost; one empty line.
    Missed,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Signals => "signals",
            Self::Missed => "missed",
        }
    }

    /// The kind of a message; `None` for one that a later version has added.
    pub fn of(properties: &BasicProperties) -> Option<Self> {
        let name = properties.kind().as_ref()?.as_str();
        [Self::Events, Self::Signals, Self::Missed]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// The properties of a message of this pod. Transient: nothing of it is worth a disk.
pub fn properties(kind: Kind, pod: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(
        envelope::VERSION_HEADER.into(),
        AMQPValue::LongUInt(envelope::VERSION),
    );
    BasicProperties::default()
        .with_content_type(envelope::CONTENT_TYPE.into())
        .with_type(kind.name().into())
        .with_app_id(ShortString::from(pod))
        .with_delivery_mode(1)
        .with_headers(headers)
}

/// Whether the pod has sent the message itself.
pub fn is_own(properties: &BasicProperties, pod: &str) -> bool {
    properties
        .app_id()
        .as_ref()
        .is_some_and(|from| from.as_str() == pod)
}

/// A line, shared by the queues of all pods it goes to.
pub type Line = Arc<[u8]>;

/// The line of an event.
pub fn event_line(event: &Event) -> Line {
    let mut line = Vec::new();
    envelope::push(&mut line, event);
    line.into()
}

/// A signal on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    #[serde(flatten)]
    pub signal: Signal,
    /// Of two signals about the same the one with the higher number is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

impl From<Signal> for Sent {
    fn from(signal: Signal) -> Self {
        Self {
            signal,
            version: None,
        }
    }
}

/// The line of a signal.
pub fn signal_line(sent: &Sent) -> Line {
    let mut line = serde_json::to_vec(sent).expect("a signal has nothing that JSON cannot say");
    line.push(b'\n');
    line.into()
}

/// The signals of a message, and how many lines were none that this version knows.
pub fn signals(message: &[u8]) -> (Vec<Sent>, u64) {
    let mut broken = 0;
    let lines = message.split(|byte| *byte == b'\n');
    let signals = lines.filter(|line| !line.is_empty()).filter_map(|line| {
        let signal = serde_json::from_slice(line).ok();
        broken += u64::from(signal.is_none());
        signal
    });
    (signals.collect(), broken)
}

#[cfg(test)]
mod tests {
    use protocol::{NoticeKind, RoomId, Seq, Status, Timestamp, UserId};

    use super::*;

    #[test]
    fn signals_survive_the_way() {
        let (room, user) = (
            RoomId::parse("general").unwrap(),
            UserId::parse("alice").unwrap(),
        );
        let sent = [
            Signal::Typing {
                room: room.clone(),
                user: user.clone(),
                on: true,
            },
            Signal::Receipt {
                room: room.clone(),
                user: user.clone(),
                received: Seq::new(7).unwrap(),
                read: Seq::ZERO,
            },
            Signal::Presence {
                room: room.clone(),
                user: user.clone(),
                status: Status::Away,
                last_seen: Some(Timestamp::from_millis(1_700_000_000_123)),
            },
            Signal::Notice {
                user,
                kind: NoticeKind::SessionRevoked,
                room: None,
            },
        ];
        let mut sent = sent.map(Sent::from).to_vec();
        sent[2].version = Some(1_700_000_000_123_456);
        let mut message: Vec<u8> = sent.iter().flat_map(|s| signal_line(s).to_vec()).collect();
        message.extend_from_slice(b"{\"signal\":\"of_tomorrow\"}\n");
        assert_eq!(signals(&message), (sent, 1));
    }

    #[test]
    fn messages_say_what_they_are_and_whose() {
        let properties = properties(Kind::Signals, "pod-1");
        assert_eq!(Kind::of(&properties), Some(Kind::Signals));
        assert!(is_own(&properties, "pod-1"));
        assert!(!is_own(&properties, "pod-2"));
        assert_eq!(Kind::of(&BasicProperties::default()), None);
    }
}
