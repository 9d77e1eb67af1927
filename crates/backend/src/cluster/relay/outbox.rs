//! What waits to be sent to other pods: a lane per pod, bounded together. What does not fit pushes out the oldest.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::wire::{Kind, Line};
use crate::cluster::envelope;

/// Bytes that wait for all pods together.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a line costs besides its bytes.
const LINE_OVERHEAD: usize = 64;
/// A signal that has waited for longer says nothing about now.
const SIGNAL_AGE_MAX: Duration = Duration::from_secs(5);
/// What was written to a connection this long ago has arrived, or the pod has looked for itself since.
const DOUBT_MAX: Duration = Duration::from_secs(60);
/// Pods of which it is known when they were last written to.
const WRITTEN_MAX: usize = 1000;

#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Default)]
struct State {
    lanes: HashMap<String, VecDeque<Waiting>>,
    /// The pods with something in their lanes, each once; the one that was served longest ago comes first.
    order: VecDeque<String>,
    bytes: usize,
    dropped: u64,
    /// When events were last taken for a pod.
    written: HashMap<String, Instant>,
}

struct Waiting {
    kind: Kind,
    line: Line,
    since: Instant,
}

impl Waiting {
    fn cost(&self) -> usize {
        self.line.len() + LINE_OVERHEAD
    }
}

/// What one AMQP message carries.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// The routing key.
    pub pod: String,
    pub kind: Kind,
    pub body: Vec<u8>,
    pub lines: u64,
}

