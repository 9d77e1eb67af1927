//! Writes what many shards have to store together: two commands for all of them instead of two for each.
//!
//! While writes are on their way to the disks, what comes meanwhile waits for the next one, which is as much larger.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use backend::cluster::store::{Arrival, Store};
use backend::{Error, Result};
use prometheus_client::metrics::counter::Counter;
use protocol::Event;
use runtime::traced;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Span;

use crate::batch::Batch;

/// A write takes no further batch when it has this many events,
const EVENTS_MAX: usize = 2000;
/// or when this much time has passed since its first, if it can begin then.
const GATHER_WITHIN: Duration = Duration::from_millis(40);
/// Writes that are under way at a time.
const WRITES_MAX: usize = 16;
/// A batch of so many events is a write of its own: it gains nothing by waiting for others.
const LARGE: usize = 500;

/// An event that cannot be stored, and why.
pub type Violation = (Event, String);

/// Takes batches.
pub struct Commits(mpsc::Sender<Job>);

struct Job {
    batch: Arc<Batch>,
    is_alone: bool,
    done: oneshot::Sender<Result<Vec<Violation>>>,
}

impl Commits {
    /// The handle, and the work to be run beside those who use it. It ends when the handle is gone.
    pub fn new(
        store: Store,
        worker: Arc<str>,
        writes: Counter,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(WRITES_MAX);
        let writer = Writer {
            store,
            worker,
            writes,
            open: Vec::new(),
            close_at: Instant::now(),
            ready: VecDeque::new(),
            writing: JoinSet::new(),
        };
        (Self(sender), writer.run(receiver))
    }

    /// Stores the events of a batch with those of others, or by itself, and answers which of them never can be. Those of
    /// several calls at once have no order.
    ///
    /// # Errors
    /// `Unavailable`; then some may be stored, and the same call does the rest. Whatever is wrong with one batch fails
    /// those that were written with it: ask for it alone then.
    pub async fn store(&self, batch: Arc<Batch>, is_alone: bool) -> Result<Vec<Violation>> {
        let (done, answer) = oneshot::channel();
        let job = Job {
            batch,
            is_alone,
            done,
        };
        let given = self.0.send(job).await;
        let answer = match given {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        };
        answer.unwrap_or_else(|| Err(Error::Corrupt("a write broke off".to_owned())))
    }
}

struct Writer {
    store: Store,
    worker: Arc<str>,
    writes: Counter,
    /// Gathered for the next write, which is ready at this time.
    open: Vec<Job>,
    close_at: Instant,
    /// Each wants to be a write.
    ready: VecDeque<Vec<Job>>,
    writing: JoinSet<()>,
}

impl Writer {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        loop {
            let may_write = self.writing.len() < WRITES_MAX;
            if may_write && let Some(group) = self.ready.pop_front() {
                let (store, worker) = (self.store.clone(), Arc::clone(&self.worker));
                self.writes.inc();
                self.writing.spawn(write(store, worker, group));
                continue;
            }
            let is_due = may_write && !self.open.is_empty();
            tokio::select! {
                job = jobs.recv() => match job {
                    Some(job) => self.take(job),
                    None => return,
                },
                () = tokio::time::sleep_until(self.close_at), if is_due => self.close(),
                // Of one that broke off the batches are told by what it has dropped.
                Some(_) = self.writing.join_next() => {}
            }
        }
    }

    fn take(&mut self, job: Job) {
        if job.is_alone || job.batch.events.len() >= LARGE {
            self.ready.push_back(vec![job]);
            return;
        }
        if self.open.is_empty() {
            self.close_at = Instant::now() + GATHER_WITHIN;
        }
        self.open.push(job);
        let events: usize = self.open.iter().map(|job| job.batch.events.len()).sum();
        if events >= EVENTS_MAX {
            self.close();
        }
    }

    fn close(&mut self) {
        self.ready.push_back(std::mem::take(&mut self.open));
    }
}

