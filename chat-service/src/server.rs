//! The HTTP server around everything, from the listening socket to the end of the drain.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_http::{HttpService, KeepAlive};
use actix_server::Server;
use actix_service::{fn_service, map_config};
use actix_web::App;
use actix_web::dev::AppConfig;
use actix_web::middleware::{Condition, from_fn};
use actix_web::web::Data;
use anyhow::Context as _;
use backend::Backends;
use history_service as history;
use runtime::{Metrics, Readiness, admin};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::forward::{self, Forward};
use crate::hub::Hub;
use crate::mailbox::Drain;
use crate::{Config, Process, handshake, page, rest as api};

/// What a chat-service is made of.
pub struct Service {
    /// The name of the program in logs and metrics.
    pub program: &'static str,
    pub config: Config,
    pub backends: Backends,
    pub history: History,
}

/// Who answers the paths of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum History {
    /// This process.
    Here,
    /// A history-service.
    At(forward::Address),
}

/// Serves clients on `listener` and operators on `admin_listener` until the token is cancelled; then lets clients go and
/// closes the backends. What was acknowledged is safe when this returns.
///
/// # Errors
/// When one of the servers cannot run or ends on its own.
pub async fn run(
    service: Service,
    listener: TcpListener,
    admin_listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::new(service.program, env!("CARGO_PKG_VERSION"));
    let readiness = service.backends.readiness();
    let health = Arc::clone(&service.backends.health);
    health.register(&metrics);
    // Operators see the drain, so their server ends last.
    let admin_shutdown = CancellationToken::new();
    let operators = tokio::spawn({
        let server = admin::serve(
            admin_listener,
            metrics.clone(),
            readiness.clone(),
            admin_shutdown.clone(),
        );
        let shutdown = shutdown.clone();
        async move {
            let ended = server.await;
            // Without it nobody could tell how this process is.
            shutdown.cancel();
            ended
        }
    });
    let served = serve(service, metrics, readiness, listener, shutdown).await;
    health.close().await;
    admin_shutdown.cancel();
    let operators = operators
        .await
        .context("the server for operators broke off")?;
    served.and(operators.context("the server for operators ended"))
}

async fn serve(
    service: Service,
    metrics: Metrics,
    readiness: Readiness,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let app = Process::new(service.config, service.backends, &metrics);
    let leftovers = app.rooms.clone();
    let announcer = tokio::spawn(async move { leftovers.announce_leftovers().await });

    let is_local = listener.local_addr()?.ip().is_loopback();
    let workers = app.config.workers();
    let numbers = Arc::new(AtomicUsize::new(0));
    let draining = readiness.clone();
    let counted = Data::new(rest::Metrics::register(&metrics));
    let (here, elsewhere) = match service.history {
        History::Here => {
            let here = history::History::new(app.backends.clone(), &metrics);
            (Some(Data::new(here)), None)
        }
        History::At(address) => {
            let elsewhere = Forward::new(address, Arc::clone(&app.metrics));
            (None, Some(elsewhere))
        }
    };
    let openapi = rest::openapi::merge([api::openapi(), history::openapi()]);
    let shared = Arc::clone(&app);
    let server = Server::build()
        .workers(workers)
        .disable_signals()
        .max_concurrent_connections(100_000)
        .shutdown_timeout(2)
        .listen("http", listener, move || {
            let number = numbers.fetch_add(1, Ordering::Relaxed) % workers;
            let hub = Hub::new(Arc::clone(&shared), number);
            let paths = App::new()
                .app_data(counted.clone())
                .app_data(Data::new(shared.rooms.clone()))
                .app_data(Data::new(shared.messages.clone()))
                .app_data(Data::new(shared.backends.clone()))
                .configure(runtime::health::configure(readiness.clone()))
                .configure(rest::openapi::serve(&openapi))
                .configure(|paths| {
                    if let Some(here) = &here {
                        paths.app_data(here.clone()).configure(history::configure);
                    }
                    if let Some(elsewhere) = &elsewhere {
                        elsewhere.configure(paths);
                    }
                })
                .configure(api::configure)
                .configure(page::configure)
                .wrap(Condition::new(is_local, {
                    let origins = shared.origins.clone();
                    from_fn(move |request, next| origins.clone().guard(request, next))
                }))
                .wrap(from_fn(rest::observe));
            HttpService::build()
                .keep_alive(KeepAlive::Timeout(Duration::from_secs(60)))
                .client_request_timeout(Duration::from_secs(10))
                .upgrade(fn_service(move |upgrade| {
                    handshake::upgrade(Rc::clone(&hub), upgrade)
                }))
                .h1(map_config(paths, |_| AppConfig::default()))
                .tcp()
        })?
        .run();
    let handle = server.handle();
    let mut server = tokio::spawn(server);
    tokio::select! {
        ended = &mut server => {
            ended.context("the server broke off")?.context("the server ended")?;
            anyhow::bail!("the server ended on its own");
        }
        () = shutdown.cancelled() => {}
    }
    announcer.abort();
    let leaving = Instant::now();
    draining.set_draining();
    // Whoever connects before the balancer has noticed is served like everybody else.
    tokio::time::sleep(app.config.gateway.drain_wait).await;
    handle.pause().await;
    drain(&app, leaving + app.config.gateway.drain).await;
    handle.stop(true).await;
    Ok(())
}

/// Moves all clients away until then.
async fn drain(app: &Process, end: Instant) {
    let count = app.metrics.connections.get().max(0);
    let whole = end.saturating_duration_since(Instant::now());
    // A few clients need not wait for long; many leave at the configured rate, if there is time for that.
    let per_sec = f64::from(app.config.gateway.drain_per_sec);
    let wanted = Duration::from_secs_f64((count as f64 / per_sec).max(0.05));
    let spread = wanted.min(whole / 3);
    tracing::info!(
        connections = count,
        spread_ms = spread.as_millis() as u64,
        "leaving: clients are asked to connect again"
    );
    for mailbox in app.pod.mailboxes() {
        mailbox.drain(Drain { spread });
    }
    let deadline = end.checked_sub(Duration::from_secs(1)).unwrap_or(end);
    while app.metrics.connections.get() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let left = app.metrics.connections.get();
    if left > 0 {
        tracing::warn!(
            connections = left,
            "the drain time is over; the rest is cut off"
        );
    }
}
