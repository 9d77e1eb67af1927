//! The persistence worker: takes events from the shard queues and stores them in MongoDB, in batches.
//!
//! Write, then acknowledge; writes are idempotent, so that redelivery is harmless. What can never be stored goes to the
//! parking queue with a reason. Read cursors and notifications are not its business.

mod batch;
mod commit;
mod config;
mod consumer;
pub mod index;
mod marks;
mod metrics;
pub mod parked;
pub mod shards;
mod troubles;
mod work;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use backend::Error;
use backend::cluster::backoff::Backoff;
use backend::cluster::breaker::Breaker;
use backend::cluster::metrics::OfWorker;
use backend::cluster::parked::Lot;
use backend::cluster::relay::PodId;
use backend::cluster::settings::Endpoint;
use backend::cluster::store::Cover;
use backend::cluster::topology::Topology;
use backend::cluster::{Mongo, Redis, Store, generation, migrations};
use protocol::Timestamp;
use runtime::health::Check;
use runtime::{Readiness, admin};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use commit::Commits;
pub use config::{Config, VARIABLES};
use marks::Marks;
use metrics::{InHand, Metrics};
use troubles::Troubles;

/// How often rooms are looked for whose removal was broken off, and how many are finished at once.
const PURGE_EVERY: Duration = Duration::from_secs(60);
const PURGE_MAX: usize = 100;
/// A sign of life takes no longer.
const SIGN_WITHIN: Duration = Duration::from_millis(1500);
/// How long nothing is merged after there was nothing to merge, or it failed, and how often what was left is removed.
const MERGE_PAUSE: Duration = Duration::from_millis(500);
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Deleted rooms that leave the index of search at once.
const SWEEP_MAX: usize = 1000;
/// How often it is looked whether the index of search lacks something.
const COVER_EVERY: Duration = Duration::from_secs(2);
const LAG_EVERY: Duration = Duration::from_secs(1);
const GENERATION_EVERY: Duration = Duration::from_secs(3);
const MIGRATE_PAUSE_MIN: Duration = Duration::from_millis(200);
const MIGRATE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What the tasks share.
struct Worker {
    store: Store,
    commits: Commits,
    rabbitmq: Endpoint,
    topology: Topology,
    lot: Lot,
    marks: Marks,
    metrics: Metrics,
    /// A place for each shard.
    in_hand: Vec<InHand>,
    broker: Arc<Troubles>,
    shutdown: CancellationToken,
}

/// Stores events until the token is cancelled, then finishes what is in hand.
///
/// # Errors
/// When the database is newer than this program, or the server for operators cannot run.
pub async fn run(
    config: Config,
    admin_listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mongo = Mongo::new(&config.settings).await?;
    let redis = Redis::new(&config.settings)?;
    let metrics = runtime::Metrics::new("persistence-worker", env!("CARGO_PKG_VERSION"));
    let own_metrics = Metrics::register(&metrics);
    let failing = own_metrics.failing.clone();
    let broker = Arc::new(Troubles::new(config.settings.shards, failing));
    let readiness = readiness(&mongo, &redis, &broker);
    let generation = Arc::new(AtomicU64::new(0));
    let name: Arc<str> = PodId::generate().name().into();
    info!(pod = &*name, "this process");
    let of_servers = OfWorker {
        name: Arc::clone(&name),
        redis: redis.clone(),
        mongo: mongo.clone(),
        generation: Arc::clone(&generation),
    };
    metrics.register(|registry| registry.register_collector(Box::new(of_servers)));
    let admin_shutdown = CancellationToken::new();
    let operators = admin::serve(
        admin_listener,
        metrics,
        readiness.clone(),
        admin_shutdown.clone(),
    );
    let operators = async {
        let ended = operators.await.context("the server for operators ended");
        // Without it nobody could tell how this process is.
        shutdown.cancel();
        ended
    };
    let drain = config.drain;
    let work = async {
        let store = Store::new(mongo.clone());
        let looking = look_at_generation(redis.clone(), generation);
        let raised = own_metrics.marks.clone();
        let (marks, keeper) = Marks::new(store.clone(), redis, raised);
        let (commits, writer) = Commits::new(store.clone(), name, own_metrics.writes.clone());
        let worker = Worker {
            commits,
            rabbitmq: config.settings.rabbitmq.clone(),
            topology: Topology::new(&config.settings),
            lot: Lot::new(&config.settings.broker()),
            marks,
            metrics: own_metrics,
            in_hand: (0..config.settings.shards)
                .map(|_| InHand::default())
                .collect(),
            broker,
            shutdown: shutdown.clone(),
            store,
        };
        let leaving = async {
            shutdown.cancelled().await;
            readiness.set_draining();
            tokio::time::sleep(drain).await;
        };
        let ended = tokio::select! {
            ended = serve(&mongo, worker, writer, keeper) => ended,
            () = looking => Ok(()),
            () = leaving => {
                warn!("not all that was in hand is stored; it goes back to its queue");
                Ok(())
            }
        };
        admin_shutdown.cancel();
        ended
    };
    let (work, operators) = tokio::join!(work, operators);
    work.and(operators)
}

