//! What waits to be written to one socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::Bytes;
use tokio::net::TcpStream;

/// More data frames than this do not wait for one socket.
pub const FRAMES_MAX: usize = 256;
/// More bytes than this do not wait for one socket.
pub const BYTES_MAX: usize = 1024 * 1024;
/// Catching up hands over the next page only while fewer bytes than this wait.
pub const CATCH_UP_BYTES: usize = 64 * 1024;
/// While more bytes of answers than this wait, no more requests are read from the socket.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// As many pieces go into one write as the kernel takes (IOV_MAX is 1,024; beyond 64 nothing is gained).
const SLICES_MAX: usize = 64;

/// What a piece is, when room must be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Events. Can be read again from the log.
    Data,
    /// Typing, presence, receipts. Dropped first.
    Signal,
    /// Answers and WebSocket control frames. Never dropped; bounded because a client whose answers wait is not read.
    Answer,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// There is no room. Data: the reader has to catch up. Signals: gone.
    Full,
}

struct Piece {
    bytes: Bytes,
    frames: u32,
    lane: Lane,
}

/// A bounded queue of encoded frames. Pushing never waits.
#[derive(Default)]
pub struct Outbound {
    pieces: VecDeque<Piece>,
    /// How much of the first piece is written.
    written: usize,
    bytes: usize,
    answer_bytes: usize,
    frames: usize,
}

/// What a flush left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Everything is with the kernel.
    Empty,
    /// The socket takes no more at present.
    Blocked,
}

impl Outbound {
    /// Queues a piece of `frames` whole frames. A piece is always taken when nothing waits, whatever its size.
    pub fn push(&mut self, bytes: Bytes, frames: u32, lane: Lane) -> Pushed {
        let full = |out: &Self| {
            !out.pieces.is_empty()
                && (out.frames + frames as usize > FRAMES_MAX
                    || out.bytes + bytes.len() > BYTES_MAX)
        };
        if lane != Lane::Answer && full(self) {
            if lane == Lane::Signal {
                return Pushed::Full;
            }
            self.drop_signals();
            if full(self) {
                return Pushed::Full;
            }
        }
        self.bytes += bytes.len();
        if lane == Lane::Answer {
            self.answer_bytes += bytes.len();
        }
        self.frames += frames as usize;
        self.pieces.push_back(Piece {
            bytes,
            frames,
            lane,
        });
        Pushed::Queued
    }

    fn drop_signals(&mut self) {
        // The first piece may be half written.
        let keep_first = self.written > 0;
        let mut index = 0;
        let (bytes, frames) = (&mut self.bytes, &mut self.frames);
        self.pieces.retain(|piece| {
            let keep = piece.lane != Lane::Signal || (keep_first && index == 0);
            index += 1;
            if !keep {
                *bytes -= piece.bytes.len();
                *frames -= piece.frames as usize;
            }
            keep
        });
    }

    /// Bytes that wait.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether so many answers wait that no more requests should be taken.
    pub fn is_answer_full(&self) -> bool {
        self.answer_bytes > ANSWER_BYTES_MAX
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Writes what the socket takes, many pieces at a time, without copying them together.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn flush(&mut self, stream: &TcpStream) -> io::Result<Flushed> {
        while !self.pieces.is_empty() {
            let result = if self.pieces.len() == 1 {
                stream.try_write(&self.pieces[0].bytes[self.written..])
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let mut skip = self.written;
                let mut count = 0;
                for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                    *slice = IoSlice::new(&piece.bytes[skip..]);
                    skip = 0;
                    count += 1;
                }
                stream.try_write_vectored(&slices[..count])
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.advance(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Flushed::Blocked);
                }
                Err(error) => return Err(error),
            }
        }
        // A burst must not leave its queue behind on a quiet connection.
        if self.pieces.capacity() > 8 {
            self.pieces = VecDeque::new();
        }
        Ok(Flushed::Empty)
    }

    fn advance(&mut self, mut n: usize) {
        while let Some(first) = self.pieces.front() {
            let left = first.bytes.len() - self.written;
            if n < left {
                self.written += n;
                return;
            }
            n -= left;
            self.written = 0;
            self.bytes -= first.bytes.len();
            if first.lane == Lane::Answer {
                self.answer_bytes -= first.bytes.len();
            }
            self.frames -= first.frames as usize;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn signals_make_room_for_data_and_data_is_refused_when_none_is_left() {
        let mut out = Outbound::default();
        for _ in 0..100 {
            assert_eq!(out.push(piece(10), 1, Lane::Signal), Pushed::Queued);
        }
        for _ in 0..FRAMES_MAX {
            assert_eq!(out.push(piece(10), 1, Lane::Data), Pushed::Queued);
        }
        assert_eq!(out.push(piece(10), 1, Lane::Signal), Pushed::Full);
        assert_eq!(out.push(piece(10), 1, Lane::Data), Pushed::Full);
        assert_eq!(out.frames, FRAMES_MAX);
        assert_eq!(out.push(piece(10), 1, Lane::Answer), Pushed::Queued);
    }

    #[test]
    fn bytes_are_bounded_as_well() {
        let mut out = Outbound::default();
        assert_eq!(
            out.push(piece(2 * BYTES_MAX), 1, Lane::Data),
            Pushed::Queued
        );
        assert_eq!(out.push(piece(1), 1, Lane::Data), Pushed::Full);
    }

    #[test]
    fn a_half_written_signal_stays() {
        let mut out = Outbound::default();
        out.push(piece(10), 1, Lane::Signal);
        out.push(piece(10), 1, Lane::Signal);
        out.advance(4);
        out.drop_signals();
        assert_eq!((out.pieces.len(), out.bytes), (1, 10));
        out.advance(6);
        assert!(out.is_empty());
        assert_eq!(out.len_bytes(), 0);
    }
}
