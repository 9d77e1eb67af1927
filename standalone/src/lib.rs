//! Chat and history in one process over the embedded family: what `make run` starts.

use std::net::TcpListener;

use actix_web::web::{Data, ServiceConfig};
use anyhow::Context as _;
use backend::Backends;
use chat_service::Service;
use history_service::{History, STORAGE_VARIABLES, Storage};
use runtime::env::{EnvError, Variable};
use runtime::health::Check;
use runtime::{Listen, Metrics, Readiness, admin, listen, telemetry};
use tokio_util::sync::CancellationToken;

/// Every variable of this program.
pub const VARIABLES: &[&[Variable]] = &[
    listen::VARIABLES,
    STORAGE_VARIABLES,
    chat_service::config::VARIABLES,
    telemetry::VARIABLES,
];

/// What `main` reads.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: Listen,
    pub storage: Storage,
    pub chat: chat_service::Config,
}

impl Config {
    /// # Errors
    /// When one of [`VARIABLES`] is bad.
    pub fn from_env() -> Result<Self, EnvError> {
        let listen = Listen::from_env()?;
        Ok(Self {
            storage: Storage::from_env()?,
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
    let metrics = Metrics::new("standalone", env!("CARGO_PKG_VERSION"));
    let readiness = readiness(&backends);
    let admin_shutdown = CancellationToken::new();
    let operators = tokio::spawn(admin::serve(
        admin_listener,
        metrics.clone(),
        readiness.clone(),
        admin_shutdown.clone(),
    ));
    let service = Service {
        config,
        backends: backends.clone(),
        metrics,
        readiness,
        more: history,
        more_openapi: history_service::openapi,
    };
    let served = chat_service::run(service, listener, shutdown).await;
    backends.health.close().await;
    admin_shutdown.cancel();
    let operators = operators.await.context("the admin server broke off")?;
    served.and(operators.context("the admin server ended"))
}

fn history(paths: &mut ServiceConfig, backends: &Backends) {
    paths
        .app_data(Data::new(History::new(backends.clone())))
        .configure(history_service::configure);
}

fn readiness(backends: &Backends) -> Readiness {
    let readiness = Readiness::new();
    let health = backends.health.clone();
    readiness.checks("stores", move || {
        let health = health.clone();
        async move {
            let dependencies = health.check().await.into_iter();
            dependencies
                .map(|dependency| Check::new(dependency.name, dependency.trouble))
                .collect()
        }
    });
    readiness
}