async fn serve(
    mongo: &Mongo,
    worker: Worker,
    writer: impl Future<Output = ()>,
    keeper: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    if !migrate(mongo, &worker.shutdown).await? {
        return Ok(());
    }
    let worker = Arc::new(worker);
    let consuming = async move {
        let beside = async {
            tokio::join!(
                writer,
                purge(&worker.store),
                merge(&worker),
                cover(&worker),
                watch_lag(&worker)
            );
        };
        tokio::select! {
            () = consumer::serve(Arc::clone(&worker)) => {}
            () = beside => {}
        }
        info!("everything in hand is stored");
    };
    // The marks of the last batches are raised after the last handle is gone.
    tokio::join!(consuming, keeper);
    Ok(())
}

/// Brings the database up to date, as soon as there is one. Answers false when it is time to end before.
async fn migrate(mongo: &Mongo, shutdown: &CancellationToken) -> anyhow::Result<bool> {
    let mut backoff = Backoff::new(MIGRATE_PAUSE_MIN, MIGRATE_PAUSE_MAX);
    loop {
        let migrated = tokio::select! {
            migrated = migrations::migrate(mongo) => migrated,
            () = shutdown.cancelled() => return Ok(false),
        };
        match migrated {
            Ok(()) => return Ok(true),
            Err(error @ Error::Unavailable { .. }) => {
                if backoff.is_fresh() {
                    warn!(%error, "the database cannot be prepared now; it is tried again");
                }
            }
            Err(error) => return Err(error).context("the database cannot be prepared"),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            () = shutdown.cancelled() => return Ok(false),
        }
    }
}

/// For the metrics alone: what is stored says itself which generation it is of. Never ends.
async fn look_at_generation(redis: Redis, known: Arc<AtomicU64>) {
    let mut tick = tokio::time::interval(GENERATION_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match generation::in_redis(&redis).await {
            Ok(generation) => {
                known.fetch_max(generation.unwrap_or(0), Ordering::Relaxed);
            }
            Err(error) => tracing::debug!(%error, "Redis does not say its generation"),
        }
    }
}

fn readiness(mongo: &Mongo, redis: &Redis, broker: &Arc<Troubles>) -> Readiness {
    let readiness = Readiness::new();
    let (mongo, redis, broker) = (mongo.clone(), redis.clone(), Arc::clone(broker));
    readiness.checks("servers", move || {
        let (mongo, redis, broker) = (mongo.clone(), redis.clone(), Arc::clone(&broker));
        async move {
            let (mongo_trouble, redis_trouble) = tokio::join!(
                mongo.breaker().hear(SIGN_WITHIN, mongo.trouble()),
                redis.breaker().hear(SIGN_WITHIN, redis.trouble()),
            );
            let behind = |breaker: &Breaker, trouble| {
                Check::new(breaker.name(), trouble).with_breaker(Some(breaker.state_of_calls()))
            };
            vec![
                behind(mongo.breaker(), mongo_trouble),
                behind(redis.breaker(), redis_trouble),
                Check::new("rabbitmq", broker.sum()),
            ]
        }
    });
    readiness
}

async fn watch_lag(worker: &Worker) {
    let mut tick = tokio::time::interval(LAG_EVERY);
    loop {
        tick.tick().await;
        let now = Timestamp::now();
        let lags = worker.in_hand.iter().map(|in_hand| in_hand.age(now));
        worker.metrics.lag.set(lags.fold(0.0, f64::max));
    }
}

/// Keeps the index of search in few segments.
async fn merge(worker: &Worker) {
    let mut swept = None;
    loop {
        match merge_once(worker).await {
            // There may be more to do.
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the index of search is merged later"),
        }
        if swept.is_none_or(|at: Instant| at.elapsed() > SWEEP_EVERY) {
            swept = Some(Instant::now());
            if let Err(error) = worker.store.sweep_index(SWEEP_MAX).await {
                tracing::debug!(%error, "the index of search is swept later");
            }
        }
        tokio::time::sleep(MERGE_PAUSE).await;
    }
}

async fn merge_once(worker: &Worker) -> backend::Result<bool> {
    let indexed = worker.store.look_at_index().await?;
    worker.metrics.set_index(&indexed);
    let has_merged = worker.store.merge_index(indexed).await?;
    worker.metrics.merges.inc_by(has_merged.into());
    Ok(has_merged)
}

/// Puts into the index of search what is stored and not in it.
async fn cover(worker: &Worker) {
    loop {
        let begun = Instant::now();
        let pause = match worker.store.cover().await {
            Ok(Cover::Walked(events)) => {
                worker.metrics.walked.inc_by(events as u64);
                // Half of the time is for what else MongoDB has to do.
                begun.elapsed()
            }
            Ok(Cover::Complete | Cover::Elsewhere) => COVER_EVERY,
            Err(error) => {
                tracing::debug!(%error, "the index of search is completed later");
                COVER_EVERY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Finishes what broken-off removals of rooms have left.
async fn purge(store: &Store) {
    let mut tick = tokio::time::interval(PURGE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match store.purge(PURGE_MAX).await {
            Ok(0) => {}
            Ok(rooms) => info!(rooms, "removed what was left of forgotten rooms"),
            Err(error) => tracing::debug!(%error, "forgotten rooms are looked for later"),
        }
    }
}
