//! How often a user may do things: token buckets, kept per process.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use protocol::UserId;

use crate::pod::lock;

/// Signs of typing a user gives a second, and at once. A client needs one every few seconds.
const TYPING_PER_SEC: u32 = 5;
const TYPING_BURST: u32 = 20;
/// When more users than this are remembered, those whose bucket is full again are forgotten.
const USERS_MAX: usize = 50_000;

/// The rates of one process.
#[derive(Debug)]
pub struct Rates {
    pub sends: Buckets,
    /// Joining, founding and opening rooms.
    pub joins: Buckets,
    pub typing: Buckets,
}

impl Rates {
    /// Rates under these limits.
    #[must_use]
    pub fn new(sends_per_sec: u32, sends_burst: u32, joins_per_sec: u32) -> Self {
        Self {
            sends: Buckets::new(sends_per_sec, sends_burst),
            joins: Buckets::new(joins_per_sec, joins_per_sec.saturating_mul(10)),
            typing: Buckets::new(TYPING_PER_SEC, TYPING_BURST),
        }
    }
}

/// A token bucket per user.
#[derive(Debug)]
pub struct Buckets {
    per_sec: f64,
    burst: f64,
    users: Mutex<HashMap<UserId, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Buckets {
    /// `per_sec` acts in the long run, `burst` at once.
    #[must_use]
    pub fn new(per_sec: u32, burst: u32) -> Self {
        Self {
            per_sec: f64::from(per_sec.max(1)),
            burst: f64::from(burst.max(1)),
            users: Mutex::default(),
        }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// How long to wait, when there is none.
    pub fn take(&self, user: &UserId, now: Instant) -> Result<(), Duration> {
        let mut users = lock(&self.users);
        if users.len() >= USERS_MAX && !users.contains_key(user) {
            users.retain(|_, bucket| self.filled(bucket, now) < self.burst);
        }
        let bucket = users.entry(user.clone()).or_insert(Bucket {
            tokens: self.burst,
            at: now,
        });
        bucket.tokens = self.filled(bucket, now);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            let wait = (1.0 - bucket.tokens) / self.per_sec;
            return Err(Duration::from_secs_f64(wait).max(Duration::from_millis(1)));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + passed * self.per_sec).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_the_steady_rate() {
        let buckets = Buckets::new(10, 3);
        let user = UserId::parse("alice").unwrap();
        let start = Instant::now();
        for _ in 0..3 {
            assert!(buckets.take(&user, start).is_ok());
        }
        let wait = buckets.take(&user, start).unwrap_err();
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
        assert!(buckets.take(&user, start + wait).is_ok());
        assert!(buckets.take(&user, start + wait).is_err());
        assert!(buckets.take(&UserId::parse("bob").unwrap(), start).is_ok());
    }
}
