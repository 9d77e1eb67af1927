//! Pauses between tries, longer after each failure and different in each process.

use std::time::Duration;

/// Pauses that double from `min` to `max`; each is shortened by up to a half by chance, so that processes that lost the
/// same server do not come back to it at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            next: min,
        }
    }

    /// The pause before the next try.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// It went well: the next pause is short again.
    pub fn reset(&mut self) {
        self.next = self.min;
    }

    /// Whether nothing has failed since the last success.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.next == self.min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_shrink_after_a_success() {
        let (min, max) = (Duration::from_millis(100), Duration::from_millis(350));
        let mut backoff = Backoff::new(min, max);
        assert!(backoff.is_fresh());
        for expected in [100, 200, 350, 350] {
            let expected = Duration::from_millis(expected);
            let pause = backoff.pause();
            assert!(pause <= expected && pause >= expected / 2, "{pause:?}");
        }
        assert!(!backoff.is_fresh());
        backoff.reset();
        assert!(backoff.pause() <= min);
    }
}
