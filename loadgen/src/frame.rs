//! The few lines of RFC 6455 that a driver needs. No fragments and no extensions: a target that uses them is refused.

/// A frame at the start of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    Frame {
        opcode: u8,
        /// The payload as it stands in the buffer, still masked where `mask` is given.
        payload: &'a [u8],
        mask: Option<[u8; 4]>,
        /// Bytes of header and payload.
        size: usize,
    },
    /// More bytes are needed.
    Partial,
    Bad(&'static str),
}

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Reads the frame at the start of `buf`.
#[inline]
pub fn parse(buf: &[u8]) -> Parsed<'_> {
    let [first, second, ..] = *buf else {
        return Parsed::Partial;
    };
    if first & 0xf0 != 0x80 {
        return Parsed::Bad("a fragment or a frame with reserved bits");
    }
    let (mut at, length) = match second & 0x7f {
        126 => match buf.get(2..4) {
            Some(bytes) => (4, usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))),
            None => return Parsed::Partial,
        },
        127 => match buf.get(2..).and_then(|rest| rest.first_chunk::<8>()) {
            Some(bytes) => (10, u64::from_be_bytes(*bytes) as usize),
            None => return Parsed::Partial,
        },
        small => (2, usize::from(small)),
    };
    if length > 16 << 20 {
        return Parsed::Bad("a frame of more than 16 MiB");
    }
    let mask = if second & 0x80 == 0 {
        None
    } else {
        let Some(mask) = buf.get(at..).and_then(|rest| rest.first_chunk::<4>()) else {
            return Parsed::Partial;
        };
        at += 4;
        Some(*mask)
    };
    match buf.get(at..at + length) {
        Some(payload) => Parsed::Frame {
            opcode: first & 0x0f,
            payload,
            mask,
            size: at + length,
        },
        None => Parsed::Partial,
    }
}

/// Appends a frame; with a mask where a client sends it.
pub fn put(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    out.push(0x80 | opcode);
    let bit = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..=125 => out.push(bit | length as u8),
        length @ 126..=0xffff => {
            out.push(bit | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(bit | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    match mask {
        None => out.extend_from_slice(payload),
        Some(mask) => {
            out.extend(mask);
            out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        }
    }
}

/// A client's request to upgrade.
pub fn upgrade_request(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// The end of an HTTP head (the index after the empty line), if it is all there.
pub fn head_end(buf: &[u8]) -> Option<usize> {
    buf.windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_any_length_comes_back() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            for mask in [None, Some([1, 2, 3, 250])] {
                let mut wire = Vec::new();
                put(&mut wire, TEXT, &payload, mask);
                wire.extend(b"next");
                let Parsed::Frame {
                    opcode,
                    payload: got,
                    mask: seen,
                    size,
                } = parse(&wire)
                else {
                    panic!("{length}");
                };
                assert_eq!((opcode, seen, size), (TEXT, mask, wire.len() - 4));
                let mask = mask.unwrap_or([0; 4]);
                let plain: Vec<u8> = got
                    .iter()
                    .zip(mask.iter().cycle())
                    .map(|(b, m)| b ^ m)
                    .collect();
                assert_eq!(plain, payload);
            }
        }
    }

    #[test]
    fn a_cut_frame_is_partial_at_every_cut() {
        let mut wire = Vec::new();
        put(&mut wire, TEXT, &[7; 300], Some([9; 4]));
        for cut in 0..wire.len() {
            assert_eq!(parse(&wire[..cut]), Parsed::Partial, "{cut}");
        }
    }

    #[test]
    fn fragments_and_monsters_are_refused() {
        assert!(matches!(parse(&[0x01, 0x00]), Parsed::Bad(_)));
        assert!(matches!(parse(&[0xc1, 0x00]), Parsed::Bad(_)));
        let huge = [0x81, 127, 0, 0, 1, 0, 0, 0, 0, 0];
        assert!(matches!(parse(&huge), Parsed::Bad(_)));
    }
}
