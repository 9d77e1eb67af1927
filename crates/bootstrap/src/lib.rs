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

use anyhow::{Result, bail};
use backend::cluster::{Mongo, migrations};
use tracing::{error, info};

pub use config::{Config, Host, Hosts, SecretConfig, VARIABLES};
use report::Found;
use wait::Trouble;

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
    info!("mongodb: collections and indexes are those of this version");
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
    done.inspect_err(|why| error!("{why:#}"))
}

async fn migrate(config: &Config) -> Result<(), Trouble> {
    let mongo = Mongo::new(&config.settings).await?;
    Ok(migrations::migrate(&mongo).await?)
}

async fn check_mongodb(config: &Config) -> Vec<Found> {
    let mut found = Vec::new();
    if let Some(wanted) = &config.replica_set {
        match mongodb::Making::new(&config.settings.mongodb, wanted, std::time::Duration::ZERO)
            .await
        {
            Ok(set) => found.extend(set.check().await),
            Err(error) => found.push(Found::Wrong(format!("{error:#}"))),
        }
    }
    found.push(match is_migrated(config).await {
        Ok(true) => {
            Found::InOrder("mongodb: collections and indexes are those of this version".to_owned())
        }
        Ok(false) => Found::Lacking("make collections and indexes, in MongoDB".to_owned()),
        Err(trouble) => trouble.into(),
    });
    found
}

async fn is_migrated(config: &Config) -> Result<bool, Trouble> {
    let mongo = Mongo::new(&config.settings).await?;
    Ok(migrations::is_current(&mongo).await?)
}
