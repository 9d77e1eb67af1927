//! What the reader is shown.

use super::{Step, Taken};
use crate::state::{Event, FENCE, Server, fence, generation};

impl Step<'_> {
    /// The next event through a Redis, verified or not: the end of the room from there, what is before it from MongoDB.
    pub(super) fn read(&mut self, redis: Server) -> Taken {
        let safeguards = self.config.safeguards;
        let position = self.state.reader.position();
        let stored = &self.state.mongo.stored;
        let room = self.state.redis(redis)?.room.as_ref()?;
        let upto = if safeguards.confirmed_prefix {
            room.safe()
        } else {
            room.seq
        };
        let is_before_fence = generation(position) < room.generation;
        if is_before_fence
            && safeguards.fence_before_reading_on
            && !stored.has(fence(room.generation))
        {
            return None;
        }
        let from_stored = (is_before_fence || position < room.base)
            .then(|| stored.next_after(position))
            .flatten()
            .filter(|event| event.seq <= room.base || event.id == FENCE);
        let from_redis = room.entries.iter().map(|entry| entry.event);
        let event = from_stored.or_else(|| {
            from_redis
                .filter(|event| event.seq > position && event.seq <= upto)
                .find(|_| position >= room.base || is_before_fence)
        })?;
        self.show(event);
        Some(())
    }

    /// The next event from MongoDB alone: the one that follows, or anything before a stored fence.
    pub(super) fn read_stored(&mut self) -> Taken {
        let position = self.state.reader.position();
        let stored = &self.state.mongo.stored;
        let event = if self.config.safeguards.closed_before_reading {
            stored.next_after(position)?
        } else {
            self.state.reader.fetched?
        };
        let is_closed = stored
            .events
            .iter()
            .any(|other| other.id == FENCE && other.seq >= event.seq);
        (event.seq == position + 1 || is_closed).then(|| self.show(event))
    }

    pub(super) fn fetch_stored(&mut self) -> Taken {
        let reader = &mut self.state.reader;
        reader.fetched = Some(self.state.mongo.stored.next_after(reader.position())?);
        Some(())
    }

    pub(super) fn show(&mut self, event: Event) {
        self.state.reader.fetched = None;
        self.state.reader.seen.push(event);
    }
}
