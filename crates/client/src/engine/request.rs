//! A question to the server that is asked again until it is answered.

use super::{Config, Turn};

/// A question to the server.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) phase: Phase,
    pub(super) failures: u32,
}

#[derive(Debug, Default)]
pub(super) enum Phase {
    #[default]
    None,
    Asked {
        reference: String,
        deadline: u64,
    },
    Retry {
        at: u64,
    },
    /// A subscription whose events flow.
    Live {
        reference: String,
    },
}

impl Request {
    pub(super) fn due_at(&self) -> Option<u64> {
        match self.phase {
            Phase::Asked { deadline, .. } => Some(deadline),
            Phase::Retry { at } => Some(at),
            Phase::None | Phase::Live { .. } => None,
        }
    }

    /// Whether a refusal of `given` is about this request. The server can refuse a subscription that it has confirmed.
    pub(super) fn is_about(&self, given: Option<&str>) -> bool {
        match &self.phase {
            Phase::Asked { reference, .. } | Phase::Live { reference } => {
                Some(reference.as_str()) == given
            }
            Phase::None | Phase::Retry { .. } => false,
        }
    }

    pub(super) fn waits_for(&self, given: Option<&str>) -> bool {
        matches!(&self.phase, Phase::Asked { reference, .. } if Some(reference.as_str()) == given)
    }

    pub(super) fn try_later(&mut self, wait: u64, config: &Config, turn: &Turn<'_>) {
        let at = turn.now + wait + turn.backoff(config, self.failures);
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Retry { at };
    }
}
