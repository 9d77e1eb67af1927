//! Changes wait in a queue per room. Whatever waits there when it is their turn is done in one transaction, so that a
//! thousand people who enter a room at once do not fight for its document.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::RoomId;
use tokio::sync::oneshot;

use super::Inner;
use super::documents::Pair;
use super::sessions::in_time;
use super::transaction::Outcome;
use super::work::{Needs, Work};
use crate::{Error, Result};

/// Changes of one transaction.
const TOGETHER_MAX: usize = 128;
/// Changes that wait, of all rooms. Beyond that callers are told to come back.
const WAITING_MAX: usize = 10_000;

/// What changes must wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Room(RoomId),
    Pair(Pair),
}

/// The queues.
#[derive(Default)]
pub(super) struct Changes {
    lanes: Mutex<HashMap<Lane, VecDeque<Box<dyn Job>>>>,
    waiting: AtomicUsize,
}

/// A change and whoever waits for it.
trait Job: Send {
    fn room(&self) -> &RoomId;
    fn needs(&self) -> &Needs;
    /// Whether it shares its transaction with nothing else.
    fn is_alone(&self) -> bool;
    fn is_awaited(&self) -> bool;
    /// Lets it happen. Called again when the transaction begins again.
    fn apply(&mut self, work: &mut Work);
    /// The transaction is over.
    fn answer(self: Box<Self>, error: Option<&Error>);
}

struct Change<T, F> {
    room: RoomId,
    needs: Needs,
    rule: F,
    done: Option<Result<T>>,
    caller: oneshot::Sender<Result<T>>,
}

impl<T, F> Job for Change<T, F>
where
    T: Send,
    F: Fn(&mut Work) -> Result<T> + Send,
{
    fn room(&self) -> &RoomId {
        &self.room
    }

    fn needs(&self) -> &Needs {
        &self.needs
    }

    fn is_alone(&self) -> bool {
        self.needs.everyone || self.needs.pair.is_some()
    }

    fn is_awaited(&self) -> bool {
        !self.caller.is_closed()
    }

    fn apply(&mut self, work: &mut Work) {
        self.done = Some((self.rule)(work));
    }

    fn answer(self: Box<Self>, error: Option<&Error>) {
        let answer = match (error, self.done) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(done)) => done,
            (None, None) => Err(Error::unavailable("the change was not made")),
        };
        // Whoever went away finds out by asking again.
        let _ = self.caller.send(answer);
    }
}

impl Inner {
    /// Makes a change and waits for its answer.
    pub async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        room: &RoomId,
        needs: Needs,
        rule: impl Fn(&mut Work) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let lane = match &needs.pair {
            Some(pair) => Lane::Pair(pair.clone()),
            None => Lane::Room(room.clone()),
        };
        let (caller, answer) = oneshot::channel();
        let job = Box::new(Change {
            room: room.clone(),
            needs,
            rule,
            done: None,
            caller,
        });
        if self.changes.push(lane.clone(), job)? {
            let run = Run {
                inner: Arc::clone(self),
                lane,
                is_over: false,
            };
            tokio::spawn(run.until_empty());
        }
        in_time(async {
            answer
                .await
                .unwrap_or_else(|_| Err(Error::unavailable("the directory is closed")))
        })
        .await
    }

    async fn make(&self, mut jobs: Vec<Box<dyn Job>>) {
        let Some(room) = jobs.first().map(|job| job.room().clone()) else {
            return;
        };
        let needs = all(jobs.iter().map(|job| job.needs()));
        let moments = self.moments(&room, &needs);
        let apply = |work: &mut Work| jobs.iter_mut().for_each(|job| job.apply(work));
        let outcome = self.transactions.run(&room, &needs, apply).await;
        let error = match outcome {
            Outcome::Committed(work) => {
                self.forget(&room, &needs, &work);
                None
            }
            // Of two people who have a room already, the id that it would have had says nothing.
            Outcome::Found(work, _) if work.of_pair.is_some() => None,
            Outcome::Found(work, read_at) => {
                self.learn(&room, &needs, &moments, &work, read_at).err()
            }
            Outcome::Unknown(work, error) => {
                self.forget(&room, &needs, &work);
                Some(error)
            }
            Outcome::Failed(error) => Some(error),
        };
        for job in jobs {
            job.answer(error.as_ref());
        }
    }
}

impl Changes {
    /// Adds a change. `true` when nobody works on the lane.
    fn push(&self, lane: Lane, job: Box<dyn Job>) -> Result<bool> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::overloaded("too many changes of rooms at once"));
        }
        let mut lanes = self.lanes();
        Ok(match lanes.entry(lane) {
            Entry::Occupied(mut lane) => {
                lane.get_mut().push_back(job);
                false
            }
            Entry::Vacant(lane) => {
                lane.insert(VecDeque::from([job]));
                true
            }
        })
    }

    /// The next changes of a lane. Without any the lane is closed.
    fn take(&self, lane: &Lane) -> Vec<Box<dyn Job>> {
        let mut lanes = self.lanes();
        let mut taken: Vec<Box<dyn Job>> = Vec::new();
        if let Some(waiting) = lanes.get_mut(lane) {
            while let Some(job) = waiting.pop_front() {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                if !job.is_awaited() {
                    continue;
                }
                let is_alone = job.is_alone();
                if is_alone && !taken.is_empty() {
                    self.waiting.fetch_add(1, Ordering::Relaxed);
                    waiting.push_front(job);
                    break;
                }
                taken.push(job);
                if is_alone || taken.len() == TOGETHER_MAX {
                    break;
                }
            }
        }
        if taken.is_empty() {
            lanes.remove(lane);
        }
        taken
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Lane, VecDeque<Box<dyn Job>>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works through a lane until nothing waits there.
struct Run {
    inner: Arc<Inner>,
    lane: Lane,
    is_over: bool,
}

impl Run {
    async fn until_empty(mut self) {
        loop {
            // First the place, then the changes: whoever comes meanwhile shares the transaction.
            let permit = self.inner.sessions.permit().await;
            let jobs = self.inner.changes.take(&self.lane);
            if jobs.is_empty() {
                self.is_over = true;
                return;
            }
            match permit {
                Ok(_permit) => self.inner.make(jobs).await,
                Err(error) => jobs.into_iter().for_each(|job| job.answer(Some(&error))),
            }
        }
    }
}

impl Drop for Run {
    /// After a panic, callers learn that their changes were not made, and the next one opens the lane again.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let left = self.inner.changes.lanes().remove(&self.lane);
        let left = left.map_or(0, |jobs| jobs.len());
        self.inner
            .changes
            .waiting
            .fetch_sub(left, Ordering::Relaxed);
    }
}

/// All that some changes need.
fn all<'a>(needs: impl Iterator<Item = &'a Needs>) -> Needs {
    let mut all = Needs::default();
    for needs in needs {
        all.users.extend(needs.users.iter().cloned());
        all.codes.extend(needs.codes.iter().cloned());
        all.invites |= needs.invites;
        all.everyone |= needs.everyone;
        all.pair = all.pair.or_else(|| needs.pair.clone());
    }
    all.users.sort();
    all.users.dedup();
    all.codes.sort();
    all.codes.dedup();
    all
}
