//! The variables of persistence-worker.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use backend::cluster::{Settings, settings};
use runtime::env::{self, EnvError, Variable};
use runtime::{listen, telemetry, trace};
use serde::Deserialize;

/// Every variable of this program.
pub const VARIABLES: &[&[Variable]] = &[
    settings::VARIABLES,
    OWN,
    telemetry::VARIABLES,
    trace::VARIABLES,
];

const OWN: &[Variable] = &[
    Variable {
        name: "DARDA_ADMIN_ADDR",
        default: "127.0.0.1:9090",
        meaning: "Address and port for /metrics, /healthz and /readyz, for operators only. Port 0 takes a free one.",
    },
    Variable {
        name: "DARDA_DRAIN_SECS",
        default: "20",
        meaning: "The longest time between SIGTERM and the end of the process. What is in hand is stored within it; what is not goes back to its queue.",
    },
];

/// What `main` reads.
#[derive(Clone, Debug)]
pub struct Config {
    pub settings: Settings,
    pub admin_addr: SocketAddr,
    /// How long the end may take.
    pub drain: Duration,
}

#[derive(Deserialize)]
struct Flat {
    #[serde(default = "admin")]
    admin_addr: SocketAddr,
    #[serde(
        default = "drain",
        deserialize_with = "env::secs",
        rename = "drain_secs"
    )]
    drain: Duration,
}

fn admin() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9090))
}

fn drain() -> Duration {
    Duration::from_secs(20)
}

impl Config {
    /// # Errors
    /// When one of [`VARIABLES`] is bad or missing.
    pub fn from_env() -> Result<Self, EnvError> {
        let flat: Flat = env::read("DARDA_")?;
        Ok(Self {
            settings: Settings::from_env()?,
            admin_addr: flat.admin_addr,
            drain: flat.drain,
        })
    }

    /// Binds the port for operators.
    ///
    /// # Errors
    /// Names the variable, when the address cannot be had.
    pub fn bind_admin(&self) -> Result<TcpListener, EnvError> {
        listen::listen(self.admin_addr).map_err(|error| {
            let reason = format!("cannot listen on {}: {error}", self.admin_addr);
            EnvError::new("DARDA_ADMIN_ADDR", reason)
        })
    }
}
