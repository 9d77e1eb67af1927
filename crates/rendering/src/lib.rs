//! What the chart, the manifests and skaffold make, looked at without a cluster: the tests are in `tests/it`. It says nothing
//! of whether a cluster runs it; that is `tests/kube`.

use std::path::{Path, PathBuf};

pub mod differences;
pub mod environment;
pub mod objects;
pub mod pairs;
pub mod policies;
pub mod rules;
pub mod schemas;
pub mod tools;

/// The folder of the whole project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