impl Outbox {
    /// Puts lines at the end of a pod's lane.
    pub fn push(&self, pod: &str, kind: Kind, lines: impl IntoIterator<Item = Line>) {
        let since = Instant::now();
        let mut state = self.state();
        for line in lines {
            state.push(pod, Waiting { kind, line, since });
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Waits until something is there.
    pub async fn filled(&self) {
        // A notification that is left from before only costs a look.
        while self.state().order.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Takes a message for each pod that something waits for, at most `most`.
    pub fn take(&self, most: usize) -> Vec<Message> {
        let mut state = self.state();
        let count = state.order.len().min(most);
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(pod) = state.order.pop_front() else {
                break;
            };
            messages.extend(state.take(pod));
        }
        messages
    }

    /// The connection is a new one. Nobody knows how much of what was written to the last one has arrived: those it was for
    /// are told to look for themselves.
    pub fn tell_of_loss(&self) {
        let written = std::mem::take(&mut self.state().written);
        for (pod, at) in written {
            if at.elapsed() < DOUBT_MAX {
                self.push(&pod, Kind::Missed, [Line::from(*b"\n")]);
            }
        }
    }

    /// Lines that were given up.
    pub fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Bytes that wait.
    pub fn len_bytes(&self) -> usize {
        self.state().bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, pod: &str, waiting: Waiting) {
        self.bytes += waiting.cost();
        match self.lanes.get_mut(pod) {
            Some(lane) => lane.push_back(waiting),
            None => {
                self.lanes.insert(pod.to_owned(), VecDeque::from([waiting]));
                self.order.push_back(pod.to_owned());
            }
        }
        while self.bytes > BYTES_MAX {
            self.drop_oldest();
        }
    }

    /// Gives up a line of the pod that has waited longest.
    fn drop_oldest(&mut self) {
        let Some(pod) = self.order.front() else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(pod) {
            if let Some(gone) = lane.pop_front() {
                self.bytes -= gone.cost();
                self.dropped += 1;
            }
            if !lane.is_empty() {
                return;
            }
        }
        self.lanes.remove(pod);
        self.order.pop_front();
    }

    fn note_written(&mut self, pod: &str) {
        if let Some(at) = self.written.get_mut(pod) {
            *at = Instant::now();
            return;
        }
        if self.written.len() >= WRITTEN_MAX {
            self.written.retain(|_, at| at.elapsed() < DOUBT_MAX);
        }
        if self.written.len() < WRITTEN_MAX {
            self.written.insert(pod.to_owned(), Instant::now());
        }
    }

    /// The beginning of a lane, as far as it is of one kind and fits; the rest waits for the next round.
    fn take(&mut self, pod: String) -> Option<Message> {
        let lane = self.lanes.get_mut(&pod)?;
        let mut message: Option<Message> = None;
        while let Some(next) = lane.front() {
            let is_late = next.kind == Kind::Signals && next.since.elapsed() > SIGNAL_AGE_MAX;
            if !is_late
                && message
                    .as_ref()
                    .is_some_and(|so_far| so_far.is_closed(next))
            {
                break;
            }
            let Some(taken) = lane.pop_front() else {
                break;
            };
            self.bytes -= taken.cost();
            if is_late {
                self.dropped += 1;
                continue;
            }
            let message = message.get_or_insert_with(|| Message {
                pod: pod.clone(),
                kind: taken.kind,
                body: Vec::new(),
                lines: 0,
            });
            message.body.extend_from_slice(&taken.line);
            message.lines += 1;
        }
        let is_empty = lane.is_empty();
        if message.as_ref().is_some_and(|m| m.kind == Kind::Events) {
            self.note_written(&pod);
        }
        if is_empty {
            self.lanes.remove(&pod);
        } else {
            self.order.push_back(pod);
        }
        message
    }
}

impl Message {
    fn is_closed(&self, next: &Waiting) -> bool {
        next.kind != self.kind
            || self.body.len() + next.line.len() > envelope::BYTES_MAX
            || self.lines as usize >= envelope::EVENTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        format!("{text}\n").into_bytes().into()
    }

    fn taken(outbox: &Outbox) -> Vec<(String, Kind, String)> {
        let messages = outbox.take(10).into_iter();
        messages
            .map(|m| (m.pod, m.kind, String::from_utf8(m.body).unwrap()))
            .collect()
    }

    #[test]
    fn what_waits_for_a_pod_travels_together_and_in_order() {
        let outbox = Outbox::default();
        outbox.push("a", Kind::Events, [line("1")]);
        outbox.push("b", Kind::Events, [line("1")]);
        outbox.push("a", Kind::Events, [line("2"), line("3")]);
        outbox.push("a", Kind::Signals, [line("4")]);
        outbox.push("a", Kind::Events, [line("5")]);
        let a = |kind, text: &str| ("a".to_owned(), kind, text.to_owned());
        assert_eq!(
            taken(&outbox),
            [
                a(Kind::Events, "1\n2\n3\n"),
                ("b".to_owned(), Kind::Events, "1\n".to_owned())
            ]
        );
        assert_eq!(taken(&outbox), [a(Kind::Signals, "4\n")]);
        assert_eq!(taken(&outbox), [a(Kind::Events, "5\n")]);
        assert_eq!(taken(&outbox), []);
        assert_eq!(outbox.len_bytes(), 0);
    }

    #[test]
    fn messages_are_bounded() {
        let outbox = Outbox::default();
        let large = line(&"x".repeat(envelope::BYTES_MAX / 2));
        outbox.push("a", Kind::Events, [large.clone(), large.clone(), large]);
        let many = std::iter::repeat_with(|| line("m")).take(envelope::EVENTS_MAX + 1);
        outbox.push("b", Kind::Events, many);
        let lines = |messages: Vec<Message>| messages.iter().map(|m| m.lines).collect::<Vec<_>>();
        assert_eq!(lines(outbox.take(10)), [1, 1000]);
        assert_eq!(lines(outbox.take(10)), [1, 1]);
        assert_eq!(lines(outbox.take(10)), [1]);
    }

    #[test]
    fn when_it_is_full_the_oldest_go() {
        let outbox = Outbox::default();
        let text = |n: usize| line(&format!("{n:01024}"));
        let most = BYTES_MAX / (1025 + LINE_OVERHEAD);
        for n in 0..most + 10 {
            outbox.push("a", Kind::Events, [text(n)]);
        }
        assert!(outbox.len_bytes() <= BYTES_MAX);
        assert_eq!(outbox.dropped(), 10);
        let first = outbox.take(1).remove(0);
        assert!(first.body.starts_with(&text(10)));
    }
}
