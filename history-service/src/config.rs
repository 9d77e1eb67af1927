//! The variables of history-service.

use rest::auth::{self, Auth};
use runtime::env::{EnvError, Variable};
use runtime::{Listen, listen, telemetry, trace};

/// Every variable of this program.
pub const VARIABLES: &[&[Variable]] = &[
    listen::VARIABLES,
    backend::VARIABLES,
    backend::CLUSTER_VARIABLES,
    auth::VARIABLES,
    telemetry::VARIABLES,
    trace::VARIABLES,
];

/// What `main` reads.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: Listen,
    pub backend: backend::Config,
}

impl Config {
    /// # Errors
    /// When one of [`VARIABLES`] is bad.
    pub fn from_env() -> Result<Self, EnvError> {
        let listen = Listen::from_env()?;
        Auth::from_env(listen.http_addr)?;
        Ok(Self {
            listen,
            backend: backend::Config::from_env()?,
        })
    }
}
