//! The most recent events of an active room, encoded, so that most catching up never leaves the process.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use protocol::{Event, MessageId, Timestamp, encode_event};
use runtime::trace;

use crate::websocket;

/// Events and bytes kept per room.
const EVENTS_MAX: usize = 512;
const BYTES_MAX: usize = 512 * 1024;

/// One encoded event: a whole WebSocket frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub seq: u64,
    pub bytes: Bytes,
}

/// Events that follow each other in one room's log, encoded once and shared by all who receive them.
#[derive(Debug)]
pub struct Batch {
    /// The position a reader must have to receive the batch. `None` where it begins with a fence.
    pub after: Option<u64>,
    pub head: u64,
    pub frames: Vec<Frame>,
    /// All frames in one piece.
    pub bytes: Bytes,
    /// When the last event was appended, in milliseconds since 1970.
    pub at_ms: i64,
    /// The last of its events that is traced, and when it was appended.
    pub traced: Option<(MessageId, Timestamp)>,
    /// The last event, if it changes who may read the room. A batch ends with such an event.
    pub act: Option<Arc<Event>>,
}

impl Batch {
    /// Encodes events of one room, in the order of its log.
    ///
    /// # Panics
    /// When there are none.
    pub fn encode(events: &[Arc<Event>]) -> Self {
        let (first, last) = (
            events.first().expect("a batch has events"),
            events.last().expect("a batch has events"),
        );
        let mut buffer = BytesMut::with_capacity(events.len() * 256);
        let mut ends = Vec::with_capacity(events.len());
        for event in events {
            websocket::put_text(&mut buffer, &encode_event(event));
            ends.push(buffer.len());
        }
        let bytes = buffer.freeze();
        let mut start = 0;
        let frames = events
            .iter()
            .zip(ends)
            .map(|(event, end)| {
                let frame = Frame {
                    seq: event.seq.get(),
                    bytes: bytes.slice(start..end),
                };
                start = end;
                frame
            })
            .collect();
        Self {
            after: first.prev.map(protocol::Seq::get),
            head: last.seq.get(),
            frames,
            bytes,
            at_ms: last.at.as_millis(),
            traced: traced(events),
            act: changes_readers(last).then(|| Arc::clone(last)),
        }
    }
}

fn traced(events: &[Arc<Event>]) -> Option<(MessageId, Timestamp)> {
    if !trace::is_on() {
        return None;
    }
    events.iter().rev().find_map(|event| {
        let id = event.id?;
        trace::is_chosen(id.as_uuid().as_u128()).then_some((id, event.at))
    })
}

/// Whether an event can end somebody's right to read the room.
pub fn changes_readers(event: &Event) -> bool {
    use protocol::{EventBody, MemberChange, RoomChange};
    matches!(
        event.body,
        EventBody::Member {
            change: MemberChange::Left | MemberChange::Removed,
            ..
        } | EventBody::Room {
            change: RoomChange::Deleted,
            ..
        }
    )
}

/// Encoded events for a reader who catches up.
#[derive(Clone, Debug)]
pub struct Piece {
    pub bytes: Bytes,
    pub frames: u32,
    /// The reader's position after it.
    pub to: u64,
}

/// A window over the end of one room's log.
#[derive(Debug, Default)]
pub struct Ring {
    /// The position before the first frame.
    after: u64,
    frames: VecDeque<Frame>,
    bytes: usize,
    /// The last piece that was put together: in a storm of returning clients most ask for the same.
    last: Option<(u64, Piece)>,
}

impl Ring {
    /// The seq of the last event seen; zero before the first.
    pub fn head(&self) -> u64 {
        self.frames.back().map_or(self.after, |frame| frame.seq)
    }

    /// Bytes of the events in the window.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Gives the memory back. What was here is in the log.
    pub fn shed(&mut self) {
        *self = Self {
            after: self.head(),
            ..Self::default()
        };
    }

