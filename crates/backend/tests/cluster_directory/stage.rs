//! Servers of a test, and directories that share them.

use std::sync::Arc;

use backend::cluster::settings::Endpoint;
use backend::cluster::{Mongo, MongoDirectory, Settings, directory};
use backend::{Backends, Config, open};
use tempfile::TempDir;

/// A database of its own on servers that tests share.
pub struct Stage {
    pub settings: Settings,
    folder: TempDir,
}

impl Stage {
    /// `None` where the servers are not installed.
    pub async fn new() -> Option<Self> {
        let stage = Self {
            settings: Settings {
                redis: endpoint(&std::env::var("DARDA_TEST_REDIS_URL").ok()?),
                rabbitmq: endpoint("amqp://localhost"),
                mongodb: endpoint(&std::env::var("DARDA_TEST_MONGODB_URI").ok()?),
                namespace: format!("t{:016x}", rand::random::<u64>()),
                shards: 8,
                backlog_max: 1000,
            },
            folder: tempfile::tempdir().unwrap(),
        };
        let mongo = stage.mongo().await;
        directory::indexes(mongo.database()).await.unwrap();
        Some(stage)
    }

    pub async fn mongo(&self) -> Mongo {
        Mongo::new(&self.settings).await.unwrap()
    }

    /// The directory of another process.
    pub async fn directory(&self) -> MongoDirectory {
        MongoDirectory::new(self.mongo().await)
    }

    /// A family with this directory; the rest of it is embedded.
    pub async fn family(&self) -> Backends {
        let data_dir = self.folder.path().join("data");
        let family = open(Config::Embedded { data_dir }).await.unwrap();
        Backends {
            directory: Arc::new(self.directory().await),
            ..family
        }
    }
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.to_owned(),
        verify: true,
        ca_file: None,
    }
}
