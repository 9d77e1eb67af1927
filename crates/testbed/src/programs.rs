//! Where the servers' programs are on this machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use rustix::process::geteuid;

/// A `mongod` to use instead of the one on PATH.
const MONGOD: &str = "DARDA_TEST_MONGOD";
/// A folder of Debian 13 to use instead of the project's own.
const TRIXIE: &str = "DARDA_TEST_TRIXIE";

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

pub(crate) fn prometheus() -> Option<PathBuf> {
    on_path("prometheus")
}

pub(crate) fn promtool() -> Option<PathBuf> {
    on_path("promtool")
}

/// A command for a program that was found or not, and the folder as the program sees it.
pub(crate) fn installed(
    name: &str,
    program: Option<PathBuf>,
    folder: &Path,
) -> Result<(Command, PathBuf)> {
    let program = program.with_context(|| format!("{name} is not installed"))?;
    Ok((Command::new(program), folder.to_owned()))
}

/// The programs of Debian 13, which `scripts/setup test` unpacks into a folder. They run with that folder as their root.
pub(crate) struct Trixie;

impl Trixie {
    /// What has to be there to run one of its programs.
    pub(crate) fn missing() -> Option<&'static str> {
        static MAY_MOUNT: OnceLock<bool> = OnceLock::new();
        let may_mount = || {
            Command::new("unshare")
                .args(["--mount", "true"])
                .stderr(Stdio::null())
                .status()
        };
        if !geteuid().is_root()
            || !*MAY_MOUNT.get_or_init(|| may_mount().is_ok_and(|status| status.success()))
        {
            return Some("root that may mount, for the servers of Debian 13");
        }
        Self::root()
            .is_none()
            .then_some("the servers of Debian 13 (scripts/setup test)")
    }

    /// A command in that root, with a folder of outside, and the folder as the program sees it. What is mounted for that is
    /// gone with the process: nobody else sees it.
    pub(crate) fn command(program: &str, folder: &Path) -> Result<(Command, PathBuf)> {
        let root = Self::root().context("the servers of Debian 13 are not there")?;
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "enter",
        ]);
        command
            .arg(root)
            .arg(folder)
            .arg(program)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Ok((command, INSIDE.into()))
    }

    fn root() -> Option<PathBuf> {
        let root = match env::var_os(TRIXIE) {
            Some(root) if !root.is_empty() => root.into(),
            _ => tools().join("trixie"),
        };
        root.join("unpacked").is_file().then_some(root)
    }
}

/// Where a program of Debian 13 sees its folder.
const INSIDE: &str = "/mnt";

/// Becomes the program $3 in the root $1 with the folder $2.
const ENTER: &str = r#"
mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && mount --bind "$2" "$1/mnt" || exit
root=$1 program=$3
shift 3
exec chroot "$root" "$program" "$@"
"#;

/// Where `scripts/setup` puts what is not of the system.
fn tools() -> PathBuf {
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
