//! Redis, RabbitMQ and MongoDB, started once for all sessions.

use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use testbed::{Data, Generation, Mongo, RabbitMq, RabbitMqOptions, Redis, RedisOptions};

use super::{Disk, resp};

/// The servers of a cluster.
pub struct Servers {
    /// The primary that processes are to use.
    redis: Mutex<Arc<Redis>>,
    pub rabbitmq: RabbitMq,
    /// Three members.
    pub mongo: Mongo,
    /// What RabbitMQ has its data on, if it is small.
    disk: Option<Disk>,
}

/// Enough for a session. RabbitMQ sounds its alarm below 100 MB.
const DISK_MIB: u32 = 256;

impl Servers {
    /// What has to be installed first.
    #[must_use]
    pub fn missing(rabbitmq: Generation) -> Option<String> {
        let rabbitmq = RabbitMq::missing_with(rabbitmq);
        let missing = [Redis::missing(), rabbitmq, Mongo::missing()];
        let missing: Vec<&str> = missing.into_iter().flatten().collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }

    /// Starts them.
    ///
    /// # Errors
    /// When one is not installed or does not start.
    pub async fn start(rabbitmq: Generation) -> Result<Self> {
        Self::start_with(rabbitmq, None).await
    }

    /// Starts them, RabbitMQ over a small disk in a folder.
    ///
    /// # Errors
    /// When there can be no such disk, or as [`Servers::start`].
    pub async fn start_on_small_disk(folder: &Path, rabbitmq: Generation) -> Result<Self> {
        let disk = Disk::new(folder, DISK_MIB)?;
        Self::start_with(rabbitmq, Some(disk)).await
    }

    async fn start_with(generation: Generation, disk: Option<Disk>) -> Result<Self> {
        let missing = Self::missing(generation);
        ensure!(missing.is_none(), "needs {}", missing.unwrap_or_default());
        let options = RabbitMqOptions {
            generation,
            ..RabbitMqOptions::default()
        };
        let rabbitmq = async {
            match &disk {
                Some(disk) => RabbitMq::start_at(disk.path().join("rabbitmq"), options).await,
                None => RabbitMq::start_with(options).await,
            }
        };
        let (redis, rabbitmq, mongo) = tokio::try_join!(
            Redis::start(RedisOptions::default()),
            rabbitmq,
            Mongo::start(3)
        )?;
        let redis = Mutex::new(Arc::new(redis));
        Ok(Self {
            redis,
            rabbitmq,
            mongo,
            disk,
        })
    }

    /// The small disk of RabbitMQ.
    ///
    /// # Errors
    /// When it has none.
    pub fn disk(&self) -> Result<&Disk> {
        self.disk
            .as_ref()
            .context("RabbitMQ is not on a small disk")
    }

    /// The Redis that processes are to use.
    #[must_use]
    pub fn redis(&self) -> Arc<Redis> {
        let redis = self.redis.lock();
        Arc::clone(&redis.expect("nothing panics while it holds the lock"))
    }

    /// Another Redis takes its place; the former one ends with its last user.
    pub fn replace_redis(&self, by: Redis) {
        let redis = self.redis.lock();
        *redis.expect("nothing panics while it holds the lock") = Arc::new(by);
    }

    /// Takes away what an earlier session left in memory, and what a fault may have left behind.
    ///
    /// # Errors
    /// When a server is not what it should be.
    pub async fn clear(&self) -> Result<()> {
        let redis = self.redis();
        resp::command(redis.addr(), &["FLUSHALL"])
            .await
            .context("Redis is not well")?;
        self.mongo.wait_for_primary().await?;
        Ok(())
    }

    /// All of them at once lose power, and with it what Redis had.
    pub fn kill(&self) {
        self.redis().kill();
        self.rabbitmq.kill();
        self.mongo.kill();
    }

    /// Starts them after [`Servers::kill`].
    ///
    /// # Errors
    /// When one does not start.
    pub async fn restart(&self) -> Result<()> {
        let redis = self.redis();
        tokio::try_join!(
            redis.restart(Data::Wiped),
            self.rabbitmq.restart(Data::Kept),
            self.mongo.restart(Data::Kept)
        )?;
        Ok(())
    }
}
