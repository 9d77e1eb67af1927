//! Redis is only looked at: there is nothing to make, and what is wrong with it is for whoever set it up.

use std::time::Duration;

use anyhow::Result;
use backend::Error;
use backend::cluster::{Redis, Settings};
use tracing::info;

use crate::report::{self, Found};
use crate::wait::{self, Trouble};

/// Functions came with it.
const VERSION_MIN: u32 = 7;

/// Until there is a Redis that will do.
///
/// # Errors
/// When there is none in time, or one that will not do.
pub async fn run(settings: &Settings, wait: Duration) -> Result<()> {
    let redis = Redis::new(settings)?;
    let found = wait::until(wait, async || look(&redis).await).await?;
    info!("{found}");
    Ok(())
}

/// What [`run`] would say.
pub async fn check(settings: &Settings, wait: Duration) -> Vec<Found> {
    report::found(wait, async || {
        let redis = Redis::new(settings)?;
        Ok(vec![Found::InOrder(look(&redis).await?)])
    })
    .await
}

/// A connection is only made to a primary that has loaded its data.
async fn look(redis: &Redis) -> Result<String, Trouble> {
    let info: String = redis.query(redis::cmd("INFO").arg("server")).await?;
    let version = version(&info).ok_or_else(|| lasting("it does not tell its version"))?;
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    if major.is_none_or(|major: u32| major < VERSION_MIN) {
        return Err(lasting(&format!(
            "it is {version}; it has to be {VERSION_MIN} or newer"
        )));
    }
    let mut policy = redis::cmd("CONFIG");
    policy.arg("GET").arg("maxmemory-policy");
    let policy: Option<(String, String)> = match redis.query(&policy).await {
        Ok(policy) => policy,
        // Who runs it for others does not let them ask.
        Err(Error::Corrupt(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match policy {
        Some((_, policy)) if policy != "noeviction" => Err(lasting(&format!(
            "its maxmemory-policy is {policy}; it has to be noeviction, or it forgets what is not stored yet"
        ))),
        Some(_) => Ok(format!("redis: {version}, which evicts nothing")),
        None => Ok(format!(
            "redis: {version}, which does not tell its maxmemory-policy; it has to be noeviction"
        )),
    }
}

fn lasting(why: &str) -> Trouble {
    Trouble::Lasting(format!("redis: {why}"))
}

fn version(info: &str) -> Option<&str> {
    let mut lines = info.lines();
    lines
        .find_map(|line| line.strip_prefix("redis_version:"))
        .map(str::trim)
}
