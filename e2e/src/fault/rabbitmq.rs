//! Faults of RabbitMQ, and of what is declared in it.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use testbed::Data;

use super::{Fault, secs};
use crate::system::{Envelope, System};

/// What becomes of the broker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It is killed and started again.
    Crash,
    /// It stands still for some seconds.
    Freeze,
    /// It believes that it has no memory left, and takes nothing.
    Memory,
    /// It believes that its disk is full, and takes nothing.
    Disk,
    /// The way into the log is deleted.
    Exchange,
    /// One shard is taken off the way into the log.
    Binding,
}

#[async_trait(?Send)]
impl Fault for Broken {
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String> {
        let cluster = system.servers()?;
        let rabbitmq = &cluster.servers.rabbitmq;
        Ok(match self {
            Self::Crash => {
                cluster.queues_are_written().await?;
                rabbitmq.kill();
                "kill -9 of RabbitMQ".to_owned()
            }
            Self::Freeze => {
                rabbitmq.stop();
                "SIGSTOP RabbitMQ".to_owned()
            }
            Self::Memory => {
                rabbitmq
                    .ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"])
                    .await?;
                "memory alarm".to_owned()
            }
            Self::Disk => {
                rabbitmq.ctl(&["set_disk_free_limit", "1000GB"]).await?;
                "disk alarm".to_owned()
            }
            Self::Exchange => {
                let generation = cluster.stored.generation().await?;
                cluster.broker().await?.delete_exchange(generation).await?;
                format!("the exchange of generation {generation} is deleted")
            }
            Self::Binding => {
                let generation = cluster.stored.generation().await?;
                let shard = random.random_range(0..cluster.shards);
                cluster.broker().await?.unbind(generation, shard).await?;
                format!("shard {shard} is unbound from generation {generation}")
            }
        })
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        let rabbitmq = &system.servers()?.servers.rabbitmq;
        match self {
            Self::Crash => rabbitmq.restart(Data::Kept).await,
            Self::Freeze => {
                rabbitmq.cont();
                Ok(())
            }
            Self::Memory => {
                let arguments = ["set_vm_memory_high_watermark", "absolute", "1GB"];
                rabbitmq.ctl(&arguments).await.map(drop)
            }
            Self::Disk => rabbitmq
                .ctl(&["set_disk_free_limit", "100MB"])
                .await
                .map(drop),
            Self::Exchange | Self::Binding => Ok(()),
        }
    }

    fn holds(&self) -> Range<Duration> {
        match self {
            Self::Crash => secs(0.0, 0.5),
            Self::Freeze => secs(5.0, 6.0),
            Self::Memory | Self::Disk => secs(2.0, 4.0),
            Self::Exchange | Self::Binding => secs(0.0, 0.1),
        }
    }
}

/// Envelopes come again, in another order, minutes later too: what a broker may do that promises "at least once".
#[derive(Default)]
pub struct Duplicates {
    /// From earlier runs of the session.
    known: Vec<Envelope>,
}

/// Envelopes that are kept for later runs.
const KNOWN_MAX: usize = 2000;

#[async_trait(?Send)]
impl Fault for Duplicates {
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String> {
        let cluster = system.servers()?;
        let generation = cluster.stored.generation().await?;
        let broker = cluster.broker().await?;
        self.known
            .extend(broker.tap(generation, Duration::from_secs(2)).await?);
        self.known.shuffle(random);
        let count = random.random_range(0..=self.known.len().min(300));
        for envelope in &self.known[..count] {
            broker.publish(generation, envelope).await?;
        }
        self.known.truncate(KNOWN_MAX);
        Ok(format!("{count} envelopes published again"))
    }

    async fn heal(&mut self, _system: &mut System) -> Result<()> {
        Ok(())
    }

    fn holds(&self) -> Range<Duration> {
        secs(0.0, 0.5)
    }
}

/// Something that nobody understands comes into a shard queue. It is parked, and what is behind it goes on.
pub struct Poison;

#[async_trait(?Send)]
impl Fault for Poison {
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String> {
        let cluster = system.servers()?;
        let generation = cluster.stored.generation().await?;
        let shard = random.random_range(0..cluster.shards);
        let broker = cluster.broker().await?;
        broker.publish(generation, &Envelope::poison(shard)).await?;
        system.poisoned()?;
        Ok(format!("an envelope that is none in shard {shard}"))
    }

    async fn heal(&mut self, _system: &mut System) -> Result<()> {
        Ok(())
    }

    fn holds(&self) -> Range<Duration> {
        secs(0.0, 0.5)
    }
}
