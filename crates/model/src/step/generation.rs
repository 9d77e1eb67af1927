//! Connections to Redis, and raising the generation.

use super::{Step, Taken, routes};
use crate::action::PodIndex;
use crate::state::{Generation, Raise, Server};

impl Step<'_> {
    pub(super) fn connect(&mut self, pod: PodIndex) -> Taken {
        let primary = self.state.primary();
        (self.pod(pod).redis != Some(primary)).then(|| self.reconnect(pod, Some(primary)))
    }

    pub(super) fn find_out(&mut self, pod: PodIndex) -> Taken {
        let redis = self.pod(pod).redis?;
        if self.pod(pod).generation.is_some() || self.pod(pod).raise.is_some() {
            return None;
        }
        let record = self.state.mongo.record;
        if !record.is_open {
            return self.raise(pod);
        }
        if self.config.safeguards.verify_redis && record.redis != redis {
            if self.is_former(redis) {
                // Another has taken its place.
                self.reconnect(pod, None);
                return Some(());
            }
            return self.raise(pod);
        }
        if self.state.redis(redis)?.generation != Some(record.generation) {
            return self.raise(pod);
        }
        self.pod(pod).generation = Some(record.generation);
        Some(())
    }

    pub(super) fn raise_anyway(&mut self, pod: PodIndex) -> Taken {
        let it = self.pod(pod);
        let is_asking = it.generation.is_none() && it.raise.is_none();
        let redis = it.redis?;
        if is_asking && self.state.mongo.record.is_open && self.is_former(redis) {
            return self.raise(pod);
        }
        None
    }

    fn is_former(&self, redis: Server) -> bool {
        let mongo = &self.state.mongo;
        mongo.former & (1 << redis) != 0 && mongo.record.redis != redis
    }

    pub(super) fn raise_without_exchange(&mut self, pod: PodIndex) -> Taken {
        let (redis, generation) = self.verified(pod)?;
        let record = self.state.mongo.record;
        let holds = record.is_open && record.generation == generation && record.redis == redis;
        if !holds || routes(self.config, &self.state, generation) {
            return None;
        }
        self.doubt(pod);
        self.raise(pod)
    }

    /// Step 1. The record is compared and set at once; that two read the same one first changes nothing.
    fn raise(&mut self, pod: PodIndex) -> Taken {
        let redis = self.pod(pod).redis?;
        let mongo = &mut self.state.mongo;
        if mongo.record.generation >= self.config.generations {
            return None;
        }
        if mongo.record.redis != redis {
            mongo.former |= 1 << mongo.record.redis;
        }
        mongo.record.generation += 1;
        mongo.record.is_open = false;
        mongo.record.redis = redis;
        let generation = mongo.record.generation;
        self.pod(pod).raise = Some(Raise::Recorded(generation));
        Some(())
    }

    pub(super) fn go_on_raising(&mut self, pod: PodIndex) -> Taken {
        let old_first = self.config.safeguards.old_exchanges_first;
        let next = match self.pod(pod).raise? {
            Raise::Recorded(generation) => {
                if old_first {
                    self.delete_exchanges_before(generation);
                }
                Some(Raise::Deleted(generation))
            }
            Raise::Deleted(generation) => {
                self.state.broker.exchanges |= 1 << generation;
                self.state.broker.bound |= 1 << generation;
                Some(Raise::Declared(generation))
            }
            Raise::Declared(generation) => {
                let redis = self.redis_of(pod)?;
                let is_newer = redis.generation.is_some_and(|is| is > generation);
                if !is_newer {
                    redis.generation = Some(generation);
                }
                (!is_newer).then_some(Raise::SetInRedis(generation))
            }
            Raise::SetInRedis(generation) => {
                let record = &mut self.state.mongo.record;
                // Every generation is opened by one only.
                let is_mine = record.generation == generation && !record.is_open;
                if is_mine {
                    record.is_open = true;
                    self.pod(pod).generation = Some(generation);
                }
                (is_mine && !old_first).then_some(Raise::Opened(generation))
            }
            Raise::Opened(generation) => {
                self.delete_exchanges_before(generation);
                None
            }
        };
        self.pod(pod).raise = next;
        Some(())
    }

    fn delete_exchanges_before(&mut self, generation: Generation) {
        if !self.config.safeguards.exchange_per_generation {
            return;
        }
        let kept = u8::MAX << generation;
        self.state.broker.exchanges &= kept;
        self.state.broker.bound &= kept;
    }
}
