//! The variables of history-service, and of everything that opens a family.

use std::net::SocketAddr;
use std::path::PathBuf;

use runtime::env::{self, EnvError, Variable};
use runtime::{Listen, listen, telemetry};
use serde::Deserialize;

/// Every variable of this program.
pub const VARIABLES: &[&[Variable]] = &[listen::VARIABLES, STORAGE_VARIABLES, telemetry::VARIABLES];

/// The variables of [`Storage`].
pub const STORAGE_VARIABLES: &[Variable] = &[
    Variable {
        name: "DARDA_BACKEND",
        default: "embedded",
        meaning: "Where everything is kept. embedded: in this process and one folder.",
    },
    Variable {
        name: "DARDA_DATA_DIR",
        default: "./data",
        meaning: "The folder of the embedded family. One process at a time can have it open.",
    },
];

/// What `main` reads.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: Listen,
    pub storage: Storage,
}

impl Config {
    /// # Errors
    /// When one of [`VARIABLES`] is bad.
    pub fn from_env() -> Result<Self, EnvError> {
        let listen = Listen::from_env()?;
        check(listen.http_addr)?;
        Ok(Self {
            listen,
            storage: Storage::from_env()?,
        })
    }
}

/// Users are known by the names they give, so nobody from elsewhere is listened to.
fn check(http: SocketAddr) -> Result<(), EnvError> {
    if http.ip().is_loopback() {
        return Ok(());
    }
    let reason = format!(
        "history-service believes every name, so it does not listen on {http}, which others can reach; use a loopback \
         address, or run standalone, which says how to be told otherwise"
    );
    Err(EnvError::new("DARDA_HTTP_ADDR", reason))
}

/// Which family, and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    Embedded { data_dir: PathBuf },
}

#[derive(Deserialize)]
struct Flat {
    #[serde(default)]
    backend: Family,
    data_dir: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Family {
    #[default]
    Embedded,
}

impl Storage {
    /// # Errors
    /// When one of [`STORAGE_VARIABLES`] is bad.
    pub fn from_env() -> Result<Self, EnvError> {
        let flat: Flat = env::read("DARDA_")?;
        Ok(match flat.backend {
            Family::Embedded => Self::Embedded {
                data_dir: flat.data_dir.unwrap_or_else(|| "./data".into()),
            },
        })
    }
}

impl From<Storage> for backend::Config {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::Embedded { data_dir } => Self::Embedded { data_dir },
        }
    }
}
