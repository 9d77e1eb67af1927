//! The programs under test and how each is spoken to.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result};
use clap::ValueEnum;
use protocol::{ClientFrame, RoomId, Seq, Subscribe, SubscribeRoom};
use uuid::Uuid;

use crate::stamp::Stamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Darda, in `open` mode.
    Darda,
    /// A broadcaster that sends every text of a room to the whole room as it is: `reference/ws.mjs` and `loadgen floor`.
    Echo,
    /// `reference/socketio.mjs`.
    Socketio,
}

#[derive(Clone, Debug)]
pub struct Target {
    pub protocol: Protocol,
    /// One for each pod: connections take them in turn.
    pub addrs: Vec<SocketAddr>,
    /// Bytes added to every message of the echo protocol, so that a frame is as long as another target's.
    pub pad_bytes: usize,
}

impl Target {
    /// # Errors
    /// When `url` is not `http://host:port`.
    pub fn new(protocol: Protocol, url: &str) -> Result<Self> {
        let host = url
            .strip_prefix("http://")
            .or_else(|| url.strip_prefix("ws://"))
            .unwrap_or(url)
            .trim_end_matches('/');
        let addr = host
            .to_socket_addrs()
            .with_context(|| format!("'{url}' is not of the form http://host:port"))?
            .next()
            .with_context(|| format!("'{host}' has no address"))?;
        Ok(Self {
            protocol,
            addrs: vec![addr],
            pad_bytes: 0,
        })
    }

    /// Where a client upgrades.
    pub fn path(&self, user: &str) -> String {
        match self.protocol {
            Protocol::Darda => format!("/v1/ws?id={user}"),
            Protocol::Echo => "/".to_owned(),
            Protocol::Socketio => "/socket.io/?EIO=4&transport=websocket".to_owned(),
        }
    }

    /// The frame that joins a room; `after` asks for what came later than this place.
    pub fn join(&self, room: &str, after: Option<u64>) -> String {
        match self.protocol {
            Protocol::Darda => ClientFrame::Subscribe(Subscribe {
                reference: Some("join".to_owned()),
                rooms: vec![SubscribeRoom {
                    room: RoomId::parse(room).expect("the driver makes valid room ids"),
                    after: after.map(|seq| Seq::new(seq).expect("a place the server gave")),
                }],
            })
            .encode(),
            Protocol::Echo => format!("{{\"join\":\"{room}\"}}"),
            Protocol::Socketio => format!("420[\"join\",\"{room}\"]"),
        }
    }

    /// Writes the frame that sends a stamped text of `bytes` bytes.
    pub fn put_message(&self, out: &mut Vec<u8>, room: &str, stamp: Stamp, bytes: usize) {
        match self.protocol {
            Protocol::Darda => {
                put_send_head(out, message_id(stamp.run, stamp.index, millis()), room);
                stamp.put_text(out, bytes);
                out.extend(b"\"}");
            }
            Protocol::Echo => {
                out.push(b'{');
                if self.pad_bytes > 0 {
                    out.extend(b"\"pad\":\"");
                    out.resize(out.len() + self.pad_bytes, b'-');
                    out.extend(b"\",");
                }
                out.extend(b"\"text\":\"");
                stamp.put_text(out, bytes);
                out.extend(b"\"}");
            }
            Protocol::Socketio => {
                out.extend(b"42[\"send\",\"");
                out.extend(room.as_bytes());
                out.extend(b"\",\"");
                stamp.put_text(out, bytes);
                out.extend(b"\"]");
            }
        }
    }

    /// Where the stamp stands in a delivered frame.
    #[inline]
    pub fn stamp_at(&self, payload: &[u8], bytes: usize) -> usize {
        match self.protocol {
            Protocol::Darda | Protocol::Echo => payload.len().saturating_sub(bytes + 2),
            Protocol::Socketio => b"42[\"m\",\"".len(),
        }
    }
}

/// The start of a `send`, up to and with the quote that opens the text.
pub fn put_send_head(out: &mut Vec<u8>, id: Uuid, room: &str) {
    out.extend(b"{\"type\":\"send\",\"id\":\"");
    out.extend(
        id.hyphenated()
            .encode_lower(&mut Uuid::encode_buffer())
            .as_bytes(),
    );
    out.extend(b"\",\"room\":\"");
    out.extend(room.as_bytes());
    out.extend(b"\",\"text\":\"");
}

/// A version 7 UUID whose last 48 bits say which message it is, so that an ack needs no table.
/// `millis` is the time since the Unix epoch.
pub fn message_id(run: u16, index: u32, millis: u64) -> Uuid {
    let process = u64::from(std::process::id());
    let high = millis << 16 | 0x7000 | process & 0xfff;
    let low = 0x8000 << 48 | (process & 0x3fff) << 48 | u64::from(run) << 32 | u64::from(index);
    Uuid::from_u64_pair(high, low)
}

