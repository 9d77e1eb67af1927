//! Where the servers' programs are on this machine.

use std::env;
use std::path::{Path, PathBuf};

/// A `mongod` to use instead of the one on PATH.
const MONGOD: &str = "DARDA_TEST_MONGOD";

pub(crate) fn redis_server() -> Option<PathBuf> {
    on_path("redis-server")
}

/// The program itself, not what Debian has on PATH: that one changes the user and the folder.
pub(crate) fn rabbitmq_server() -> Option<PathBuf> {
    existing("/usr/lib/rabbitmq/bin/rabbitmq-server".into()).or_else(|| on_path("rabbitmq-server"))
}

/// Erlang's port mapper, without which a RabbitMQ node does not start.
pub(crate) fn epmd() -> Option<PathBuf> {
    on_path("epmd")
}

pub(crate) fn mongod() -> Option<PathBuf> {
    match env::var_os(MONGOD) {
        Some(path) if !path.is_empty() => existing(path.into()),
        _ => on_path("mongod").or_else(|| existing(tools().join("mongo/fiftyone/db/bin/mongod"))),
    }
}

/// Where `scripts/setup` puts what is not of the system.
pub(crate) fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools")
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/bin".into(), "/usr/sbin".into()]);
    folders.map(|folder| folder.join(name)).find_map(existing)
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}
