//! Chat and history in one process over the embedded family: what `make run` starts.

use std::net::TcpListener;

use backend::Backends;
use chat_service::{History, Service};
use rest::auth;
use runtime::env::{EnvError, Variable};
use runtime::{Listen, listen, telemetry};
use tokio_util::sync::CancellationToken;

/// Every variable of this program.
pub const VARIABLES: &[&[Variable]] = &[
    listen::VARIABLES,
    backend::VARIABLES,
    chat_service::config::VARIABLES,
    auth::VARIABLES,
    telemetry::VARIABLES,
];

/// What `main` reads.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: Listen,
    pub backend: backend::Config,
    pub chat: chat_service::Config,
}

impl Config {
    /// # Errors
    /// When one of [`VARIABLES`] is bad.
    pub fn from_env() -> Result<Self, EnvError> {
        let listen = Listen::from_env()?;
        Ok(Self {
            backend: backend::Config::embedded_from_env("standalone")?,
            chat: chat_service::Config::from_env(listen.http_addr)?,
            listen,
        })
    }
}

/// Serves until the token is cancelled, then lets clients go and closes the data. What was acknowledged is on disk
/// when this returns.
///
/// # Errors
/// When one of the servers cannot run.
pub async fn run(
    config: chat_service::Config,
    backends: Backends,
    listener: TcpListener,
    admin_listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let service = Service {
        program: "standalone",
        config,
        backends,
        history: History::Here,
    };
    chat_service::run(service, listener, admin_listener, shutdown).await
}