async fn write(store: Store, worker: Arc<str>, group: Vec<Job>) {
    let arrivals: Vec<Arrival<'_>> = group.iter().flat_map(|job| job.batch.arrivals()).collect();
    let spans: Vec<Span> = group
        .iter()
        .flat_map(|job| &job.batch.spans)
        .map(|span| {
            traced!(
                span,
                "insert",
                otel.kind = "client",
                db.system.name = "mongodb",
                batch = arrivals.len()
            )
        })
        .collect();
    let inserted = store.insert_arrivals(&arrivals, &worker).await;
    drop(spans);
    for Job { batch, done, .. } in group {
        let answer = match &inserted {
            Ok(inserted) => {
                let violations = inserted.violations.iter();
                let of_batch = violations.filter(|(event, _)| batch.events.contains(event));
                Ok(of_batch.cloned().collect())
            }
            Err(error) => Err(error.clone()),
        };
        // Nobody waits for it any more when the worker leaves.
        let _ = done.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use backend::cluster::envelope::Origin;
    use backend::cluster::settings::{Endpoint, Settings};
    use backend::cluster::store::Delivered;
    use backend::cluster::{Mongo, migrations};
    use futures_util::future::join_all;
    use mongodb::bson::{Document, doc};
    use protocol::{EventBody, MessageId, RoomId, Seq, Timestamp, UserId};

    use super::*;

    struct Stage {
        mongo: Mongo,
        store: Store,
        commits: Commits,
        writes: Counter,
    }

    async fn with_stage(test: impl AsyncFnOnce(Stage)) {
        if let Some(what) = testbed::missing() {
            testbed::skipped(&what);
            return;
        }
        let servers = testbed::shared().await;
        let endpoint = |url: &str| Endpoint {
            url: url.to_owned(),
            verify: true,
            ca_file: None,
        };
        let settings = Settings {
            redis: endpoint(&servers.redis_url),
            rabbitmq: endpoint(&servers.rabbitmq_url),
            mongodb: endpoint(&servers.mongodb_uri),
            namespace: testbed::namespace(),
            shards: 16,
            backlog_max: 1000,
        };
        let mongo = Mongo::new(&settings).await.unwrap();
        migrations::migrate(&mongo).await.unwrap();
        let (store, writes) = (Store::new(mongo.clone()), Counter::default());
        let (commits, writer) = Commits::new(store.clone(), "worker".into(), writes.clone());
        let stage = Stage {
            mongo,
            store,
            commits,
            writes,
        };
        tokio::select! {
            () = test(stage) => {}
            () = writer => panic!("the handle is there"),
        }
    }

    fn room(name: &str) -> RoomId {
        RoomId::parse(name).unwrap()
    }

    fn batch(name: &str) -> Arc<Batch> {
        let event = |number| Event {
            room: room(name),
            seq: Seq::new(number).unwrap(),
            prev: Seq::new(number - 1).ok(),
            at: Timestamp::now(),
            from: UserId::parse("alice").ok(),
            id: Some(MessageId::generate()),
            body: EventBody::Message {
                text: "words".to_owned(),
                reply_to: None,
                meta: None,
            },
        };
        let mut batch = Batch::default();
        batch.events = (1..=3).map(event).collect();
        let delivered = Delivered {
            origin: Origin::default(),
            at: Timestamp::now(),
        };
        batch.deliveries = vec![delivered; 3];
        Arc::new(batch)
    }

    impl Stage {
        async fn stored(&self, name: &str) -> Vec<Event> {
            let stored = self.store.after(&room(name), Seq::ZERO, 10).await;
            stored.unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn many_batches_cost_few_writes() {
        with_stage(async |stage: Stage| {
            let batches: Vec<_> = (0..16).map(|n| batch(&format!("room-{n}"))).collect();
            let stored = batches
                .iter()
                .map(|batch| stage.commits.store(Arc::clone(batch), false));
            for violations in join_all(stored).await {
                assert_eq!(violations.unwrap(), []);
            }
            for batch in &batches {
                let room = batch.events[0].room.as_str();
                assert_eq!(stage.stored(room).await, batch.events);
            }
            assert!(stage.writes.get() <= 4, "{} writes", stage.writes.get());
        })
        .await;
    }

    #[tokio::test]
    async fn everybody_is_told_of_their_own_violations() {
        with_stage(async |stage: Stage| {
            let (good, before, ill) = (batch("good"), batch("ill"), batch("ill"));
            stage.commits.store(before, false).await.unwrap();
            let (of_good, of_ill) = tokio::join!(
                stage.commits.store(Arc::clone(&good), false),
                stage.commits.store(Arc::clone(&ill), false),
            );
            assert_eq!(of_good.unwrap(), []);
            let of_ill: Vec<Event> = of_ill
                .unwrap()
                .into_iter()
                .map(|(event, _)| event)
                .collect();
            assert_eq!(of_ill, ill.events);
            assert_eq!(stage.stored("good").await, good.events);
        })
        .await;
    }

    #[tokio::test]
    async fn who_fails_alone_fails_nobody_else() {
        with_stage(async |stage: Stage| {
            let (good, ill) = (batch("good"), batch("ill"));
            // No event can be read from this, so that nobody can tell whether it is the same.
            let nonsense = doc! { "_id": { "room": "ill", "seq": 2_i64 }, "body": 7 };
            let events = stage.mongo.collection::<Document>("events");
            events.insert_one(&nonsense).await.unwrap();
            let (of_good, of_ill) = tokio::join!(
                stage.commits.store(Arc::clone(&good), true),
                stage.commits.store(Arc::clone(&ill), true),
            );
            assert_eq!(of_good.unwrap(), []);
            assert!(matches!(of_ill, Err(Error::Corrupt(_))), "{of_ill:?}");
            events.delete_one(nonsense).await.unwrap();
            let again = stage.commits.store(Arc::clone(&ill), true).await;
            assert_eq!(again.unwrap(), []);
            assert_eq!(stage.stored("ill").await, ill.events);
        })
        .await;
    }
}
