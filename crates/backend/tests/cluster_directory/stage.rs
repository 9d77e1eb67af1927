//! Servers of a test, and directories that share them.

use std::sync::Arc;
use std::time::Duration;

use backend::cluster::settings::Endpoint;
use backend::cluster::{Mongo, MongoDirectory, Redis, Settings, migrations};
use backend::directory::{Member, NewRoom, RoomKind};
use backend::{Backends, Config, Directory, Error, open};
use protocol::{Role, RoomId, Timestamp, UserId};
use tempfile::TempDir;
use testbed::Proxy;

/// A database of its own on servers that tests share.
pub struct Stage {
    pub settings: Settings,
    folder: TempDir,
}

impl Stage {
    /// `None` where the servers are not installed.
    pub async fn new() -> Option<Self> {
        if let Some(what) = testbed::missing() {
            testbed::skipped(&what);
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

    pub fn redis(&self) -> Redis {
        Redis::new(&self.settings).unwrap()
    }

    /// The directory of another process.
    pub async fn directory(&self) -> MongoDirectory {
        MongoDirectory::new(self.mongo().await, self.redis())
    }

    /// The same, which reaches MongoDB by another way.
    pub async fn directory_by(&self, mongodb: &str) -> MongoDirectory {
        let settings = Settings {
            mongodb: endpoint(mongodb),
            ..self.settings.clone()
        };
        let mongo = Mongo::new(&settings).await.unwrap();
        MongoDirectory::new(mongo, self.redis())
    }

    /// The same, which reaches Redis through a proxy. It has reached it.
    pub async fn directory_over_proxy(&self) -> (Proxy, MongoDirectory) {
        let url = &self.settings.redis.url;
        let addr = url.trim_start_matches("redis://").parse().unwrap();
        let proxy = Proxy::start(addr).await.unwrap();
        let settings = Settings {
            redis: endpoint(&proxy.through(url)),
            ..self.settings.clone()
        };
        let redis = Redis::new(&settings).unwrap();
        redis.session().await.unwrap();
        (proxy, MongoDirectory::new(self.mongo().await, redis))
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

pub fn room(text: &str) -> RoomId {
    RoomId::parse(text).unwrap()
}

pub fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

pub fn new(id: &str, kind: RoomKind, by: &str) -> NewRoom {
    NewRoom {
        id: room(id),
        kind,
        name: format!("The {id}"),
        topic: String::new(),
        by: user(by),
        at: Timestamp::now(),
    }
}

/// The public room `general`, which alice owns.
pub async fn general(directory: &dyn Directory) {
    let made = directory.create_room(new("general", RoomKind::Public, "alice"), None);
    made.await.unwrap();
}

pub async fn join(directory: &dyn Directory, name: &str) -> backend::Result<()> {
    let (general, who) = (room("general"), user(name));
    let joined = directory.put_member(&general, &who, Role::Member, &who);
    joined.await.map(drop)
}

pub async fn leave(directory: &dyn Directory, name: &str) -> backend::Result<()> {
    let (general, who) = (room("general"), user(name));
    let left = directory.remove_member(&general, &who, &who);
    left.await.map(drop)
}

pub async fn member(directory: &dyn Directory, name: &str) -> backend::Result<Option<Member>> {
    directory.member(&room("general"), &user(name)).await
}

/// Two seconds are promised of a call when something is away. The machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(4);

/// Calls again as clients do when they are told that something is away: the machine may be busy.
pub async fn patiently<T, F>(call: impl Fn() -> F) -> T
where
    F: Future<Output = backend::Result<T>>,
{
    let begun = std::time::Instant::now();
    loop {
        match call().await {
            Err(Error::Unavailable { .. }) if begun.elapsed() < Duration::from_secs(60) => {}
            answer => return answer.unwrap(),
        }
    }
}

/// The call ends in time, whatever its end.
pub async fn in_time<T>(call: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(DEADLINE, call).await;
    ended.expect("an answer in time")
}

/// The call says in time that something is away.
pub async fn unavailable<T: std::fmt::Debug>(call: impl Future<Output = backend::Result<T>>) {
    let answer = in_time(call).await;
    assert!(
        matches!(answer, Err(Error::Unavailable { .. })),
        "{answer:?}"
    );
}

/// Waits until something that comes by itself is there.
pub async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looked = tokio::time::timeout(Duration::from_secs(30), async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(looked.await.is_ok(), "{what} did not come");
}
