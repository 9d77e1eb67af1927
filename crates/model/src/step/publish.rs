//! From a place in the log to the queue, and the answer to the sender.

use super::{Step, Taken, exchange, routes};
use crate::action::{PodIndex, Task};
use crate::state::{Event, FENCE, Flight, Job, Publish, generation};

impl Step<'_> {
    fn publish_of(&mut self, pod: PodIndex, task: Task) -> Option<&mut Publish> {
        let pod = self.pod(pod);
        match (task, &mut pod.job) {
            (Task::Job, Job::Placed(publish)) => Some(publish),
            (Task::Job, _) => None,
            (Task::Help, _) => pod.help.as_mut(),
        }
    }

    pub(super) fn help(&mut self, pod: PodIndex) -> Taken {
        let (redis, verified) = self.verified(pod)?;
        let room = self.state.redis(redis)?.room.as_ref()?;
        if room.generation != verified {
            return None;
        }
        let event = room.first_pending()?;
        if event.id != FENCE {
            self.state.left.helps = self.state.left.helps.checked_sub(1)?;
        }
        self.pod(pod).help = Some(Publish {
            event,
            via: verified,
            flight: Flight::Sent,
        });
        Some(())
    }

    pub(super) fn publish(&mut self, pod: PodIndex, task: Task, heard: bool) -> Taken {
        let Publish { event, via, .. } = *self.publish_of(pod, task)?;
        let exists = self.state.broker.exchanges & exchange(self.config, via) != 0;
        let is_routed = routes(self.config, &self.state, via);
        if !is_routed && (self.config.safeguards.mandatory || !exists) {
            return heard.then(|| self.returned(pod, task));
        }
        if !heard {
            self.state.left.lost_confirms = self.state.left.lost_confirms.checked_sub(1)?;
        }
        if !self.config.servers.broker_agrees && is_routed {
            // That it is not in the queue yet matters only when the publisher hears of it later.
            heard.then_some(())?;
            self.publish_of(pod, task)?.flight = Flight::Routed;
            return Some(());
        }
        if is_routed {
            self.state.broker.queue.push(event);
        }
        if heard {
            self.publish_of(pod, task)?.flight = Flight::Confirmed;
        }
        Some(())
    }

    pub(super) fn enqueue(&mut self, pod: PodIndex, task: Task) -> Taken {
        let publish = self.publish_of(pod, task)?;
        publish.flight = Flight::Confirmed;
        let event = publish.event;
        self.state.broker.queue.push(event);
        Some(())
    }

    /// The exchange or its binding is gone: the event is in doubt.
    fn returned(&mut self, pod: PodIndex, task: Task) {
        match task {
            Task::Job => self.start_again(pod),
            Task::Help => self.pod(pod).help = None,
        }
        self.doubt(pod);
    }

    /// A sender whose event is in doubt begins anew; the id finds out what became of it.
    fn start_again(&mut self, pod: PodIndex) {
        let pod = self.pod(pod);
        if let Job::Placed(Publish { event, .. }) | Job::Waiting { event } = pod.job {
            pod.job = Job::Start { id: event.id };
        }
    }

    pub(super) fn confirm(&mut self, pod: PodIndex, task: Task, shown: bool) -> Taken {
        let event = self.publish_of(pod, task)?.event;
        // The connection need not be a verified one.
        let room = self.redis_of(pod)?.room.as_mut();
        let room = room.filter(|room| room.generation == generation(event.seq));
        let safe = room.map(|room| {
            room.confirm(event.seq);
            room.safe()
        });
        if shown {
            safe?;
            self.show_next(event)?;
        }
        match (task, safe) {
            (Task::Help, _) => self.pod(pod).help = None,
            (Task::Job, Some(safe)) if safe >= event.seq => self.ack(pod, event),
            (Task::Job, Some(_)) => self.pod(pod).job = Job::Waiting { event },
            (Task::Job, None) => self.start_again(pod),
        }
        Some(())
    }

    pub(super) fn ack_alone(&mut self, pod: PodIndex) -> Taken {
        let publish = *self.publish_of(pod, Task::Job)?;
        self.ack(pod, publish.event);
        Some(())
    }

    pub(super) fn show_alone(&mut self, pod: PodIndex) -> Taken {
        let publish = *self.publish_of(pod, Task::Job)?;
        self.show_next(publish.event)
    }

    pub(super) fn answer(&mut self, pod: PodIndex) -> Taken {
        let (event, is_placed) = match self.pod(pod).job {
            Job::Waiting { event } => (event, false),
            Job::Placed(Publish { event, .. }) => (event, true),
            _ => return None,
        };
        let of_generation = self.config.safeguards.safe_of_generation;
        let room = self.redis_of(pod)?.room.as_ref();
        let room = room.filter(|room| !of_generation || room.generation == generation(event.seq));
        match room.map(|room| room.safe()) {
            Some(safe) if safe >= event.seq => self.ack(pod, event),
            Some(_) => return None,
            None if !self.config.safeguards.safe_without_holes && self.is_passed(event) => {
                self.ack(pod, event);
            }
            None if is_placed => return None,
            None => self.start_again(pod),
        }
        Some(())
    }

    /// Whether an event of the same generation and as late is stored.
    fn is_passed(&self, event: Event) -> bool {
        let last = self.state.mongo.stored.last();
        generation(last) == generation(event.seq) && last >= event.seq
    }

    /// A confirmed event is handed to the reader if it is the next one.
    fn show_next(&mut self, event: Event) -> Taken {
        let follows = event.id != FENCE && event.seq == self.state.reader.position() + 1;
        (follows && self.config.reader).then(|| self.show(event))
    }
}
