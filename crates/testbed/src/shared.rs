//! Three servers for all tests of a run.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Result, bail};
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
    let start = async || start().await.map_err(|error| format!("{error:#}"));
    match SHARED.get_or_init(start).await {
        Ok((servers, _)) => servers,
        Err(error) => panic!("{error}"),
    }
}

async fn start() -> Result<(Servers, Started)> {
    if let Some(missing) = not_installed() {
        bail!("needs {missing}");
    }
    let started = Started::start().await?;
    let url = |variable| {
        let mut urls = started.variables().into_iter();
        let started = urls.find_map(|(name, url)| (name == variable).then_some(url));
        started
            .or_else(|| named(variable))
            .expect("what is not named was started")
    };
    let servers = Servers {
        redis_url: url(REDIS_URL),
        rabbitmq_url: url(RABBITMQ_URL),
        mongodb_uri: url(MONGODB_URI),
    };
    Ok((servers, started))
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
    let missing = not_installed()?;
    assert!(env::var("CI").as_deref() != Ok("true"), "needs {missing}");
    Some(missing)
}

/// A test that is left out says so: what it needs, in its output and, since the output of a test that passes is not
/// shown, in the file that `DARDA_TEST_SKIPPED` names. `scripts/test` closes with what it finds there.
pub fn skipped(needs: &str) {
    println!("skipped: needs {needs}");
    let Some(file) = env::var_os("DARDA_TEST_SKIPPED") else {
        return;
    };
    let thread = std::thread::current();
    let line = format!("{needs}\t{}\n", thread.name().unwrap_or_default());
    let noted = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&file)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = noted {
        panic!("{}: {error}", file.display());
    }
}

/// What is neither named nor can be started.
pub(crate) fn not_installed() -> Option<String> {
    let needed = [
        (REDIS_URL, Redis::missing()),
        (RABBITMQ_URL, RabbitMq::missing()),
        (MONGODB_URI, Mongo::missing()),
    ];
    let needed: Vec<_> = needed
        .into_iter()
        .filter(|(variable, _)| named(variable).is_none())
        .filter_map(|(_, missing)| missing)
        .collect();
    (!needed.is_empty()).then(|| needed.join(", "))
}

/// What was started because the environment names none and it is installed.
pub(crate) struct Started {
    redis: Option<Redis>,
    rabbitmq: Option<RabbitMq>,
    mongo: Option<Mongo>,
}

impl Started {
    pub(crate) async fn start() -> Result<Self> {
        let (redis, rabbitmq, mongo) = tokio::try_join!(
            unless(
                named(REDIS_URL).is_some() || Redis::missing().is_some(),
                Redis::start(RedisOptions::default())
            ),
            unless(
                named(RABBITMQ_URL).is_some() || RabbitMq::missing().is_some(),
                RabbitMq::start()
            ),
            unless(
                named(MONGODB_URI).is_some() || Mongo::missing().is_some(),
                Mongo::start(1)
            ),
        )?;
        Ok(Self {
            redis,
            rabbitmq,
            mongo,
        })
    }

    /// What names them to other processes.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let redis = self.redis.as_ref().map(|redis| (REDIS_URL, redis.url()));
        let rabbitmq = self
            .rabbitmq
            .as_ref()
            .map(|rabbitmq| (RABBITMQ_URL, rabbitmq.url()));
        let mongo = self.mongo.as_ref().map(|mongo| (MONGODB_URI, mongo.url()));
        [redis, rabbitmq, mongo].into_iter().flatten().collect()
    }
}

async fn unless<T>(needless: bool, start: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    if needless {
        Ok(None)
    } else {
        start.await.map(Some)
    }
}

fn named(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}