    /// Adds what follows. After a gap the window begins anew.
    pub fn push(&mut self, batch: &Batch) {
        if batch.head <= self.head() && !self.frames.is_empty() {
            return;
        }
        if batch.after != Some(self.head()) || self.frames.is_empty() {
            self.frames.clear();
            self.bytes = 0;
            // A fence has no `prev`: what lies before it is not the ring's to tell.
            self.after = batch
                .after
                .unwrap_or_else(|| batch.frames[0].seq.saturating_sub(1));
        }
        self.last = None;
        // The frames of a batch keep all of it in memory; of a large one most may be gone from here soon.
        let is_large = batch.bytes.len() > BYTES_MAX / 8;
        for frame in &batch.frames {
            self.bytes += frame.bytes.len();
            let mut frame = frame.clone();
            if is_large {
                frame.bytes = Bytes::copy_from_slice(&frame.bytes);
            }
            self.frames.push_back(frame);
        }
        while self.frames.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.frames.len() > 1) {
            if let Some(gone) = self.frames.pop_front() {
                self.bytes -= gone.bytes.len();
                self.after = gone.seq;
            }
        }
    }

    /// The events after `position`, up to `limit` bytes (but at least one); `None` when the window begins later.
    /// An empty piece says that the reader has everything.
    pub fn read(&mut self, position: u64, limit: usize) -> Option<Piece> {
        if self.frames.is_empty() || position < self.after {
            return None;
        }
        if let Some((asked, piece)) = &self.last
            && *asked == position
        {
            return Some(piece.clone());
        }
        let start = self.frames.partition_point(|frame| frame.seq <= position);
        let mut buffer = BytesMut::new();
        let (mut frames, mut to) = (0, position);
        for frame in self.frames.range(start..) {
            if frames > 0 && buffer.len() + frame.bytes.len() > limit {
                break;
            }
            buffer.extend_from_slice(&frame.bytes);
            frames += 1;
            to = frame.seq;
        }
        let piece = Piece {
            bytes: buffer.freeze(),
            frames,
            to,
        };
        self.last = Some((position, piece.clone()));
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use protocol::{EventBody, RoomId, Seq, Timestamp};

    use super::*;

    fn events(from: u64, to: u64) -> Vec<Arc<Event>> {
        (from..=to)
            .map(|seq| {
                Arc::new(Event {
                    room: RoomId::parse("r").unwrap(),
                    seq: Seq::new(seq).unwrap(),
                    prev: Seq::new(seq - 1).ok(),
                    at: Timestamp::from_millis(0),
                    from: None,
                    id: None,
                    body: EventBody::Void {},
                })
            })
            .collect()
    }

    #[test]
    fn a_reader_gets_exactly_what_follows_its_position() {
        let mut ring = Ring::default();
        ring.push(&Batch::encode(&events(5, 9)));
        assert!(ring.read(3, 1 << 20).is_none());
        for (position, frames) in [(4, 5), (4, 5), (6, 3), (9, 0), (12, 0)] {
            let piece = ring.read(position, 1 << 20).unwrap();
            assert_eq!((piece.frames, piece.to), (frames, position.max(9)));
        }
        ring.push(&Batch::encode(&events(10, 10)));
        assert_eq!(ring.read(9, 1 << 20).unwrap().frames, 1);
        assert_eq!(ring.read(4, 1).unwrap().to, 5);
    }

    #[test]
    fn a_gap_or_a_repetition_leaves_no_hole() {
        let mut ring = Ring::default();
        ring.push(&Batch::encode(&events(1, 3)));
        ring.push(&Batch::encode(&events(2, 3)));
        assert_eq!(ring.read(0, 1 << 20).unwrap().frames, 3);
        ring.push(&Batch::encode(&events(7, 8)));
        assert!(ring.read(3, 1 << 20).is_none());
        assert_eq!(ring.read(6, 1 << 20).unwrap().frames, 2);
    }

    #[test]
    fn old_events_leave_the_window() {
        let mut ring = Ring::default();
        for n in 1..=(EVENTS_MAX as u64 + 10) {
            ring.push(&Batch::encode(&events(n, n)));
        }
        assert_eq!(ring.frames.len(), EVENTS_MAX);
        assert!(ring.read(9, 1 << 20).is_none());
        assert_eq!(
            ring.read(10, usize::MAX).unwrap().frames as usize,
            EVENTS_MAX
        );
    }
}
