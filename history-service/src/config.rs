//! The variables of history-service.

use std::net::SocketAddr;

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
        let listen = Listen::from_env()?;
        check(listen.http_addr)?;
        Ok(Self {
            listen,
            backend: backend::Config::from_env()?,
        })
    }
}

/// Users are known by the names they give, so nobody from elsewhere is listened to.
fn check(http: SocketAddr) -> Result<(), EnvError> {
    if http.ip().is_loopback() {
        return Ok(());
    }
    let reason = format!(
        "history-service believes every name, so it does not listen on {http}, which others can reach; use a loopback \
         address, or run standalone, which says how to be told otherwise"
    );
    Err(EnvError::new("DARDA_HTTP_ADDR", reason))
}
