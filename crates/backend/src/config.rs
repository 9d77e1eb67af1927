//! Which family to open, as the environment says.

use std::path::PathBuf;

use runtime::env::{self, EnvError, Variable};
use serde::Deserialize;

#[cfg(feature = "cluster")]
use crate::cluster::Settings;

/// Which family to open, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// Everything in this process, data in one folder.
    Embedded { data_dir: PathBuf },
    /// Everything in Redis, RabbitMQ and MongoDB.
    #[cfg(feature = "cluster")]
    Cluster(Box<Settings>),
}

/// The variables of [`Config`] that all programs have.
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "DARDA_BACKEND",
        default: "embedded",
        meaning: "Where everything is kept. embedded: in this process and one folder. cluster: in Redis, RabbitMQ and MongoDB, which any number of processes share; standalone does not have it.",
    },
    Variable {
        name: "DARDA_DATA_DIR",
        default: "./data",
        meaning: "The folder of the embedded family. One process at a time can have it open.",
    },
];

/// The variables of the cluster family, where this build has it.
#[cfg(feature = "cluster")]
pub const CLUSTER_VARIABLES: &[Variable] = crate::cluster::settings::VARIABLES;
/// The variables of the cluster family, where this build has it.
#[cfg(not(feature = "cluster"))]
pub const CLUSTER_VARIABLES: &[Variable] = &[];

#[derive(Deserialize)]
struct Flat {
    #[serde(default)]
    backend: Family,
    #[serde(default = "data_dir")]
    data_dir: PathBuf,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Family {
    #[default]
    Embedded,
    Cluster,
}

fn data_dir() -> PathBuf {
    "./data".into()
}

impl Config {
    /// The family that is asked for, of those that this build has.
    ///
    /// # Errors
    /// When one of [`VARIABLES`] is bad, or one of [`CLUSTER_VARIABLES`] when that family is asked for.
    pub fn from_env() -> Result<Self, EnvError> {
        let flat: Flat = env::read("DARDA_")?;
        #[cfg(feature = "cluster")]
        if flat.backend == Family::Cluster {
            return Ok(Self::Cluster(Box::new(Settings::from_env()?)));
        }
        flat.embedded("this build")
    }

    /// For programs that are one process by nature: `program` has no other family, whatever else was built with it.
    ///
    /// # Errors
    /// When one of [`VARIABLES`] is bad.
    pub fn embedded_from_env(program: &str) -> Result<Self, EnvError> {
        env::read::<Flat>("DARDA_")?.embedded(program)
    }
}

impl Flat {
    fn embedded(self, who: &str) -> Result<Config, EnvError> {
        if self.backend == Family::Cluster {
            let reason = format!(
                "{who} has the embedded family alone; the cluster family is that of chat-service, history-service and \
                 persistence-worker, built with their feature cluster, as they are unless told otherwise"
            );
            return Err(EnvError::new("DARDA_BACKEND", reason));
        }
        Ok(Config::Embedded {
            data_dir: self.data_dir,
        })
    }
}
