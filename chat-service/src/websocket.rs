//! WebSocket framing (RFC 6455 §5) as a server needs it: reads masked frames, bounded before they are buffered, and
//! writes unmasked ones.
//!
//! actix-http's parser looks at the length of a frame only once all of it has arrived, so a client could make the
//! server buffer gigabytes; and its encoder copies each message once per recipient. Hence this one.

use actix_ws::CloseReason;
use bytes::{BufMut, Bytes, BytesMut};
use protocol::CloseCode;

/// A message may come in this many pieces at most: pieces may be empty, so bytes alone would not bound them.
const FRAGMENTS_MAX: u32 = 256;
/// Two bytes of header, eight of extended length, four of mask.
const HEADER_MAX: usize = 14;
const CONTROL_PAYLOAD_MAX: usize = 125;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole text message; not yet checked to be UTF-8.
    Text(&'a [u8]),
    /// A whole binary message: none of this protocol's, but no broken frame either.
    Binary,
    Ping(&'a [u8]),
    Pong,
    Close(Option<u16>),
}

/// Why a connection must end, with the code to close it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Violation {
    pub code: CloseCode,
    pub reason: &'static str,
}

const fn protocol_error(reason: &'static str) -> Violation {
    Violation {
        code: CloseCode::Protocol,
        reason,
    }
}

/// Takes bytes, gives messages. Holds at most one message and one frame header more than the limit.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Bytes of a frame that is not complete.
    partial: Vec<u8>,
    /// The pieces of a fragmented message so far.
    message: Vec<u8>,
    fragments: u32,
    is_binary: bool,
}

struct Header {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    start: usize,
    len: usize,
}

impl Decoder {
    /// Reads all complete frames of `input` and gives each message to `take`, until `take` answers `false`.
    ///
    /// # Errors
    /// At the first violation of the protocol or of `limit` (bytes of one message); nothing can be read after that.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        limit: usize,
        mut take: impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<(), Violation> {
        if self.partial.is_empty() {
            let used = self.run(input, limit, &mut take)?;
            self.partial.extend_from_slice(&input[used..]);
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.partial);
        buffer.extend_from_slice(input);
        let used = self.run(&mut buffer, limit, &mut take)?;
        if used < buffer.len() {
            buffer.drain(..used);
            self.partial = buffer;
        }
        Ok(())
    }

    /// Whether no bytes wait to be read.
    pub fn is_idle(&self) -> bool {
        self.partial.is_empty()
    }

