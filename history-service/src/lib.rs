//! Reads of the log: events as they were stored, messages as they stand now, search, inbox, export.
//!
//! Reads only. Nothing here writes, and nothing here knows which family it runs on. [`configure`] mounts the paths
//! into any server, [`run`] is a server of its own.

mod config;
mod events;
mod export;
mod inbox;
mod messages;
mod scan;
mod search;
mod serve;
mod trace;
mod view;

use actix_web::web;
use backend::Backends;
use prometheus_client::metrics::histogram::Histogram;
use utoipa::OpenApi as _;

pub use config::{Config, VARIABLES};
pub use serve::run;

/// What the handlers work with: `app_data(web::Data::new(History::new(backends, &metrics)))`. One for a process.
#[derive(Clone)]
pub struct History {
    backends: Backends,
    search_seconds: Histogram,
}

/// Seconds.
const SEARCH_SECONDS: [f64; 11] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

impl History {
    /// Reads of a family, and what is counted of them.
    #[must_use]
    pub fn new(backends: Backends, metrics: &runtime::Metrics) -> Self {
        let search_seconds = Histogram::new(SEARCH_SECONDS);
        metrics.register(|registry| {
            registry.register(
                "chat_search_seconds",
                "How long the index and the messages that it names take to give a page of a search, or to fail",
                search_seconds.clone(),
            );
        });
        Self {
            backends,
            search_seconds,
        }
    }
}

/// Mounts the paths. Mount them before other resources of the same paths: these answer `GET` alone and let every other
/// method pass.
pub fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/v1/rooms/{id}/events").get(events::read))
        .service(
            web::resource("/v1/rooms/{id}/messages")
                .guard(actix_web::guard::Get())
                .get(messages::read),
        )
        .service(web::resource("/v1/rooms/{id}/export").get(export::read))
        .service(web::resource("/v1/search").get(search::read))
        .service(web::resource("/v1/inbox").get(inbox::read))
        .service(web::resource("/v1/trace/{id}").get(trace::read));
}

/// The description of the paths of [`configure`].
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(utoipa::OpenApi)]
    #[openapi(
        paths(
            events::read,
            messages::read,
            export::read,
            search::read,
            inbox::read,
            trace::read
        ),
        tags((name = "history", description = "What was written."))
    )]
    struct Api;
    Api::openapi()
}
