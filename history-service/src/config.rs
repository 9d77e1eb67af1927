//! The variables of history-service.

use runtime::env::{EnvError, Variable};
use runtime::{Listen, listen, telemetry};

/// Every variable of this program.
pub const VARIABLES: &[&[Variable]] =
    &[listen::VARIABLES, backend::VARIABLES, telemetry::VARIABLES];

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
        Ok(Self {
            listen: Listen::from_env()?,
            backend: backend::Config::from_env()?,
        })
    }
}
