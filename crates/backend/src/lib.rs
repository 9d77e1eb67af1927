//! The ports of Darda and the families behind them.
//!
//! A port is a trait whose comment states a guarantee; an adapter keeps it; [`conformance`] is the suite that every
//! adapter passes. Nothing above this crate knows which family it runs on.

#[cfg(feature = "cluster")]
pub mod cluster;
mod config;
pub mod conformance;
pub mod directory;
mod embedded;
mod error;
pub mod log;
pub mod presence;
pub mod relay;
pub mod search;

use std::sync::Arc;

use async_trait::async_trait;
use runtime::Readiness;
use runtime::health::{Breaker, Check};

pub use config::{CLUSTER_VARIABLES, Config, VARIABLES};
pub use directory::Directory;
pub use error::{Error, Result};
pub use log::Log;
pub use presence::Presence;
pub use relay::Relay;
pub use search::Search;

/// One opened family. Cheap to clone.
#[derive(Clone)]
pub struct Backends {
    pub log: Arc<dyn Log>,
    pub relay: Arc<dyn Relay>,
    pub presence: Arc<dyn Presence>,
    pub directory: Arc<dyn Directory>,
    pub search: Arc<dyn Search>,
    pub health: Arc<dyn Health>,
}

impl Backends {
    /// Ready while every dependency is well.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let readiness = Readiness::new();
        let health = Arc::clone(&self.health);
        readiness.checks("stores", move || {
            let health = Arc::clone(&health);
            async move {
                let dependencies = health.check().await.into_iter();
                dependencies
                    .map(|dependency| {
                        Check::new(dependency.name, dependency.trouble)
                            .with_breaker(dependency.breaker)
                    })
                    .collect()
            }
        });
        readiness
    }
}

/// What a family depends on.
#[async_trait]
pub trait Health: Send + Sync {
    /// Asks every dependency for a sign of life; answers within a second.
    async fn check(&self) -> Vec<Dependency>;

    /// Adds what the family counts to the metrics of the process. Called once.
    fn register(&self, _metrics: &runtime::Metrics) {}

    /// Ends background work and closes files; what was acknowledged is on disk when this returns. Calls made later
    /// answer [`Error::Unavailable`].
    async fn close(&self);
}

/// One dependency's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    pub name: &'static str,
    /// `None` when it works, else what is wrong.
    pub trouble: Option<String>,
    /// What becomes of calls to it, where a breaker stands before it.
    pub breaker: Option<Breaker>,
}

/// Opens the configured family.
///
/// # Errors
/// When its data is locked by another process, corrupt, newer than this program, or cannot be reached; the text says
/// which and what to do.
pub async fn open(config: Config) -> Result<Backends> {
    match config {
        Config::Embedded { data_dir } => embedded::open(data_dir).await,
        #[cfg(feature = "cluster")]
        Config::Cluster(settings) => cluster::open(*settings).await,
    }
}
