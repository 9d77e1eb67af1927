//! What each action does. An action that is not possible in a state is `None`.

mod fault;
mod generation;
mod publish;
mod read;
mod send;
mod store;

use crate::action::{Action, PodIndex, Task};
use crate::config::Config;
use crate::state::{Generation, Job, Pod, Publish, Redis, Server, State};

/// A state that is being changed.
struct Step<'a> {
    config: &'a Config,
    state: State,
}

/// Done, or not possible.
type Taken = Option<()>;

/// The state after an action.
pub fn take(config: &Config, state: &State, action: Action) -> Option<State> {
    let mut step = Step {
        config,
        state: state.clone(),
    };
    step.take(action)?;
    Some(step.state)
}

/// What may be possible; [`take`] has the last word.
pub fn actions(config: &Config, state: &State, actions: &mut Vec<Action>) {
    for (pod, it) in (0..).zip(&state.pods) {
        of_pod(config, state, pod, it, actions);
    }
    for redis in 0..=state.primary() {
        if state.redis(redis).is_some_and(|redis| redis.room.is_some()) {
            if config.reader {
                actions.push(Action::Read { redis });
            }
            if !state.mongo.stored.events.is_empty() {
                actions.push(Action::Mark { redis });
            }
            if state.left.ages > 0 {
                actions.push(Action::Age { redis });
            }
            if state.left.expiries > 0 {
                actions.push(Action::Expire { redis });
            }
        }
    }
    if config.reader && state.mongo.stored.last() > state.reader.position() {
        actions.push(Action::ReadStored);
        if !config.safeguards.closed_before_reading {
            actions.push(Action::FetchStored);
        }
    }
    if state.broker.held.is_some() || !state.broker.queue.is_empty() {
        actions.extend([Action::Store, Action::AckDelivery]);
    }
    fault::actions(state, actions);
}

fn of_pod(config: &Config, state: &State, pod: PodIndex, it: &Pod, actions: &mut Vec<Action>) {
    if it.redis != Some(state.primary()) {
        actions.push(Action::Connect { pod });
    }
    if it.redis.is_some() {
        match (it.raise, it.generation) {
            (Some(_), _) => actions.push(Action::GoOnRaising { pod }),
            (None, None) => {
                actions.push(Action::FindOut { pod });
                if state.mongo.former > 0 {
                    actions.push(Action::RaiseAnyway { pod });
                }
            }
            (None, Some(generation)) => {
                if !routes(config, state, generation) {
                    actions.push(Action::RaiseWithoutExchange { pod });
                }
            }
        }
    }
    match it.job {
        Job::Idle if state.clients.sends > 0 => {
            let known = state.clients.messages.saturating_add(1);
            for id in 1..=config.messages.min(known) {
                actions.push(Action::Send { pod, id });
            }
        }
        Job::Idle => {}
        Job::Start { .. } | Job::LookedUp { .. } => actions.push(Action::Append { pod }),
        Job::Ticketed { .. } => {
            actions.push(Action::ReadLast { pod, behind: false });
            if !config.safeguards.linearizable_last {
                actions.push(Action::ReadLast { pod, behind: true });
            }
        }
        Job::Seeding { .. } => actions.push(Action::Seed { pod }),
        Job::Asking { .. } => actions.push(Action::LookUp { pod }),
        Job::Placed(publish) => {
            actions.push(Action::Answer { pod });
            of_publish(config, state, pod, Task::Job, publish, actions);
        }
        Job::Waiting { .. } => actions.push(Action::Answer { pod }),
    }
    match it.help {
        None if pending(state, it) => actions.push(Action::Help { pod }),
        None => {}
        Some(publish) => of_publish(config, state, pod, Task::Help, publish, actions),
    }
    if state.left.crashes > 0 {
        actions.push(Action::CrashPod { pod });
    }
}

/// Whether the Redis of a pod has a pending event.
fn pending(state: &State, pod: &Pod) -> bool {
    let redis = pod.redis.and_then(|redis| state.redis(redis));
    let room = redis.and_then(|redis| redis.room.as_ref());
    pod.generation.is_some() && room.is_some_and(|room| room.first_pending().is_some())
}

/// Whether what is published in a generation reaches the queue.
fn routes(config: &Config, state: &State, generation: Generation) -> bool {
    state.broker.bound & exchange(config, generation) != 0
}

