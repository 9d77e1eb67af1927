//! The port for operators: `/healthz`, `/readyz`, `/metrics`.

use std::io;
use std::net::TcpListener;

use actix_web::{App, HttpResponse, HttpServer, web};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::health;
use crate::{Metrics, Readiness, metrics};

/// Serves operators until the token is cancelled. Cancel it last, so that `/readyz` says `draining` while there is
/// something to drain.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let server = HttpServer::new(move || {
        App::new()
            .configure(health::configure(readiness.clone()))
            .app_data(web::Data::new(metrics.clone()))
            .service(web::resource("/metrics").get(scrape).head(scrape))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)?
    .run();
    let handle = server.handle();
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return ended,
        () = shutdown.cancelled() => {}
    }
    // Stopping needs the server to be polled.
    tokio::join!(handle.stop(true), server).1
}

async fn scrape(all: web::Data<Metrics>) -> HttpResponse {
    match all.render() {
        Ok(text) => HttpResponse::Ok()
            .content_type(metrics::CONTENT_TYPE)
            .body(text),
        Err(fault) => {
            error!(%fault, "metrics cannot be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}
