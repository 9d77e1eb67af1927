//! Makes the servers of the cluster family ready for Darda: the replica set and the user in MongoDB, the virtual host, the
//! user, exchanges and queues in RabbitMQ, collections and indexes; and the passwords in a Secret of Kubernetes.
//!
//! Each part looks, does the next thing that is lacking, and looks again. So it may run any number of times, several at once,
//! and be broken off anywhere. Nothing that is there is taken away.
//!
//! Not here: the exchanges of generations, which belong to whoever raises one; starting servers.

mod config;
mod http;
mod mongodb;
mod rabbitmq;
mod redis;
mod report;
pub mod secrets;
mod wait;

use std::time::Duration;

use anyhow::{Result, bail};
use backend::cluster::{Mongo, migrations};
use tracing::{info, warn};

pub use config::{Config, Host, Hosts, SecretConfig, VARIABLES};
use report::Found;
use wait::Trouble;

const MIGRATED: &str = "mongodb: collections and indexes are those of this version";

/// Makes everything that is lacking. The three servers are looked after at once, since they come up in any order.
///
/// # Errors
/// When something is not as it should be: what, of each server.
pub async fn run(config: &Config) -> Result<()> {
    let done = tokio::join!(
        mongodb(config),
        rabbitmq(config),
        redis::run(&config.settings, config.wait),
    );
    let troubles: Vec<String> = [done.0, done.1, done.2]
        .into_iter()
        .filter_map(|done| done.err().map(|error| format!("{error:#}")))
        .collect();
    if !troubles.is_empty() {
        bail!(troubles.join("; "));
    }
    info!("everything is as it should be");
    Ok(())
}

/// Looks at what [`run`] would do, and does nothing. Waits for nobody.
///
/// # Errors
/// If [`run`] would do something, or something is not as it should be.
pub async fn check(config: &Config) -> Result<()> {
    let broker = rabbitmq::Making::new(&config.settings, config.broker.as_ref(), config.wait)?;
    let (mut found, in_rabbitmq, in_redis) = tokio::join!(
        check_mongodb(config),
        broker.check(),
        redis::check(&config.settings),
    );
    found.extend(in_rabbitmq);
    found.push(in_redis);
    report::report(&found)?;
    info!("everything is as it should be");
    Ok(())
}

/// Members are filled last: programs need them less than the rest.
async fn mongodb(config: &Config) -> Result<()> {
    let set = match &config.replica_set {
        Some(wanted) => {
            let endpoint = &config.settings.mongodb;
            let set = mongodb::Making::new(endpoint, wanted, config.wait).await?;
            said(set.begin().await)?;
            Some(set)
        }
        None => None,
    };
    said(wait::until(config.wait, async || migrate(config).await).await)?;
    info!("{MIGRATED}");
    match set {
        Some(set) => said(set.grow().await),
        None => Ok(()),
    }
}

async fn rabbitmq(config: &Config) -> Result<()> {
    let broker = rabbitmq::Making::new(&config.settings, config.broker.as_ref(), config.wait)?;
    said(broker.run().await)
}

/// What ends one server's part is said when it happens: another server may still be waited for.
fn said(done: Result<()>) -> Result<()> {
    done.inspect_err(|why| warn!("given up: {why:#}"))
}

async fn migrate(config: &Config) -> Result<(), Trouble> {
    let mongo = Mongo::new(&config.settings).await?;
    Ok(migrations::migrate(&mongo).await?)
}

/// Who cannot sign in cannot look at the database.
async fn check_mongodb(config: &Config) -> Vec<Found> {
    let mut found = Vec::new();
    if let Some(wanted) = &config.replica_set {
        let endpoint = &config.settings.mongodb;
        let set = match mongodb::Making::new(endpoint, wanted, Duration::ZERO).await {
            Ok(set) => set,
            Err(error) => return vec![Found::Wrong(format!("{error:#}"))],
        };
        let (in_set, of_user) = tokio::join!(set.check_set(), set.check_user());
        found.push(in_set);
        let may_sign_in = of_user.iter().all(Found::is_in_order);
        found.extend(of_user);
        if !may_sign_in {
            return found;
        }
    }
    found.push(match is_migrated(config).await {
        Ok(true) => Found::InOrder(MIGRATED.to_owned()),
        Ok(false) => Found::Lacking("make collections and indexes, in MongoDB".to_owned()),
        Err(trouble) => trouble.into(),
    });
    found
}

async fn is_migrated(config: &Config) -> Result<bool, Trouble> {
    let mongo = Mongo::new(&config.settings).await?;
    Ok(migrations::is_current(&mongo).await?)
}
