//! A circuit breaker: after a failure, callers are refused at once until it is worth trying again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use runtime::health;

use crate::{Error, Result};

/// The first pause after failures, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Failures in a row before anybody is refused: one may be the last breath of an old connection.
const FAILURES: u32 = 3;
/// Without news for this long after its last failure a dependency counts as well again.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// The state of one dependency, shared by all who call it. Open after [`FAILURES`] failures in a row; then one call at
/// a time is let through, after pauses that double up to [`PAUSE_MAX`], until one succeeds.
#[derive(Debug)]
pub struct Breaker {
    name: &'static str,
    state: Mutex<State>,
    /// How often it opened.
    opened: AtomicU64,
    calls: Histogram,
}

/// Below is what is as it should be, above what callers wait for until they give up.
const SECONDS: [f64; 12] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

#[derive(Debug, Default)]
struct State {
    failures: u32,
    last: Option<(Instant, String)>,
    /// Nobody is let through before.
    closed_until: Option<Instant>,
    pause: Duration,
}

impl Breaker {
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            state: Mutex::default(),
            opened: AtomicU64::new(0),
            calls: Histogram::new(SECONDS),
        }
    }

    /// The dependency.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Lets a call through, or not.
    ///
    /// # Errors
    /// `Unavailable` with the last failure and the time until the next try.
    pub fn admit(&self) -> Result<()> {
        let mut state = self.state();
        let now = Instant::now();
        let Some(until) = state.closed_until else {
            return Ok(());
        };
        if now < until {
            let why = state.last.as_ref().map_or("", |(_, why)| why);
            return Err(Error::Unavailable {
                message: format!("{} is away: {why}", self.name),
                retry_after: (until - now).max(Duration::from_millis(100)),
            });
        }
        // This caller tries; the others wait for what comes of it.
        state.pause = (state.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        state.closed_until = Some(now + state.pause);
        Ok(())
    }

    /// How long a call took, answered or given up.
    pub fn took(&self, time: Duration) {
        self.calls.observe(time.as_secs_f64());
    }

    /// How long calls took.
    #[must_use]
    pub fn calls(&self) -> &Histogram {
        &self.calls
    }

    /// A call was answered.
    pub fn succeeded(&self) {
        let mut state = self.state();
        if state.failures > 0 {
            if state.closed_until.is_some() {
                tracing::info!(dependency = self.name, "back");
            }
            *state = State::default();
        }
    }

    /// A call was not answered.
    pub fn failed(&self, why: impl Into<String>) {
        let mut state = self.state();
        let now = Instant::now();
        let why = why.into();
        state.failures = state.failures.saturating_add(1);
        if state.failures == FAILURES {
            tracing::warn!(dependency = self.name, why, "away");
            self.opened.fetch_add(1, Ordering::Relaxed);
            state.pause = PAUSE_MIN;
            state.closed_until = Some(now + PAUSE_MIN);
        }
        state.last = Some((now, why));
    }

    /// Waits for a sign of life, which answers what is wrong. One that does not come in time is a failure like that of any
    /// other call.
    pub async fn hear(
        &self,
        within: Duration,
        sign: impl Future<Output = Option<String>>,
    ) -> Option<String> {
        match tokio::time::timeout(within, sign).await {
            Ok(trouble) => trouble,
            Err(_) => {
                let late = "no answer in time";
                self.failed(late);
                Some(late.to_owned())
            }
        }
    }

    /// What is wrong, as long as nothing has succeeded since.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let state = self.state();
        let (at, why) = state.last.as_ref()?;
        (at.elapsed() < FORGET_AFTER || state.closed_until.is_some()).then(|| why.clone())
    }

    /// Whether callers are refused.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state().closed_until.is_some()
    }

    /// The same as operators are told.
    #[must_use]
    pub fn state_of_calls(&self) -> health::Breaker {
        if self.is_open() {
            health::Breaker::Open
        } else {
            health::Breaker::Closed
        }
    }

    /// How often callers began to be refused.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_a_success_closes_it() {
        let breaker = Breaker::new("redis");
        for _ in 0..FAILURES {
            breaker.admit().expect("closed");
            breaker.failed("refused");
        }
        let refused = breaker.admit().expect_err("open");
        assert!(refused.to_string().contains("refused"), "{refused}");
        std::thread::sleep(PAUSE_MIN);
        breaker.admit().expect("one tries");
        breaker.admit().expect_err("the others wait");
        assert_eq!(breaker.state_of_calls(), health::Breaker::Open);
        breaker.succeeded();
        breaker.admit().expect("closed");
        assert_eq!(breaker.trouble(), None);
        assert_eq!(breaker.state_of_calls(), health::Breaker::Closed);
        assert_eq!(breaker.opened(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_that_do_not_come_open_it_too() {
        let breaker = Breaker::new("mongodb");
        for _ in 0..FAILURES {
            let sign = breaker.hear(Duration::from_secs(1), std::future::pending());
            assert_eq!(sign.await.as_deref(), Some("no answer in time"));
        }
        assert!(breaker.is_open());
        let sign = breaker.hear(Duration::from_secs(1), std::future::ready(None));
        assert_eq!(sign.await, None);
    }

    #[test]
    fn one_failure_refuses_nobody() {
        let breaker = Breaker::new("redis");
        breaker.failed("reset");
        breaker.admit().expect("closed");
        assert_eq!(breaker.trouble().as_deref(), Some("reset"));
        breaker.succeeded();
        assert_eq!(breaker.trouble(), None);
    }
}
