//! What goes wrong.

use super::{Step, Taken, exchange};
use crate::action::{Action, PodIndex};
use crate::state::{Pod, Redis, State};

/// The faults that are left in a state, but for those of pods.
pub fn actions(state: &State, actions: &mut Vec<Action>) {
    let left = state.left;
    let mut push = |left: u8, action| {
        if left > 0 {
            actions.push(action);
        }
    };
    push(left.worker_crashes, Action::CrashWorker);
    push(left.flushes, Action::Flush);
    push(left.unbinds, Action::Unbind);
    push(left.reloads, Action::Reload);
    if state.copy.is_none() {
        push(left.restarts + left.failovers + left.reloads, Action::Copy);
    }
    for empty in [true, false] {
        push(left.restarts, Action::Restart { empty });
        push(left.failovers, Action::FailOver { empty });
    }
}

fn spend(left: &mut u8) -> Taken {
    *left = left.checked_sub(1)?;
    Some(())
}

impl Step<'_> {
    pub(super) fn crash_pod(&mut self, pod: PodIndex) -> Taken {
        spend(&mut self.state.left.crashes)?;
        *self.pod(pod) = Pod::default();
        Some(())
    }

    pub(super) fn crash_worker(&mut self) -> Taken {
        let broker = &mut self.state.broker;
        if !self.config.servers.redelivers_in_order && broker.queue.len() > 1 {
            // The first was delivered, and is put behind the others.
            broker.queue.rotate_left(1);
            return spend(&mut self.state.left.worker_crashes);
        }
        if broker.dealt_with == 0 && broker.held.is_none() {
            return None;
        }
        broker.dealt_with = 0;
        broker.held = None;
        spend(&mut self.state.left.worker_crashes)
    }

    pub(super) fn flush(&mut self) -> Taken {
        spend(&mut self.state.left.flushes)?;
        let primary = self.state.primary();
        *self.state.redis_mut(primary)? = Redis::default();
        Some(())
    }

    pub(super) fn copy(&mut self) -> Taken {
        if self.state.copy.is_some() {
            return None;
        }
        self.state.copy = Some(self.state.redis(self.state.primary())?.clone());
        Some(())
    }

    pub(super) fn restart(&mut self, empty: bool) -> Taken {
        spend(&mut self.state.left.restarts)?;
        self.come_back(empty)
    }

    /// Another process, with other ids and without the connections of the former one.
    fn come_back(&mut self, empty: bool) -> Taken {
        let former = self.state.primary();
        self.succeed(empty)?;
        self.state.redises[usize::from(former)] = None;
        for pod in 0..self.config.pods {
            if self.pod(pod).redis == Some(former) {
                self.reconnect(pod, None);
            }
        }
        Some(())
    }

    pub(super) fn fail_over(&mut self, empty: bool) -> Taken {
        spend(&mut self.state.left.failovers)?;
        self.succeed(empty)
    }

    fn succeed(&mut self, empty: bool) -> Taken {
        let redis = if empty {
            Redis::default()
        } else {
            self.state.copy.clone()?
        };
        self.state.redises.push(Some(redis));
        let left = self.state.left;
        if left.restarts + left.failovers + left.reloads == 0 {
            self.state.copy = None;
        }
        Some(())
    }

    pub(super) fn reload(&mut self) -> Taken {
        spend(&mut self.state.left.reloads)?;
        if self.config.servers.connections_end {
            return self.come_back(false);
        }
        let copy = self.state.copy.clone()?;
        let primary = self.state.primary();
        *self.state.redis_mut(primary)? = copy;
        Some(())
    }

    pub(super) fn unbind(&mut self) -> Taken {
        spend(&mut self.state.left.unbinds)?;
        let open = self.state.mongo.record.generation;
        let exchange = exchange(self.config, open);
        if self.state.broker.bound & exchange == 0 {
            return None;
        }
        self.state.broker.bound &= !exchange;
        Some(())
    }
}
