//! The worker, and what Redis forgets after it.

use super::{Step, Taken};
use crate::state::{Job, Room, Server, generation};

impl Step<'_> {
    pub(super) fn store(&mut self) -> Taken {
        if let Some(event) = self.state.broker.held.take() {
            self.state.mongo.stored.insert(event);
            return Some(());
        }
        if !self.config.safeguards.insert_before_ack {
            return None;
        }
        let next = usize::from(self.state.broker.dealt_with);
        let event = *self.state.broker.queue.get(next)?;
        self.state.mongo.stored.insert(event);
        if self.state.left.worker_crashes == 0 {
            // Without a crash between them, the two make one step.
            self.state.broker.queue.remove(next);
        } else {
            self.state.broker.dealt_with += 1;
        }
        Some(())
    }

    pub(super) fn ack_delivery(&mut self) -> Taken {
        let broker = &mut self.state.broker;
        if !self.config.safeguards.insert_before_ack {
            if broker.held.is_some() || broker.queue.is_empty() {
                return None;
            }
            broker.held = Some(broker.queue.remove(0));
            return Some(());
        }
        broker.dealt_with = broker.dealt_with.checked_sub(1)?;
        broker.queue.remove(0);
        Some(())
    }

    /// The worker tells a Redis, which it need not have verified.
    pub(super) fn mark(&mut self, redis: Server) -> Taken {
        let stored = &self.state.mongo.stored;
        let whole = self.config.safeguards.mark_without_holes;
        let last = |of| Some(stored.last()).filter(|last| generation(*last) == of);
        let mark = |room: &Room| match last(room.generation) {
            Some(last) if !whole => last,
            _ => stored.mark(room.generation),
        };
        let mark = self.state.redis(redis)?.room.as_ref().map(mark)?;
        let room = self.state.redis_mut(redis)?.room.as_mut()?;
        if mark > room.seq || mark <= room.persisted {
            return None;
        }
        room.persisted = mark;
        for seq in 0..=mark {
            room.confirm(seq);
        }
        Some(())
    }

    pub(super) fn age(&mut self, redis: Server) -> Taken {
        self.state.left.ages = self.state.left.ages.checked_sub(1)?;
        let room = self.state.redis_mut(redis)?.room.as_mut()?;
        if room.persisted <= room.base {
            return None;
        }
        room.base = room.persisted;
        let stored = room.base;
        let (gone, kept) = room
            .entries
            .iter()
            .partition(|entry| entry.event.seq <= stored);
        room.entries = kept;
        self.time_passes(gone);
        Some(())
    }

    pub(super) fn expire(&mut self, redis: Server) -> Taken {
        self.state.left.expiries = self.state.left.expiries.checked_sub(1)?;
        let room = self.state.redis_mut(redis)?.room.take()?;
        if self.config.safeguards.expire_when_stored && room.persisted < room.seq {
            return None;
        }
        self.time_passes(room.entries);
        Some(())
    }

    /// These ids are too old to be taken for new. So is every look-up.
    fn time_passes(&mut self, forgotten: Vec<crate::state::Entry>) {
        for entry in forgotten {
            self.state.clients.old |= 1 << entry.event.id;
        }
        if !self.config.safeguards.fresh_look_up {
            return;
        }
        for pod in &mut self.state.pods {
            if let Job::LookedUp { id } = pod.job {
                pod.job = Job::Start { id };
            }
        }
    }
}
