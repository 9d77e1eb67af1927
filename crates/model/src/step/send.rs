//! From the request of a client to a place in the log.

use super::{Step, Taken};
use crate::action::PodIndex;
use crate::state::{
    Entry, Event, FENCE, Flight, Generation, Id, Job, Publish, RANGE, Room, Seq, fence, generation,
};

impl Step<'_> {
    pub(super) fn send(&mut self, pod: PodIndex, id: Id) -> Taken {
        let clients = &mut self.state.clients;
        clients.sends = clients.sends.checked_sub(1)?;
        clients.messages = clients.messages.max(id);
        self.pod(pod).job = Job::Start { id };
        Some(())
    }

    pub(super) fn append(&mut self, pod: PodIndex) -> Taken {
        let (id, is_looked_up) = match self.pod(pod).job {
            Job::Start { id } => (id, false),
            Job::LookedUp { id } => (id, true),
            _ => return None,
        };
        let (redis, verified) = self.verified(pod)?;
        if self.is_stale(pod, verified) {
            return Some(());
        }
        let safeguards = self.config.safeguards;
        let is_old = self.config.random_ids || self.state.clients.is_old(id);
        let redis = self.state.redis_mut(redis)?;
        let is_here =
            |room: &&mut Room| room.generation == verified || !safeguards.seed_per_generation;
        let Some(room) = redis.room.as_mut().filter(is_here) else {
            redis.ticket = Some(pod);
            self.pod(pod).job = Job::Ticketed { id };
            return Some(());
        };
        let known = room.entries.iter().find(|entry| entry.event.id == id);
        if let Some(Entry { event, pending }) = known.copied() {
            if pending {
                self.pod(pod).job = Job::Waiting { event };
            } else {
                self.ack(pod, event);
            }
            return Some(());
        }
        if !is_looked_up && (room.generation > 0 || is_old) {
            self.pod(pod).job = Job::Asking { id };
            return Some(());
        }
        room.seq += 1;
        let event = Event { seq: room.seq, id };
        room.entries.push(Entry {
            event,
            pending: true,
        });
        self.pod(pod).job = Job::Placed(Publish {
            event,
            via: verified,
            flight: Flight::Sent,
        });
        if !safeguards.ack_after_confirm {
            self.state.clients.ack(event);
        }
        Some(())
    }

    /// Whether the Redis of a pod is in another generation; then the pod has to find out.
    fn is_stale(&mut self, pod: PodIndex, verified: Generation) -> bool {
        let checks = self.config.safeguards.generation_check;
        let is_stale = checks
            && self
                .redis_of(pod)
                .is_some_and(|redis| redis.generation != Some(verified));
        if is_stale {
            self.doubt(pod);
        }
        is_stale
    }

    pub(super) fn read_last(&mut self, pod: PodIndex, behind: bool) -> Taken {
        let Job::Ticketed { id } = self.pod(pod).job else {
            return None;
        };
        let stored = self.state.mongo.stored.events.iter().rev();
        let last = stored.skip(behind.into()).map(|event| event.seq).next();
        let last = last.unwrap_or_default();
        self.pod(pod).job = Job::Seeding { id, last };
        Some(())
    }

    pub(super) fn seed(&mut self, pod: PodIndex) -> Taken {
        let Job::Seeding { id, last } = self.pod(pod).job else {
            return None;
        };
        let (redis, verified) = self.verified(pod)?;
        self.pod(pod).job = Job::Start { id };
        if self.is_stale(pod, verified) {
            return Some(());
        }
        let needs_ticket = self.config.safeguards.seed_ticket;
        let redis = self.state.redis_mut(redis)?;
        let has = redis.room.as_ref().map(|room| room.generation);
        let is_newer = has.is_some_and(|has| has > verified) || generation(last) > verified;
        if has == Some(verified) {
            return Some(());
        }
        if is_newer {
            self.doubt(pod);
            return Some(());
        }
        if needs_ticket && redis.ticket != Some(pod) {
            return Some(());
        }
        redis.ticket = None;
        redis.room = Some(seeded(verified, last));
        Some(())
    }

    pub(super) fn look_up(&mut self, pod: PodIndex) -> Taken {
        let Job::Asking { id } = self.pod(pod).job else {
            return None;
        };
        let verified = self.pod(pod).generation?;
        let stored = &self.state.mongo.stored;
        let waits = self.config.safeguards.fence_before_look_up && verified > 0;
        if waits && !stored.has(fence(verified)) {
            return None;
        }
        match stored.seq_of(id) {
            Some(seq) => self.ack(pod, Event { seq, id }),
            None => self.pod(pod).job = Job::LookedUp { id },
        }
        Some(())
    }

    /// Answers the client of a pod.
    pub(super) fn ack(&mut self, pod: PodIndex, event: Event) {
        self.state.clients.ack(event);
        self.pod(pod).job = Job::Idle;
    }
}

/// The room in a generation that begins, or goes on after `last`.
fn seeded(verified: Generation, last: Seq) -> Room {
    let goes_on = generation(last) == verified;
    let base = if goes_on { last } else { verified * RANGE };
    let mut room = Room {
        generation: verified,
        seq: base,
        base,
        persisted: base,
        entries: Vec::new(),
    };
    if !goes_on {
        room.seq = fence(verified);
        room.entries.push(Entry {
            event: Event {
                seq: room.seq,
                id: FENCE,
            },
            pending: true,
        });
    }
    room
}
