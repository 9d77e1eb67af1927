//! Servers of a test, and directories that share them.

use std::sync::Arc;

use backend::cluster::settings::Endpoint;
use backend::cluster::{Mongo, MongoDirectory, Settings, migrations};
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
        if let Some(what) = testbed::missing() {
            println!("skipped: needs {what}");
            return None;
        }
        let servers = testbed::shared().await;
        Some(Self::on(&servers.redis_url, &servers.mongodb_uri).await)
    }

    /// On these servers.
    pub async fn on(redis: &str, mongodb: &str) -> Self {
        let stage = Self {
            settings: Settings {
                redis: endpoint(redis),
                rabbitmq: endpoint("amqp://127.0.0.1"),
                mongodb: endpoint(mongodb),
                namespace: testbed::namespace(),
                shards: 8,
                backlog_max: 1000,
            },
            folder: tempfile::tempdir().unwrap(),
        };
        migrations::migrate(&stage.mongo().await).await.unwrap();
        stage
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
