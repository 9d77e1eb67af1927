//! Processes, as far as presence needs them, and the servers they share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backend::cluster::presence::ClusterPresence;
use backend::cluster::relay::{ClusterRelay, PodId, Upstream};
use backend::cluster::settings::Endpoint;
use backend::cluster::{Redis, Settings};
use backend::relay::{Signal, Sink};
use backend::{Presence, Relay};
use protocol::{Event, RoomId, SessionId, Status, UserId};
use testbed::RedisOptions;

/// Sessions that a user may have.
pub const MOST: usize = 3;

pub struct Pod {
    pub presence: ClusterPresence,
    pub relay: ClusterRelay,
    pub heard: Arc<Heard>,
}

/// What the process was told.
#[derive(Default)]
pub struct Heard(Mutex<Vec<(String, String, Status)>>);

impl Sink for Heard {
    fn events(&self, _: &[Arc<Event>]) {}

    fn signal(&self, signal: &Signal) {
        if let Signal::Presence {
            room, user, status, ..
        } = signal
        {
            let change = (room.to_string(), user.to_string(), *status);
            self.0.lock().unwrap().push(change);
        }
    }
}

impl Upstream for Heard {
    fn remote(&self, _: Vec<Arc<Event>>) {}
    fn watched(&self, _: &RoomId) {}
    fn unwatched(&self, _: &RoomId) {}
    fn lost(&self) {}
}

impl Pod {
    pub fn start(settings: &Settings) -> Self {
        let redis = Redis::new(settings).unwrap();
        let relay = ClusterRelay::new(settings, redis.clone(), PodId::generate());
        let heard = Arc::new(Heard::default());
        relay.attach(heard.clone());
        relay.start(heard.clone());
        let presence = ClusterPresence::start(redis, relay.clone());
        Self {
            presence,
            relay,
            heard,
        }
    }

    pub async fn close(&self) {
        self.presence.close().await;
        self.relay.close().await;
    }

    pub async fn connect(&self, name: &str) -> SessionId {
        let session = SessionId::generate();
        let connected = self.presence.connect(session, &user(name), MOST).await;
        connected.unwrap();
        session
    }

    pub async fn enter(&self, session: SessionId, id: &str) {
        self.presence.enter(session, &room(id)).await.unwrap();
    }

    pub async fn status(&self, name: &str) -> Status {
        let found = self.presence.status(&[user(name)]).await.unwrap();
        found[0].status
    }

    pub async fn present(&self, id: &str) -> Vec<String> {
        let present = self.presence.present(&room(id), 10).await.unwrap();
        assert_eq!(present.count, present.users.len() as u64);
        present.users.iter().map(ToString::to_string).collect()
    }

    pub fn heard(&self) -> Vec<(String, String, Status)> {
        self.heard.0.lock().unwrap().clone()
    }
}

pub async fn shared() -> Option<Settings> {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return None;
    }
    let servers = testbed::shared().await;
    Some(settings(&servers.redis_url, &servers.rabbitmq_url))
}

/// A Redis of the test's own, beside the broker of all.
pub async fn own_redis() -> Option<(testbed::Redis, Settings)> {
    let shared = shared().await?;
    let redis = testbed::Redis::start(RedisOptions::default())
        .await
        .unwrap();
    let settings = settings(&redis.url(), &shared.rabbitmq.url);
    Some((redis, settings))
}

pub fn settings(redis: &str, rabbitmq: &str) -> Settings {
    let endpoint = |url: &str| Endpoint {
        url: url.to_owned(),
        verify: true,
        ca_file: None,
    };
    Settings {
        redis: endpoint(redis),
        rabbitmq: endpoint(rabbitmq),
        mongodb: endpoint("mongodb://127.0.0.1"),
        namespace: testbed::namespace(),
        shards: 1,
        backlog_max: 1000,
    }
}

pub fn room(text: &str) -> RoomId {
    RoomId::parse(text).unwrap()
}

pub fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

pub fn change(room: &str, user: &str, status: Status) -> (String, String, Status) {
    (room.to_owned(), user.to_owned(), status)
}

pub async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looked = tokio::time::timeout(Duration::from_secs(20), async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    looked
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"));
}
