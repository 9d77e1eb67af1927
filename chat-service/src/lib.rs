//! The front door of Darda: sockets, REST, the web page.
//!
//! Holds no state that matters: what is durable is behind the ports, what is here can be lost with the process.

pub mod config;
mod connection;
pub mod forward;
mod gateway;
mod handshake;
mod hub;
mod mailbox;
pub mod messages;
pub mod metrics;
mod origins;
mod outbound;
mod page;
mod pod;
pub mod rates;
pub mod rest;
mod ring;
pub mod rooms;
mod server;
mod session;
mod websocket;

use std::sync::Arc;

use ::rest::auth;
use backend::Backends;
use runtime::env::Variable;
use runtime::{listen, telemetry, trace};

pub use config::Config;
pub use server::{History, Service, run};

use messages::Messages;
use metrics::Metrics;
use origins::Origins;
use pod::Pod;
use rates::Rates;
use rooms::Rooms;

/// Every variable of the program.
pub const VARIABLES: &[&[Variable]] = &[
    listen::VARIABLES,
    backend::VARIABLES,
    backend::CLUSTER_VARIABLES,
    forward::VARIABLES,
    config::VARIABLES,
    auth::VARIABLES,
    telemetry::VARIABLES,
    trace::VARIABLES,
];

/// What every worker of the process shares.
struct Process {
    config: Config,
    limits: Arc<protocol::Limits>,
    backends: Backends,
    rooms: Rooms,
    messages: Messages,
    rates: Arc<Rates>,
    metrics: Arc<Metrics>,
    origins: Origins,
    pod: Arc<Pod>,
}

impl Process {
    fn new(config: Config, backends: Backends, metrics: &runtime::Metrics) -> Arc<Self> {
        let limits = Arc::new(config.wire_limits());
        let rates = Arc::new(Rates::new(
            limits.sends_per_sec,
            limits.sends_burst,
            config.limits.joins_per_sec,
        ));
        let metrics = Arc::new(Metrics::register(metrics));
        let rooms = Rooms::new(backends.clone(), true).limited(Arc::clone(&rates));
        let messages = Messages::new(
            backends.clone(),
            rooms.clone(),
            Arc::clone(&limits),
            Arc::clone(&rates),
            Arc::clone(&metrics),
        );
        let pod = Arc::new(Pod::new(
            backends.clone(),
            config.workers(),
            Arc::clone(&metrics),
        ));
        backends.relay.attach(Arc::clone(&pod) as _);
        Arc::new(Self {
            origins: Origins::new(&config.gateway.allowed_origins),
            config,
            limits,
            backends,
            rooms,
            messages,
            rates,
            metrics,
            pod,
        })
    }
}
