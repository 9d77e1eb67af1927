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

/// Looks at what [`run`] would do, and does nothing. Hardly waits for anybody.
///
/// # Errors
/// If [`run`] would do something, or something is not as it should be.
pub async fn check(config: &Config) -> Result<()> {
    let wait = config.wait.min(report::PATIENCE);
    let broker = rabbitmq::Making::new(&config.settings, config.broker.as_ref(), wait)?;
    let found = tokio::join!(
        check_mongodb(config, wait),
        broker.check(),
        redis::check(&config.settings, wait),
    );
    report::report(&[found.0, found.1, found.2].concat())?;
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
async fn check_mongodb(config: &Config, wait: Duration) -> Vec<Found> {
    let mut found = Vec::new();
    if let Some(wanted) = &config.replica_set {
        let endpoint = &config.settings.mongodb;
        let set = match mongodb::Making::new(endpoint, wanted, wait).await {
            Ok(set) => set,
            Err(error) => return vec![Found::Wrong(format!("{error:#}"))],
        };
        let may_sign_in;
        (found, may_sign_in) = set.check().await;
        if !may_sign_in {
            return found;
        }
    }
    found.extend(report::found(wait, async || look_at_database(config).await).await);
    found
}

async fn look_at_database(config: &Config) -> Result<Vec<Found>, Trouble> {
    let mongo = Mongo::new(&config.settings).await?;
    Ok(vec![match migrations::is_current(&mongo).await? {
        true => Found::InOrder(MIGRATED.to_owned()),
        false => Found::Lacking("make collections and indexes, in MongoDB".to_owned()),
    }])
}
