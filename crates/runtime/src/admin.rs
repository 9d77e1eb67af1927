//! The port for operators: `/healthz`, `/readyz`, `/metrics`.

use std::io;
use std::net::TcpListener;

use actix_web::{App, HttpResponse, HttpServer, web};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
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
    let dependencies = Family::default();
    let draining = Gauge::default();
    metrics.register(|registry| {
        let help = "Whether the process is leaving";
        registry.register("chat_draining", help, draining.clone());
        let help = "Whether a dependency answers, as of this scrape";
        registry.register("chat_dependency_up", help, dependencies.clone());
    });
    let scraped = Scraped {
        metrics,
        readiness: readiness.clone(),
        dependencies,
        draining,
    };
    let server = HttpServer::new(move || {
        App::new()
            .configure(health::configure(readiness.clone()))
            .app_data(web::Data::new(scraped.clone()))
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

/// What a scrape reads.
#[derive(Clone)]
struct Scraped {
    metrics: Metrics,
    readiness: Readiness,
    dependencies: Family<Dependency, Gauge>,
    draining: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dependency {
    dependency: String,
}

async fn scrape(all: web::Data<Scraped>) -> HttpResponse {
    let report = all.readiness.report().await;
    all.draining
        .set((report.status == health::State::Draining).into());
    // What is not asked about now says nothing: a group that did not answer once would stay away for ever.
    all.dependencies.clear();
    for check in report.checks {
        let dependency = Dependency {
            dependency: check.name,
        };
        all.dependencies
            .get_or_create(&dependency)
            .set(check.ok.into());
    }
    match all.metrics.render() {
        Ok(text) => HttpResponse::Ok()
            .content_type(metrics::CONTENT_TYPE)
            .body(text),
        Err(fault) => {
            error!(%fault, "metrics cannot be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}
