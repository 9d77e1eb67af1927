//! The mark in every text: which run, which message of the run, and when it was due. A receiver needs nothing else to
//! tell latency, loss and order, so no delivery has to be parsed as JSON.

/// What a text says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub run: u16,
    /// The message's number in its run, from 0.
    pub index: u32,
    /// When it was due, in nanoseconds of the driver's clock (48 bits: 78 hours).
    pub due: u64,
}

/// A tilde, 24 letters of four bits each, a tilde.
pub const STAMP_BYTES: usize = 26;

impl Stamp {
    /// Writes a text of exactly `bytes` bytes (at least `STAMP_BYTES`) that starts with the mark.
    pub fn put_text(self, out: &mut Vec<u8>, bytes: usize) {
        out.push(b'~');
        put_letters(out, self.index);
        put_letters(
            out,
            u32::from(self.run) << 16 | (self.due >> 32) as u32 & 0xffff,
        );
        put_letters(out, self.due as u32);
        out.push(b'~');
        const FILLER: &[u8] = b" the quick brown fox jumps over the lazy dog and runs away into the forest of old trees";
        out.extend(
            FILLER
                .iter()
                .cycle()
                .take(bytes.saturating_sub(STAMP_BYTES)),
        );
    }

    /// Reads the mark at the start of `text`.
    #[inline]
    pub fn read(text: &[u8]) -> Option<Self> {
        let mark: &[u8; STAMP_BYTES] = text.first_chunk()?;
        if mark[0] != b'~' || mark[25] != b'~' {
            return None;
        }
        let index = letters(mark[1..9].try_into().ok()?)?;
        let middle = letters(mark[9..17].try_into().ok()?)?;
        let low = letters(mark[17..25].try_into().ok()?)?;
        Some(Self {
            run: (middle >> 16) as u16,
            index,
            due: u64::from(middle & 0xffff) << 32 | u64::from(low),
        })
    }

    /// Finds the mark: at `guess`, where it was in other frames of this form, or else anywhere.
    #[inline]
    pub fn find(payload: &[u8], guess: usize) -> Option<Self> {
        if let Some(stamp) = payload.get(guess..).and_then(Self::read) {
            return Some(stamp);
        }
        payload
            .windows(STAMP_BYTES)
            .find_map(|window| (window[0] == b'~').then(|| Self::read(window)).flatten())
    }
}

fn put_letters(out: &mut Vec<u8>, value: u32) {
    for place in (0..8).rev() {
        out.push(b'a' + (value >> (place * 4) & 15) as u8);
    }
}

/// Eight letters `a` to `p` to a number, without a loop: this runs once per delivery.
#[inline]
fn letters(bytes: [u8; 8]) -> Option<u32> {
    let x = u64::from_be_bytes(bytes).wrapping_sub(0x6161_6161_6161_6161);
    if x & 0xf0f0_f0f0_f0f0_f0f0 != 0 {
        return None;
    }
    let x = (x | x >> 4) & 0x00ff_00ff_00ff_00ff;
    let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    Some((x | x >> 16) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_as_it_was_written() {
        for (run, index, due) in [
            (0, 0, 0),
            (u16::MAX, u32::MAX, (1 << 48) - 1),
            (7, 123_456, 987_654_321_012),
        ] {
            let stamp = Stamp { run, index, due };
            let mut text = Vec::new();
            stamp.put_text(&mut text, 100);
            assert_eq!(text.len(), 100);
            assert_eq!(Stamp::read(&text), Some(stamp));
            let frame = [b"{\"a\":\"~\",\"text\":\"", &text[..], b"\"}"].concat();
            assert_eq!(Stamp::find(&frame, 3), Some(stamp));
            assert_eq!(Stamp::find(&frame, frame.len() - 102), Some(stamp));
        }
    }

    #[test]
    fn other_texts_have_no_stamp() {
        for text in [
            "",
            "~",
            "hello",
            "~abcdefghabcdefghabcdefgz~",
            "~abcdefghabcdefghabcdefgh",
        ] {
            assert_eq!(Stamp::find(text.as_bytes(), 0), None, "{text}");
        }
    }
}
