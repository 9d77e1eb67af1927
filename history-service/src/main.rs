//! `history-service`: the process.

use anyhow::Context as _;
use history_service::{Config, VARIABLES, run};
use runtime::{cli::Program, shutdown};
use tracing::info;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: "history-service",
    version: env!("CARGO_PKG_VERSION"),
    about: "reads of the Darda log: pages, messages, search, inbox, export",
    variables: VARIABLES,
};

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let telemetry = PROGRAM.start()?;
    let config = Config::from_env()?;
    let is_embedded = matches!(config.backend, backend::Config::Embedded { .. });
    let opened = backend::open(config.backend).await;
    let backends = if is_embedded {
        opened.context(
            "the embedded family belongs to one process: to chat and read at the same time, run standalone instead",
        )?
    } else {
        opened?
    };
    // Before anybody can know that it runs.
    let shutdown = shutdown::on_signals()?;
    let listener = config.listen.bind_http()?;
    let admin_listener = config.listen.bind_admin()?;
    info!(addr = %listener.local_addr()?, "history-service is listening");
    let ended = run(backends.clone(), listener, admin_listener, shutdown).await;
    backends.health.close().await;
    telemetry.end().await;
    ended
}
