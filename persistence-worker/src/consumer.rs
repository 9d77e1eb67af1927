//! From the shard queues into the store. The broker gives each shard to one worker at a time; every worker subscribes to
//! all of them.

use std::sync::Arc;
use std::time::Duration;

use backend::Error;
use backend::cluster::backoff::Backoff;
use backend::cluster::topology;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::Worker;
use crate::batch::{Batch, ENVELOPES_MAX, Ended};
use crate::work::Work;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long a new connection may take until it can be used.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Envelopes that the broker sends ahead, for each shard: those of the next batch come while one is stored.
const AHEAD_MAX: u16 = 2 * ENVELOPES_MAX;
/// How long deliveries are held while they cannot be stored. Then they go back to their queue and this worker to the end of
/// the line: another may be able to, and RabbitMQ would end the channel after 30 minutes.
const HOLD_MAX: Duration = Duration::from_secs(300);

/// Consumes until the shutdown; then finishes what is in hand.
///
/// Each shard has a connection of its own. The broker closes the whole connection of who asks for a queue that it has lost
/// (541), and the other shards are to go on.
pub async fn serve(worker: Arc<Worker>) {
    let mut shards = JoinSet::new();
    for number in 0..worker.topology.shards {
        let worker = Arc::clone(&worker);
        shards.spawn(Shard { worker, number }.serve());
    }
    while let Some(ended) = shards.join_next().await {
        // A shard without its task would be served by nobody.
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
}

struct Shard {
    worker: Arc<Worker>,
    number: u16,
}

impl Shard {
    async fn serve(self) {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        while !self.worker.shutdown.is_cancelled() {
            let why = match tokio::time::timeout(READY_WITHIN, self.open()).await {
                Ok(Ok(connection)) => {
                    self.worker.metrics.connections.inc();
                    let ended = self.consume(&connection, &mut backoff).await;
                    let _ = connection.close(200, "the worker leaves".into()).await;
                    match ended {
                        Ok(()) => return,
                        Err(why) => why,
                    }
                }
                Ok(Err(error)) => error,
                Err(_) => Error::unavailable("rabbitmq: it is not ready in time"),
            };
            self.worker.broker.fails(self.number, why.to_string());
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = self.worker.shutdown.cancelled() => {}
            }
        }
    }

    async fn open(&self) -> Result<Connection, Error> {
        let Worker {
            rabbitmq, topology, ..
        } = &*self.worker;
        let name = format!("darda persistence-worker, shard {}", self.number);
        let connection = topology::connect(rabbitmq, &name).await?;
        let channel = connection.create_channel().await.map_err(trouble)?;
        topology.declare_parking(&channel).await?;
        topology.declare_shard(&channel, self.number).await?;
        channel
            .close(200, "declared".into())
            .await
            .map_err(trouble)?;
        Ok(connection)
    }

    /// Consumes until the shutdown, or until something goes wrong.
    async fn consume(&self, connection: &Connection, backoff: &mut Backoff) -> Result<(), Error> {
        let (channel, mut consumer) = self.subscribe(connection).await?;
        self.worker.broker.works(self.number);
        let in_hand = &self.worker.in_hand[usize::from(self.number)];
        let ended = loop {
            let gathered = Batch::gather(&mut consumer, in_hand, &self.worker.shutdown);
            let batch = match gathered.await {
                Ok(batch) => batch,
                Err(Ended::Shutdown) => break Ok(()),
                Err(Ended::Lost(why)) => {
                    break Err(why.map_or_else(
                        || Error::unavailable("rabbitmq: the subscription is gone"),
                        trouble,
                    ));
                }
            };
            match self.persist(&channel, Work::new(batch)).await {
                Ok(()) => backoff.reset(),
                Err(why) => break Err(why),
            }
        };
        in_hand.release();
        // What is not acknowledged goes back to the head of the queue, in its order, before another gets anything.
        let _ = channel.close(200, "the worker leaves".into()).await;
        ended
    }

    async fn subscribe(&self, connection: &Connection) -> Result<(Channel, Consumer), Error> {
        let channel = connection.create_channel().await.map_err(trouble)?;
        channel
            .basic_qos(AHEAD_MAX, BasicQosOptions::default())
            .await
            .map_err(trouble)?;
        let queue = self.worker.topology.shard_queue(self.number);
        let consumer = channel
            .basic_consume(
                queue.into(),
                "persistence-worker".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(trouble)?;
        Ok((channel, consumer))
    }

    /// Stores a batch, however often it takes, and acknowledges it.
    async fn persist(&self, channel: &Channel, mut work: Work) -> Result<(), Error> {
        let start = Instant::now();
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let mut tries = 1_u64;
        while let Err(error) = work.go_on(&self.worker).await {
            if backoff.is_fresh() {
                warn!(shard = self.number, %error, "a batch cannot be stored now; it is tried again");
            }
            if !channel.status().connected() {
                work.given_up(tries);
                return Err(error);
            }
            if start.elapsed() > HOLD_MAX {
                // Somebody else shall try.
                work.given_up(tries);
                return Err(Error::unavailable("what it has in hand cannot be stored"));
            }
            tokio::time::sleep(backoff.pause()).await;
            tries += 1;
        }
        if !backoff.is_fresh() {
            info!(shard = self.number, "the batch is stored");
        }
        let (batch, links) = work.done();
        batch.ack().await.map_err(trouble)?;
        for span in &batch.spans {
            span.record("tries", tries);
        }
        let metrics = &self.worker.metrics;
        metrics.events.inc_by(links.len() as u64);
        metrics.batch_seconds.observe(start.elapsed().as_secs_f64());
        self.worker.marks.stored(links);
        Ok(())
    }
}

fn trouble(error: lapin::Error) -> Error {
    topology::trouble(&error)
}