/// Milliseconds since the Unix epoch.
pub fn millis() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Reads run and index back from the id of an `ack`.
#[inline]
pub fn acked(payload: &[u8]) -> Option<(u16, u32)> {
    const HEAD: usize = b"{\"type\":\"ack\",\"id\":\"".len();
    numbers(std::str::from_utf8(payload.get(HEAD..HEAD + 36)?).ok()?)
}

/// Reads run and index back from an id.
#[inline]
pub fn numbers(id: &str) -> Option<(u16, u32)> {
    let number = u64::from_str_radix(id.get(24..36)?, 16).ok()?;
    Some(((number >> 32) as u16, number as u32))
}

/// What a frame of Darda is, as far as the driver cares.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    Event,
    Ack,
    Welcome,
    Subscribed,
    Error,
    Other,
}

#[inline]
pub fn kind(payload: &[u8]) -> Kind {
    let Some(word) = payload.strip_prefix(b"{\"type\":\"") else {
        return Kind::Other;
    };
    match word {
        [b'e', b'v', b'e', b'n', b't', b'"', ..] => Kind::Event,
        [b'a', b'c', b'k', b'"', ..] => Kind::Ack,
        [b'w', b'e', b'l', ..] => Kind::Welcome,
        [b's', b'u', b'b', ..] => Kind::Subscribed,
        [b'e', b'r', b'r', ..] => Kind::Error,
        _ => Kind::Other,
    }
}

/// `seq` and `prev` of an `event` frame whose room id is `room_bytes` long. `prev` is `None` at a fence.
#[inline]
pub fn chain(payload: &[u8], room_bytes: usize) -> Option<(u64, Option<u64>)> {
    const HEAD: usize = b"{\"type\":\"event\",\"room\":\"".len();
    let rest = payload.get(HEAD + room_bytes..)?;
    let rest = rest.strip_prefix(b"\",\"seq\":")?;
    let (seq, rest) = number(rest)?;
    let rest = rest.strip_prefix(b",\"prev\":")?;
    Some((seq, number(rest).map(|(prev, _)| prev)))
}

#[inline]
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || digits > 16 {
        return None;
    }
    let (word, rest) = bytes.split_at(digits);
    let value = word.iter().fold(0, |sum, b| sum * 10 + u64::from(b - b'0'));
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Event, EventBody, MessageId, ServerFrame, Timestamp, UserId, encode_event};

    fn event(text: &str, prev: Option<u64>) -> Vec<u8> {
        encode_event(&Event {
            room: RoomId::parse("bench-7").unwrap(),
            seq: Seq::new(4_294_967_338).unwrap(),
            prev: prev.map(|seq| Seq::new(seq).unwrap()),
            at: Timestamp::now(),
            from: Some(UserId::parse("alice").unwrap()),
            id: Some(MessageId::generate()),
            body: EventBody::Message {
                text: text.to_owned(),
                reply_to: None,
                meta: None,
            },
        })
    }

    #[test]
    fn an_event_is_read_without_parsing_json() {
        let mut text = Vec::new();
        let stamp = Stamp {
            run: 3,
            index: 9,
            due: 77,
        };
        stamp.put_text(&mut text, 100);
        let text = String::from_utf8(text).unwrap();
        let frame = event(&text, Some(41));
        assert_eq!(kind(&frame), Kind::Event);
        assert_eq!(
            chain(&frame, "bench-7".len()),
            Some((4_294_967_338, Some(41)))
        );
        let target = Target::new(Protocol::Darda, "http://127.0.0.1:1").unwrap();
        let at = target.stamp_at(&frame, 100);
        assert_eq!(Stamp::read(&frame[at..]), Some(stamp));
        assert_eq!(chain(&event("x", None), 7).unwrap().1, None);
    }

    #[test]
    fn a_send_is_a_frame_of_the_protocol_and_its_ack_names_the_message() {
        let target = Target::new(Protocol::Darda, "127.0.0.1:1").unwrap();
        let stamp = Stamp {
            run: 500,
            index: 4_000_000_000,
            due: 1,
        };
        let mut json = Vec::new();
        target.put_message(&mut json, "bench-1", stamp, 100);
        let Ok(ClientFrame::Send(send)) = ClientFrame::decode(&json) else {
            panic!("{}", String::from_utf8_lossy(&json));
        };
        assert_eq!(send.text.len(), 100);
        assert_eq!(send.id.as_uuid().get_version_num(), 7);
        assert_eq!(send.id.as_uuid().get_variant(), uuid::Variant::RFC4122);
        let ack = ServerFrame::Ack {
            id: send.id,
            room: send.room.unwrap(),
            seq: Seq::new(1).unwrap(),
            at: Timestamp::now(),
            duplicate: false,
        };
        let ack = ack.encode().into_bytes();
        assert_eq!(kind(&ack), Kind::Ack);
        assert_eq!(acked(&ack), Some((500, 4_000_000_000)));
    }

    #[test]
    fn a_join_is_a_frame_of_the_protocol() {
        let target = Target::new(Protocol::Darda, "127.0.0.1:1").unwrap();
        let frame = ClientFrame::decode(target.join("r", Some(5)).as_bytes());
        assert!(matches!(frame, Ok(ClientFrame::Subscribe(_))));
    }
}
