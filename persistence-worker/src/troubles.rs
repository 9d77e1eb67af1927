//! What keeps this process from consuming shards.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tracing::{info, warn};

/// Shards that are not consumed, and why.
#[derive(Debug)]
pub struct Troubles {
    of: Mutex<BTreeMap<u16, String>>,
    failing: Gauge,
}

impl Troubles {
    /// At first there is no connection for any shard.
    pub fn new(shards: u16, failing: Gauge) -> Self {
        failing.set(shards.into());
        let of = (0..shards).map(|shard| (shard, "not connected yet".to_owned()));
        Self {
            of: Mutex::new(of.collect()),
            failing,
        }
    }

    /// What one shard fails by is said once, and not again for others that fail by the same.
    pub fn fails(&self, shard: u16, why: String) {
        let mut of = self.of();
        if !of.values().any(|known| *known == why) {
            warn!(
                shard,
                error = why,
                "a shard cannot be consumed; it is tried again"
            );
        }
        of.insert(shard, why);
        self.failing.set(count(&of));
    }

    pub fn works(&self, shard: u16) {
        let mut of = self.of();
        if of.remove(&shard).is_some() && of.is_empty() {
            info!("all shards are subscribed to");
        }
        self.failing.set(count(&of));
    }

    /// All of it in a sentence; nothing when every shard is subscribed to.
    pub fn sum(&self) -> Option<String> {
        let of = self.of();
        let mut shards: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
        for (shard, why) in &*of {
            shards.entry(why).or_default().push(*shard);
        }
        let mut sum = String::new();
        for (why, shards) in shards {
            if !sum.is_empty() {
                sum.push_str("; ");
            }
            let _ = write!(sum, "{why} (shards {shards:?})");
        }
        (!sum.is_empty()).then_some(sum)
    }

    fn of(&self) -> MutexGuard<'_, BTreeMap<u16, String>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(of: &BTreeMap<u16, String>) -> i64 {
    i64::try_from(of.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_that_fail_alike_are_named_together() {
        let failing = Gauge::default();
        let troubles = Troubles::new(3, failing.clone());
        assert_eq!(failing.get(), 3);
        let sum = troubles.sum().unwrap();
        assert_eq!(sum, "not connected yet (shards [0, 1, 2])");
        for shard in 0..3 {
            troubles.works(shard);
        }
        assert_eq!((troubles.sum(), failing.get()), (None, 0));
        troubles.fails(2, "541".to_owned());
        troubles.fails(0, "541".to_owned());
        troubles.fails(1, "gone".to_owned());
        let sum = troubles.sum().unwrap();
        assert_eq!(sum, "541 (shards [0, 2]); gone (shards [1])");
        assert_eq!(failing.get(), 3);
    }
}
