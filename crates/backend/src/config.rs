//! Which family to open, as the environment says.

use std::path::PathBuf;

use runtime::env::{self, EnvError, Variable};
use serde::Deserialize;

/// Which family to open, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// Everything in this process, data in one folder.
    Embedded { data_dir: PathBuf },
}

/// The variables of [`Config`].
pub const VARIABLES: &[Variable] = &[
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

#[derive(Deserialize)]
struct Flat {
    #[serde(default)]
    backend: Family,
    #[serde(default = "data_dir")]
    data_dir: PathBuf,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Family {
    #[default]
    Embedded,
}

fn data_dir() -> PathBuf {
    "./data".into()
}

impl Config {
    /// # Errors
    /// When one of [`VARIABLES`] is bad.
    pub fn from_env() -> Result<Self, EnvError> {
        let flat: Flat = env::read("DARDA_")?;
        Ok(match flat.backend {
            Family::Embedded => Self::Embedded {
                data_dir: flat.data_dir,
            },
        })
    }
}
