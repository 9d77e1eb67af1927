//! Faults of Redis, above all those that make it forget.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use rand::RngExt;
use rand::rngs::StdRng;
use testbed::{Data, Redis, RedisOptions};
use tokio::time::{Instant, sleep};

use super::{Fault, secs};
use crate::system::{System, redis_command};

/// How long a new replica may take to have everything.
const SYNC_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// What becomes of the only Redis.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It is killed, and comes back empty.
    Crash,
    /// It stands still for some seconds.
    Freeze,
    /// Everything in it is deleted while it runs.
    Flush,
    /// It is killed, and comes back as it was some seconds before.
    Rollback,
}

#[async_trait(?Send)]
impl Fault for Loss {
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String> {
        let redis = system.servers()?.servers.redis();
        Ok(match self {
            Self::Crash => {
                redis.kill();
                "kill -9 of Redis, which keeps nothing on disk".to_owned()
            }
            Self::Freeze => {
                redis.stop();
                "SIGSTOP Redis".to_owned()
            }
            Self::Flush => {
                redis_command(redis.addr(), &["FLUSHALL"]).await?;
                "FLUSHALL".to_owned()
            }
            Self::Rollback => {
                redis_command(redis.addr(), &["SAVE"]).await?;
                let later = Duration::from_millis(random.random_range(50..3000));
                sleep(later).await;
                redis.kill();
                format!(
                    "kill -9 of Redis, whose disk is {} ms behind",
                    later.as_millis()
                )
            }
        })
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        let redis = system.servers()?.servers.redis();
        match self {
            Self::Crash => redis.restart(Data::Wiped).await,
            Self::Freeze => {
                redis.cont();
                Ok(())
            }
            Self::Flush => Ok(()),
            Self::Rollback => redis.restart(Data::Kept).await,
        }
    }

    fn holds(&self) -> Range<Duration> {
        match self {
            Self::Crash | Self::Rollback => secs(0.0, 1.5),
            Self::Freeze => secs(5.0, 6.0),
            Self::Flush => secs(0.0, 0.1),
        }
    }
}

/// Two primaries at once: a replica, a little behind, is promoted, and all go over to it but one process, which goes on
/// with the old one for some seconds.
#[derive(Default)]
pub struct Split {
    old: Option<std::sync::Arc<Redis>>,
    left_behind: String,
}

#[async_trait(?Send)]
impl Fault for Split {
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String> {
        let names: Vec<String> = system
            .of_kind("pod-")
            .iter()
            .map(|pod| pod.name.clone())
            .collect();
        let cluster = system.servers()?;
        let old = cluster.servers.redis();
        let replica = Redis::start(RedisOptions::default()).await?;
        // For now only: when it is started again later, it follows nobody.
        let (ip, port) = (old.addr().ip().to_string(), old.addr().port().to_string());
        redis_command(replica.addr(), &["REPLICAOF", &ip, &port]).await?;
        synced(&replica).await?;
        // What it does not have when it is promoted is lost, acknowledged by the old one or not.
        let behind = random.random_bool(0.5);
        if behind {
            replica.stop();
            sleep(Duration::from_millis(random.random_range(50..500))).await;
            let port = replica.addr().port().to_string();
            cut_replicas(&old)
                .await
                .with_context(|| format!("the replica at {port}"))?;
            replica.cont();
        }
        redis_command(replica.addr(), &["REPLICAOF", "NO", "ONE"]).await?;
        let index = random.random_range(0..names.len());
        self.left_behind.clone_from(&names[index]);
        cluster
            .move_redis(replica.addr(), Some(&self.left_behind))
            .await?;
        cluster.servers.replace_redis(replica);
        self.old = Some(old);
        let lag = if behind { ", which lags behind," } else { "" };
        Ok(format!(
            "a replica{lag} is promoted; {} stays with the old primary",
            self.left_behind
        ))
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        let cluster = system.servers()?;
        cluster
            .move_redis(cluster.servers.redis().addr(), None)
            .await?;
        // The old one ends here.
        self.old = None;
        Ok(())
    }

    fn holds(&self) -> Range<Duration> {
        secs(2.0, 6.0)
    }
}

/// Waits until a replica has what its primary has.
async fn synced(replica: &Redis) -> Result<()> {
    let begun = Instant::now();
    loop {
        let info = redis_command(replica.addr(), &["INFO", "replication"]).await?;
        if info.contains("master_link_status:up") && info.contains("master_sync_in_progress:0") {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < SYNC_MAX,
            "the replica does not come up: {info}"
        );
        sleep(POLL).await;
    }
}

/// Ends the connections of replicas, so that what is on its way does not arrive any more.
async fn cut_replicas(primary: &Redis) -> Result<()> {
    redis_command(primary.addr(), &["CLIENT", "KILL", "TYPE", "replica"])
        .await
        .map(drop)
}
