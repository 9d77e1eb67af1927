//! How the servers of the family are, and the end of a process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use super::generation::Generations;
use super::log::Core;
use super::metrics::Figures;
use super::presence::ClusterPresence;
use super::publisher::Publisher;
use super::relay::ClusterRelay;
use super::{Mongo, Redis};
use crate::{Dependency, Health};

/// A sign of life takes no longer.
const SIGN_WITHIN: Duration = Duration::from_millis(900);
/// What was appended gets this long to be confirmed when the process ends.
const LAST_CONFIRMS: Duration = Duration::from_secs(4);
const SETTLED_EVERY: Duration = Duration::from_millis(5);

pub(super) struct Family {
    pub redis: Redis,
    pub mongo: Mongo,
    pub publisher: Publisher,
    pub relay: ClusterRelay,
    pub presence: ClusterPresence,
    pub generations: Arc<Generations>,
    pub core: Arc<Core>,
    pub shutdown: CancellationToken,
}

#[async_trait]
impl Health for Family {
    async fn check(&self) -> Vec<Dependency> {
        let (redis, mongo) = tokio::join!(
            self.redis.breaker().hear(SIGN_WITHIN, self.redis.trouble()),
            self.mongo.breaker().hear(SIGN_WITHIN, self.mongo.trouble()),
        );
        let dependency = |breaker: &Breaker, trouble| Dependency {
            name: breaker.name(),
            trouble,
            breaker: Some(breaker.state_of_calls()),
        };
        let broker = self.publisher.trouble().or_else(|| self.relay.trouble());
        vec![
            dependency(self.redis.breaker(), redis),
            dependency(self.publisher.breaker(), broker),
            dependency(self.mongo.breaker(), mongo),
        ]
    }

    fn register(&self, metrics: &runtime::Metrics) {
        let figures = Figures {
            redis: self.redis.clone(),
            mongo: self.mongo.clone(),
            publisher: self.publisher.clone(),
            relay: self.relay.clone(),
            generations: Arc::clone(&self.generations),
            core: Arc::clone(&self.core),
        };
        metrics.register(|registry| registry.register_collector(Box::new(figures)));
    }

    async fn close(&self) {
        self.core.close();
        let settled = async {
            while !self.core.is_settled() || self.publisher.waiting() > 0 {
                tokio::time::sleep(SETTLED_EVERY).await;
            }
        };
        if tokio::time::timeout(LAST_CONFIRMS, settled).await.is_err() {
            tracing::warn!(
                events = self.publisher.waiting(),
                "not confirmed at the end; whoever reads their rooms next publishes them again"
            );
        }
        self.shutdown.cancel();
        self.presence.close().await;
        self.relay.close().await;
    }
}

impl Redis {
    /// Asks for a sign of life, and whether it may drop what is not stored yet. `None` when all is well.
    pub async fn trouble(&self) -> Option<String> {
        let mut ask = ::redis::cmd("CONFIG");
        ask.arg("GET").arg("maxmemory-policy");
        let policy: crate::Result<Vec<String>> = self.query(&ask).await;
        match policy {
            Ok(policy) => match policy.get(1).map(String::as_str) {
                None | Some("noeviction") => None,
                Some(other) => Some(format!(
                    "its maxmemory-policy is {other}: it may drop what is not stored yet; set it to noeviction"
                )),
            },
            // Managed servers do not let anybody ask; they answer, and that is a sign of life.
            Err(crate::Error::Corrupt(_)) => None,
            Err(error) => Some(error.to_string()),
        }
    }
}
