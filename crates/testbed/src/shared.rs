//! Three servers for all tests of a run.

use std::env;

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::{Mongo, RabbitMq, Redis, RedisOptions};

/// Names of the variables that name servers to use instead of starting some.
pub(crate) const REDIS_URL: &str = "DARDA_TEST_REDIS_URL";
pub(crate) const RABBITMQ_URL: &str = "DARDA_TEST_RABBITMQ_URL";
pub(crate) const MONGODB_URI: &str = "DARDA_TEST_MONGODB_URI";

/// Servers that tests share. Nobody stops them or changes what belongs to all.
#[derive(Debug, Clone)]
pub struct Servers {
    pub redis_url: String,
    pub rabbitmq_url: String,
    /// Without a database.
    pub mongodb_uri: String,
}

/// The shared servers: those that the environment names, else one of each for this process, started on the first call and
/// ended with the process.
///
/// # Panics
/// If one cannot be started.
pub async fn shared() -> &'static Servers {
    static SHARED: OnceCell<Result<(Servers, Started), String>> = OnceCell::const_new();
    let start = async || Started::start().await.map_err(|error| format!("{error:#}"));
    match SHARED.get_or_init(start).await {
        Ok((servers, _)) => servers,
        Err(error) => panic!("{error}"),
    }
}

/// A name that no other test uses, fit for a key, a queue and a database.
pub fn namespace() -> String {
    format!("t{:016x}", rand::random::<u64>())
}

/// What has to be installed before [`shared`] can start its servers.
///
/// # Panics
/// If something is, and `CI=true`: there a test must not be skipped.
pub fn missing() -> Option<String> {
    let needed = [
        named(REDIS_URL).is_none().then(Redis::missing).flatten(),
        named(RABBITMQ_URL)
            .is_none()
            .then(RabbitMq::missing)
            .flatten(),
        named(MONGODB_URI).is_none().then(Mongo::missing).flatten(),
    ];
    let needed: Vec<_> = needed.into_iter().flatten().collect();
    let missing = (!needed.is_empty()).then(|| needed.join(", "))?;
    assert!(env::var("CI").as_deref() != Ok("true"), "needs {missing}");
    Some(missing)
}

/// What was started because the environment named none.
#[derive(Default)]
pub(crate) struct Started {
    _redis: Option<Redis>,
    _rabbitmq: Option<RabbitMq>,
    _mongo: Option<Mongo>,
}

impl Started {
    pub(crate) async fn start() -> Result<(Servers, Self)> {
        let (redis, rabbitmq, mongo) = tokio::try_join!(
            unless_named(REDIS_URL, Redis::start(RedisOptions::default())),
            unless_named(RABBITMQ_URL, RabbitMq::start()),
            unless_named(MONGODB_URI, Mongo::start(1)),
        )?;
        let servers = Servers {
            redis_url: url(REDIS_URL, redis.as_ref().map(Redis::url)),
            rabbitmq_url: url(RABBITMQ_URL, rabbitmq.as_ref().map(RabbitMq::url)),
            mongodb_uri: url(MONGODB_URI, mongo.as_ref().map(Mongo::url)),
        };
        Ok((
            servers,
            Self {
                _redis: redis,
                _rabbitmq: rabbitmq,
                _mongo: mongo,
            },
        ))
    }
}

async fn unless_named<T>(
    variable: &str,
    start: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    match named(variable) {
        Some(_) => Ok(None),
        None => start.await.map(Some),
    }
}

fn url(variable: &str, started: Option<String>) -> String {
    started
        .or_else(|| named(variable))
        .expect("it was started because it was not named")
}

fn named(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}