    /// How many bytes are kept for later.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.partial.capacity() + self.message.capacity()
    }

    fn run(
        &mut self,
        buffer: &mut [u8],
        limit: usize,
        take: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<usize, Violation> {
        let mut at = 0;
        while let Some(header) = header(&buffer[at..], limit)? {
            let start = at + header.start;
            let end = start + header.len;
            if buffer.len() < end {
                break;
            }
            let payload = &mut buffer[start..end];
            unmask(payload, header.mask);
            at = end;
            if !self.frame(&header, payload, limit, take)? {
                break;
            }
        }
        Ok(at)
    }

    fn frame(
        &mut self,
        header: &Header,
        payload: &[u8],
        limit: usize,
        take: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<bool, Violation> {
        match header.opcode {
            0x0 => {
                if self.fragments == 0 {
                    return Err(protocol_error("a continuation without a beginning"));
                }
                self.collect(payload, limit)?;
                if !header.fin {
                    return Ok(true);
                }
                self.fragments = 0;
                let message = std::mem::take(&mut self.message);
                Ok(take(if self.is_binary {
                    Incoming::Binary
                } else {
                    Incoming::Text(&message)
                }))
            }
            0x1 | 0x2 => {
                if self.fragments > 0 {
                    return Err(protocol_error("a message inside a fragmented message"));
                }
                self.is_binary = header.opcode == 0x2;
                if header.fin {
                    return Ok(take(if self.is_binary {
                        Incoming::Binary
                    } else {
                        Incoming::Text(payload)
                    }));
                }
                self.collect(payload, limit)?;
                Ok(true)
            }
            0x8 => match payload {
                [] => Ok(take(Incoming::Close(None))),
                [_] => Err(protocol_error("a close frame with half a code")),
                [high, low, reason @ ..] => {
                    let code = u16::from_be_bytes([*high, *low]);
                    let legal = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
                    if !legal {
                        return Err(protocol_error("a close frame with a reserved code"));
                    }
                    if std::str::from_utf8(reason).is_err() {
                        return Err(Violation {
                            code: CloseCode::InvalidPayload,
                            reason: "a close reason that is not UTF-8",
                        });
                    }
                    Ok(take(Incoming::Close(Some(code))))
                }
            },
            0x9 => Ok(take(Incoming::Ping(payload))),
            // `header` lets no other opcode pass.
            _ => Ok(take(Incoming::Pong)),
        }
    }

    fn collect(&mut self, payload: &[u8], limit: usize) -> Result<(), Violation> {
        self.fragments += 1;
        if self.message.len() + payload.len() > limit {
            return Err(Violation {
                code: CloseCode::TooLarge,
                reason: "the message is larger than this server accepts",
            });
        }
        if self.fragments > FRAGMENTS_MAX {
            return Err(Violation {
                code: CloseCode::TooLarge,
                reason: "the message comes in too many fragments",
            });
        }
        self.message.extend_from_slice(payload);
        Ok(())
    }
}

/// Reads a frame header; `None` while it is incomplete.
fn header(bytes: &[u8], limit: usize) -> Result<Option<Header>, Violation> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
    if first & 0x70 != 0 {
        return Err(protocol_error("reserved bits are set"));
    }
    if !matches!(opcode, 0x0 | 0x1 | 0x2 | 0x8 | 0x9 | 0xa) {
        return Err(protocol_error("a reserved opcode"));
    }
    if second & 0x80 == 0 {
        return Err(protocol_error("a client's frames must be masked"));
    }
    let is_control = opcode >= 0x8;
    let (len, extended) = match second & 0x7f {
        126 => match rest {
            [a, b, ..] => (u64::from(u16::from_be_bytes([*a, *b])), 2),
            _ if is_control => return Err(protocol_error("a control frame over 125 bytes")),
            _ => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(len) => (u64::from_be_bytes(*len), 8),
            None if is_control => return Err(protocol_error("a control frame over 125 bytes")),
            None => return Ok(None),
        },
        small => (u64::from(small), 0),
    };
    if is_control && (len > CONTROL_PAYLOAD_MAX as u64 || !fin) {
        return Err(protocol_error(
            "a control frame is at most 125 bytes and not fragmented",
        ));
    }
    // Looked at before the payload is waited for: what is announced is never buffered beyond the limit.
    if len > limit as u64 {
        return Err(Violation {
            code: CloseCode::TooLarge,
            reason: "the frame is larger than this server accepts",
        });
    }
    let Some(mask) = rest.get(extended..).and_then(<[u8]>::first_chunk::<4>) else {
        return Ok(None);
    };
    let start = 2 + extended + 4;
    debug_assert!(start <= HEADER_MAX);
    Ok(Some(Header {
        fin,
        opcode,
        mask: *mask,
        start,
        len: usize::try_from(len).unwrap_or(limit),
    }))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Appends a text frame. Server frames carry no mask, so every recipient can share the bytes.
pub fn put_text(out: &mut BytesMut, payload: &[u8]) {
    put_header(out, 0x81, payload.len());
    out.put_slice(payload);
}

/// A text frame of its own.
#[must_use]
pub fn text(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 10);
    put_text(&mut out, payload);
    out.freeze()
}

/// An empty ping.
#[must_use]
pub fn ping() -> Bytes {
    Bytes::from_static(&[0x89, 0])
}

/// The answer to a ping.
#[must_use]
pub fn pong(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 2);
    put_header(&mut out, 0x8a, payload.len());
    out.put_slice(payload);
    out.freeze()
}

/// A close frame.
#[must_use]
pub fn close(reason: &CloseReason) -> Bytes {
    let text = reason.description.as_deref().unwrap_or_default();
    // A control frame holds 125 bytes, two of them the code.
    let text = &text[..text.floor_char_boundary(CONTROL_PAYLOAD_MAX - 2)];
    let mut out = BytesMut::with_capacity(text.len() + 4);
    put_header(&mut out, 0x88, text.len() + 2);
    out.put_u16(reason.code.into());
    out.put_slice(text.as_bytes());
    out.freeze()
}