/// The exchange that events of a generation are published to, as a bit.
fn exchange(config: &Config, generation: Generation) -> u8 {
    if config.safeguards.exchange_per_generation {
        1 << generation
    } else {
        1
    }
}

fn of_publish(
    config: &Config,
    state: &State,
    pod: PodIndex,
    task: Task,
    publish: Publish,
    actions: &mut Vec<Action>,
) {
    use crate::state::Flight::{Confirmed, Routed, Sent};
    match publish.flight {
        Sent => {
            actions.push(Action::Publish {
                pod,
                task,
                heard: true,
            });
            if state.left.lost_confirms > 0 {
                actions.push(Action::Publish {
                    pod,
                    task,
                    heard: false,
                });
            }
        }
        Routed => actions.push(Action::Enqueue { pod, task }),
        Confirmed => {
            let confirm = |shown| Action::Confirm { pod, task, shown };
            actions.extend([true, false].map(confirm));
            if task == Task::Job && !config.safeguards.redis_confirms {
                actions.extend([Action::AckAlone { pod }, Action::ShowAlone { pod }]);
            }
        }
    }
}

impl Step<'_> {
    fn take(&mut self, action: Action) -> Taken {
        match action {
            Action::Send { pod, id } => self.send(pod, id),
            Action::Connect { pod } => self.connect(pod),
            Action::FindOut { pod } => self.find_out(pod),
            Action::RaiseAnyway { pod } => self.raise_anyway(pod),
            Action::RaiseWithoutExchange { pod } => self.raise_without_exchange(pod),
            Action::GoOnRaising { pod } => self.go_on_raising(pod),
            Action::Append { pod } => self.append(pod),
            Action::ReadLast { pod, behind } => self.read_last(pod, behind),
            Action::Seed { pod } => self.seed(pod),
            Action::LookUp { pod } => self.look_up(pod),
            Action::Help { pod } => self.help(pod),
            Action::Publish { pod, task, heard } => self.publish(pod, task, heard),
            Action::Enqueue { pod, task } => self.enqueue(pod, task),
            Action::Confirm { pod, task, shown } => self.confirm(pod, task, shown),
            Action::AckAlone { pod } => self.ack_alone(pod),
            Action::ShowAlone { pod } => self.show_alone(pod),
            Action::Answer { pod } => self.answer(pod),
            Action::Read { redis } => self.read(redis),
            Action::ReadStored => self.read_stored(),
            Action::FetchStored => self.fetch_stored(),
            Action::Store => self.store(),
            Action::AckDelivery => self.ack_delivery(),
            Action::Mark { redis } => self.mark(redis),
            Action::Age { redis } => self.age(redis),
            Action::Expire { redis } => self.expire(redis),
            Action::CrashPod { pod } => self.crash_pod(pod),
            Action::CrashWorker => self.crash_worker(),
            Action::Flush => self.flush(),
            Action::Copy => self.copy(),
            Action::Restart { empty } => self.restart(empty),
            Action::FailOver { empty } => self.fail_over(empty),
            Action::Reload => self.reload(),
            Action::Unbind => self.unbind(),
        }
    }

    fn pod(&mut self, pod: PodIndex) -> &mut Pod {
        &mut self.state.pods[usize::from(pod)]
    }

    /// The Redis a pod is connected to.
    fn redis_of(&mut self, pod: PodIndex) -> Option<&mut Redis> {
        let server = self.pod(pod).redis?;
        self.state.redis_mut(server)
    }

    /// The Redis of a pod and the generation the pod verified for it.
    fn verified(&mut self, pod: PodIndex) -> Option<(Server, Generation)> {
        let pod = self.pod(pod);
        Some((pod.redis?, pod.generation?))
    }

    /// Another generation counts, or none: what was found out for this one no longer does.
    fn doubt(&mut self, pod: PodIndex) {
        let keeps_look_up = !self.config.safeguards.look_up_of_generation;
        let pod = self.pod(pod);
        pod.generation = None;
        pod.job = match pod.job {
            Job::LookedUp { .. } if keeps_look_up => pod.job,
            Job::Ticketed { id }
            | Job::Seeding { id, .. }
            | Job::Asking { id }
            | Job::LookedUp { id } => Job::Start { id },
            job => job,
        };
    }

    /// A pod has no connection, or another one.
    fn reconnect(&mut self, pod: PodIndex, redis: Option<Server>) {
        self.doubt(pod);
        let pod = self.pod(pod);
        pod.redis = redis;
        pod.raise = None;
    }
}
