//! A disk that is full.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use rand::rngs::StdRng;
use testbed::Data;
use tokio::time::{Instant, sleep};

use super::process::named;
use super::{Fault, secs};
use crate::system::System;

/// How long it may take to make lost queues anew, and the pause between tries.
const REPAIR_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// The disk of the only process.
pub struct OwnDiskFull;

#[async_trait(?Send)]
impl Fault for OwnDiskFull {
    async fn inject(&mut self, system: &mut System, _random: &mut StdRng) -> Result<String> {
        system.disk()?.fill()?;
        Ok("a full disk".to_owned())
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        system.disk()?.clear()
    }

    fn holds(&self) -> Range<Duration> {
        secs(1.0, 4.0)
    }
}

/// The disk of RabbitMQ. When there is room again, an operator starts the broker again, for it may have given up, and has
/// queues made anew that it has lost.
pub struct BrokersDiskFull;

#[async_trait(?Send)]
impl Fault for BrokersDiskFull {
    async fn inject(&mut self, system: &mut System, _random: &mut StdRng) -> Result<String> {
        let cluster = system.servers()?;
        cluster.queues_are_written().await?;
        cluster.servers.disk()?.fill()?;
        Ok("RabbitMQ's disk is full".to_owned())
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        let servers = &system.servers()?.servers;
        servers.disk()?.clear()?;
        servers.rabbitmq.restart(Data::Kept).await?;
        let worker = named(system, "worker-0")?;
        let (mut is_well, mut said) = worker.command(&["shards", "list"]).await?;
        let begun = Instant::now();
        while !is_well {
            ensure!(begun.elapsed() < REPAIR_MAX, "queues stay lost: {said}");
            (is_well, said) = worker.command(&["shards", "rebuild"]).await?;
            println!("  {}", said.trim_end());
            // Everybody else is busy connecting again, too.
            sleep(POLL).await;
        }
        Ok(())
    }

    fn holds(&self) -> Range<Duration> {
        secs(1.0, 4.0)
    }
}
