//! The cluster family: any number of processes share one chat over Redis, RabbitMQ and MongoDB.
//!
//! An event is appended in Redis ([`log`]), published to a shard queue and, once the broker has confirmed it, it is in
//! the log for good: the sender is answered, local readers and other pods ([`relay`]) are told, and the persistence
//! worker stores it ([`store`]). What Redis loses is fenced off by generations ([`generation`]).

pub mod backoff;
pub mod breaker;
pub mod directory;
pub mod envelope;
pub mod generation;
mod health;
mod lease;
mod log;
pub mod metrics;
pub mod migrations;
pub mod mongo;
pub mod parked;
pub mod persisted;
pub mod presence;
mod publisher;
pub mod redis;
pub mod relay;
pub mod search;
mod sequencer;
pub mod settings;
pub mod shards;
pub mod store;
pub mod topology;
mod trust;

use std::sync::Arc;
use std::time::Instant;

use protocol::EventBody;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use directory::MongoDirectory;
pub use mongo::Mongo;
pub use redis::Redis;
pub use settings::Settings;
pub use store::Store;

use crate::{Backends, Result};
use generation::Generations;
use presence::ClusterPresence;
use publisher::Publisher;
use relay::{ClusterRelay, PodId};
use search::MongoSearch;
use sequencer::{Hearing, Sequencer};

/// How often a start is tried again that failed because a server was away.
const TRY_AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// Opens the family. Servers that are away are no error: calls answer [`Unavailable`](crate::Error::Unavailable) until
/// they are there.
///
/// # Errors
/// When the settings cannot be used.
pub async fn open(settings: Settings) -> Result<Backends> {
    let redis = Redis::new(&settings)?;
    let mongo = Mongo::new(&settings).await?;
    let shutdown = CancellationToken::new();
    let (migrated, is_migrated) = watch::channel(false);
    tokio::spawn(prepare(mongo.clone(), migrated, shutdown.clone()));
    let mongo = mongo.once_migrated(is_migrated);
    let generations = Arc::new(Generations::new(
        redis.clone(),
        mongo.clone(),
        settings.clone(),
    ));
    let relay = ClusterRelay::new(&settings, redis.clone(), PodId::generate());
    let sequencer = Arc::new(Sequencer::new());
    let core = log::Core::new(
        redis.clone(),
        Store::new(mongo.clone()),
        Arc::clone(&generations),
        relay.clone(),
        Arc::clone(&sequencer),
        settings.clone(),
    );
    tracing::info!(pod = relay.pod().name(), "this process");
    sequencer.connect(Arc::downgrade(&core), relay.clone());
    let directory = MongoDirectory::new(mongo.clone(), redis.clone());
    let (outcomes, judged) = mpsc::unbounded_channel();
    let judge: publisher::Judge = Arc::new(move |generation, placed, outcome| {
        // The log lives as long as the publisher; at the very end nobody waits.
        let _ = outcomes.send((generation, placed, outcome));
    });
    let publisher = Publisher::start(settings, relay.pod(), judge, shutdown.clone());
    core.start(publisher.clone(), judged, forget_what_changed(&directory));
    relay.start(Arc::new(Hearing(Arc::clone(&sequencer))));
    let cannot_hear = {
        let (relay, publisher) = (relay.clone(), publisher.clone());
        // What blocks this process blocks the others too.
        move || relay.is_deaf() || publisher.is_blocked()
    };
    tokio::spawn(sweep(sequencer, cannot_hear, shutdown.clone()));
    tokio::spawn(look_at_redis(
        redis.clone(),
        Arc::clone(&generations),
        shutdown.clone(),
    ));
    let presence = ClusterPresence::start(redis.clone(), relay.clone());
    Ok(Backends {
        log: Arc::new(log::ClusterLog(Arc::clone(&core))),
        relay: Arc::new(relay.clone()),
        presence: Arc::new(presence.clone()),
        directory: Arc::new(directory),
        search: Arc::new(MongoSearch::new(mongo.clone(), redis.clone())),
        health: Arc::new(health::Family {
            redis,
            mongo,
            publisher,
            relay,
            presence,
            generations,
            core,
            shutdown,
        }),
    })
}

/// Memberships and rooms of which an event says that they changed are looked at anew before anybody sees the event.
fn forget_what_changed(directory: &MongoDirectory) -> log::Hook {
    let directory = directory.clone();
    Box::new(move |event| match &event.body {
        EventBody::Member { user, .. } => directory.forget_cached(&event.room, Some(user)),
        EventBody::Room { .. } => directory.forget_cached(&event.room, None),
        _ => {}
    })
}

/// Makes the database ready, as soon as there is one.
async fn prepare(mongo: Mongo, migrated: watch::Sender<bool>, shutdown: CancellationToken) {
    let mut said = String::new();
    loop {
        match migrations::migrate(&mongo).await {
            Ok(()) => {
                migrated.send_replace(true);
                return;
            }
            Err(error) => {
                let why = error.to_string();
                if why != said {
                    tracing::warn!(error = %why, "the database is not ready");
                    said = why;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TRY_AGAIN) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// How often it is asked whether Redis is still the same.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(3);

async fn look_at_redis(redis: Redis, generations: Arc<Generations>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
        let looked = redis.look_again().await;
        if let Err(error) = looked.and(generations.look().await) {
            tracing::debug!(%error, "Redis does not say who it is");
        }
    }
}

/// Rooms are compared with the log now and then; more often while other pods cannot be heard, and when something they said
/// may have got lost.
async fn sweep(
    sequencer: Arc<Sequencer>,
    cannot_hear: impl Fn() -> bool + Send,
    shutdown: CancellationToken,
) {
    let (mut swept, mut is_asked) = (Instant::now(), false);
    loop {
        tokio::select! {
            () = tokio::time::sleep(sequencer::SWEEP_EVERY_DEAF) => {}
            () = sequencer.asked_to_sweep() => is_asked = true,
            () = shutdown.cancelled() => return,
        }
        if is_asked || swept.elapsed() >= sequencer::SWEEP_EVERY || cannot_hear() {
            is_asked = !sequencer.sweep().await;
            swept = Instant::now();
            // Whoever asks meanwhile shares the next one.
            tokio::time::sleep(sequencer::SWEEP_PAUSE).await;
        }
    }
}
