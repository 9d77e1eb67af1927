//! The server.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use anyhow::Context as _;
use backend::Backends;
use runtime::health;
use runtime::{Metrics, Readiness, admin};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{History, configure, openapi};

/// Seconds that answers under way get to finish.
const DRAIN_SECS: u64 = 10;

/// Serves reads until the token is cancelled, then finishes the answers under way.
///
/// # Errors
/// When one of the two servers cannot run. The other is ended with it.
pub async fn run(
    backends: Backends,
    listener: TcpListener,
    admin_listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let readiness = backends.readiness();
    let metrics = Metrics::new("history-service", env!("CARGO_PKG_VERSION"));
    backends.health.register(&metrics);
    let server = server(backends, &metrics, listener, readiness.clone())?;
    let handle = server.handle();
    let admin_shutdown = CancellationToken::new();
    let operators = admin::serve(
        admin_listener,
        metrics,
        readiness.clone(),
        admin_shutdown.clone(),
    );
    let drain = async {
        shutdown.cancelled().await;
        info!("finishing the answers under way");
        readiness.set_draining();
        handle.stop(true).await;
    };
    let readers = async {
        let ended = tokio::join!(server, drain).0;
        admin_shutdown.cancel();
        ended.context("the server for clients ended")
    };
    let operators = async {
        let ended = operators.await.context("the server for operators ended");
        // Without it nobody could tell how this process is.
        shutdown.cancel();
        ended
    };
    let (readers, operators) = tokio::join!(readers, operators);
    readers.and(operators)
}

fn server(
    backends: Backends,
    metrics: &Metrics,
    listener: TcpListener,
    readiness: Readiness,
) -> anyhow::Result<actix_web::dev::Server> {
    let history = web::Data::new(History::new(backends, metrics));
    let counted = web::Data::new(rest::Metrics::register(metrics));
    let description = rest::openapi::merge([openapi()]);
    let server = HttpServer::new(move || {
        App::new()
            .wrap(from_fn(rest::observe))
            .app_data(history.clone())
            .app_data(counted.clone())
            .configure(health::configure(readiness.clone()))
            .configure(rest::openapi::serve(&description))
            .configure(configure)
            // Says which methods the path has, where no other service does.
            .service(web::resource("/v1/rooms/{id}/messages"))
    })
    // Longer than chat-service keeps what it does not use.
    .keep_alive(Duration::from_secs(60))
    .client_request_timeout(Duration::from_secs(10))
    .disable_signals()
    .shutdown_timeout(DRAIN_SECS)
    .listen(listener)
    .context("cannot listen for clients")?;
    Ok(server.run())
}