fn put_header(out: &mut BytesMut, first: u8, len: usize) {
    out.put_u8(first);
    match len {
        0..=125 => out.put_u8(len as u8),
        126..=0xffff => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1024;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 42, 99, 1];
        let mut out = vec![first];
        if payload.len() < 126 {
            out.push(0x80 | payload.len() as u8);
        } else {
            out.push(0x80 | 126);
            out.extend((payload.len() as u16).to_be_bytes());
        }
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        out
    }

    fn read(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<String>, Violation> {
        let mut out = Vec::new();
        decoder.feed(&mut bytes.to_vec(), LIMIT, |message| {
            out.push(match message {
                Incoming::Text(text) => format!("text {}", String::from_utf8_lossy(text)),
                other => format!("{other:?}"),
            });
            true
        })?;
        Ok(out)
    }

    #[test]
    fn frames_may_arrive_in_any_pieces() {
        let mut bytes = masked(0x81, b"one");
        bytes.extend(masked(0x01, &[b'x'; 300]));
        bytes.extend(masked(0x89, b"hi"));
        bytes.extend(masked(0x80, b"y"));
        for size in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(size) {
                got.extend(read(&mut decoder, piece).unwrap());
            }
            let long = format!("text {}y", "x".repeat(300));
            assert_eq!(
                got,
                ["text one", "Ping([104, 105])", &long],
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_by_its_header() {
        let mut decoder = Decoder::default();
        let mut header = vec![0x81, 0x80 | 127];
        header.extend((4_u64 << 30).to_be_bytes());
        let error = read(&mut decoder, &header).unwrap_err();
        assert_eq!(error.code, CloseCode::TooLarge);
        assert!(decoder.held() < 64);
    }

    #[test]
    fn fragments_are_bounded_in_bytes_and_in_number() {
        let mut decoder = Decoder::default();
        assert!(read(&mut decoder, &masked(0x01, &[b'x'; 1000])).is_ok());
        let error = read(&mut decoder, &masked(0x00, &[b'x'; 100])).unwrap_err();
        assert_eq!(error.code, CloseCode::TooLarge);

        let mut decoder = Decoder::default();
        assert!(read(&mut decoder, &masked(0x01, b"")).is_ok());
        let error = (0..1000)
            .find_map(|_| read(&mut decoder, &masked(0x00, b"")).err())
            .unwrap();
        assert_eq!(error.code, CloseCode::TooLarge);
    }

    #[test]
    fn what_rfc_6455_forbids_is_a_protocol_error() {
        for bytes in [
            vec![0x81, 0x03, 1, 2, 3],             // not masked
            masked(0xc1, b"x"),                    // RSV1 without an extension
            masked(0x83, b"x"),                    // reserved opcode
            masked(0x8b, b"x"),                    // reserved control opcode
            masked(0x09, b"x"),                    // fragmented ping
            masked(0x89, &[0; 126]),               // long ping
            masked(0x80, b"x"),                    // continuation of nothing
            masked(0x88, &[3]),                    // half a close code
            masked(0x88, &1005_u16.to_be_bytes()), // reserved close code
        ] {
            let error = read(&mut Decoder::default(), &bytes).unwrap_err();
            assert_eq!(error.code, CloseCode::Protocol, "{bytes:?}");
        }
        let mut decoder = Decoder::default();
        read(&mut decoder, &masked(0x01, b"x")).unwrap();
        let error = read(&mut decoder, &masked(0x81, b"x")).unwrap_err();
        assert_eq!(error.code, CloseCode::Protocol);
    }

    #[test]
    fn an_idle_decoder_holds_nothing() {
        let mut decoder = Decoder::default();
        read(&mut decoder, &masked(0x81, &[b'x'; 500])).unwrap();
        let bytes = masked(0x81, &[b'x'; 500]);
        read(&mut decoder, &bytes[..100]).unwrap();
        read(&mut decoder, &bytes[100..]).unwrap();
        assert_eq!(decoder.held(), 0);
    }

    #[test]
    fn headers_grow_with_the_payload() {
        assert_eq!(&text(b"ab")[..], b"\x81\x02ab");
        assert_eq!(&text(&[0; 126])[..4], &[0x81, 126, 0, 126]);
        assert_eq!(
            &text(&vec![0; 65536])[..10],
            &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }
}
