//! What is tested: processes, and the servers they need.

mod broker;
mod cluster;
mod disk;
mod resp;
mod servers;
mod stored;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::RngExt;

use crate::process::Process;
use crate::workload::Pod;

pub use broker::{Broker, Envelope};
pub use cluster::{Cluster, MongoPath, Server};
pub use disk::Disk;
pub use resp::command as redis_command;
pub use servers::Servers;
pub use stored::Stored;

/// Where our programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// The programs of a folder such as `target/debug`.
    #[must_use]
    pub fn of(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self { folder }
    }

    /// The programs that were built beside this one.
    ///
    /// # Errors
    /// When the system does not tell where this program is.
    pub fn beside_this() -> Result<Self> {
        let this = std::env::current_exe()?;
        Ok(Self::of(this.parent().context("a program is in a folder")?))
    }

    /// The path of a program.
    ///
    /// # Errors
    /// When it is not there.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        ensure!(
            path.is_file(),
            "{} is missing; build it with: cargo build --workspace --bins",
            path.display()
        );
        Ok(path)
    }
}

/// Processes under test, and what belongs to them.
pub struct System {
    /// Ours, by name.
    pub processes: Vec<Process>,
    /// Logs and data.
    pub folder: PathBuf,
    /// The servers, where there are any.
    pub(crate) cluster: Option<Cluster>,
    /// What the only process has its data on, if it is small.
    disk: Option<Disk>,
}

impl System {
    /// One process over a folder.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn standalone(programs: &Programs, folder: &Path) -> Result<Self> {
        Self::one(programs, folder, None).await
    }

    /// One process over a small disk that can be filled.
    ///
    /// # Errors
    /// When there can be no such disk, or it does not start.
    pub async fn standalone_on_small_disk(programs: &Programs, folder: &Path) -> Result<Self> {
        let disk = Disk::new(&folder.join("disk"), DISK_MIB)?;
        Self::one(programs, folder, Some(disk)).await
    }

    async fn one(programs: &Programs, folder: &Path, disk: Option<Disk>) -> Result<Self> {
        let data = disk.as_ref().map_or(folder, Disk::path).join("data");
        fs::create_dir_all(&data)?;
        let host = host();
        let mut env = clients(&host);
        env.insert("DARDA_DATA_DIR".to_owned(), data.display().to_string());
        let listens = SocketAddr::new(host.parse()?, HTTP_PORT);
        let program = programs.path("standalone")?;
        let mut process = Process::new("standalone", program, env, listens, folder);
        process.start().await?;
        Ok(Self {
            processes: vec![process],
            folder: folder.to_owned(),
            cluster: None,
            disk,
        })
    }

    /// The small disk of the only process.
    ///
    /// # Errors
    /// When it has none.
    pub fn disk(&self) -> Result<&Disk> {
        self.disk.as_ref().context("nothing is on a small disk")
    }

    /// What belongs to it when it is a cluster.
    ///
    /// # Errors
    /// When it is none.
    pub fn servers(&self) -> Result<&Cluster> {
        cluster::needed(self.cluster.as_ref())
    }

    /// Notes that an envelope was made to be parked.
    ///
    /// # Errors
    /// When it is no cluster.
    pub fn poisoned(&mut self) -> Result<()> {
        let cluster = self.cluster.as_mut();
        cluster.context("this fault is for a cluster")?.poisoned += 1;
        Ok(())
    }

    /// What serves clients.
    #[must_use]
    pub fn pods(&self) -> Vec<Pod> {
        let is_pod =
            |process: &&Process| process.name == "standalone" || process.name.starts_with("pod-");
        let pod = |process: &Process| Pod {
            name: process.name.as_str().into(),
            address: process.address(),
        };
        self.processes.iter().filter(is_pod).map(pod).collect()
    }

    /// The processes whose names begin so.
    pub fn of_kind(&mut self, kind: &str) -> Vec<&mut Process> {
        let is_one = |process: &&mut Process| process.name.starts_with(kind);
        self.processes.iter_mut().filter(is_one).collect()
    }

    /// Whatever ended by itself: a process that is up in our books and is not. No fault makes a program end.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn crashed(&mut self) -> Result<Vec<String>> {
        let mut crashed = Vec::new();
        for process in &mut self.processes {
            if let Some(status) = process.exited()? {
                crashed.push(format!("{} ended with {status}", process.name));
            }
        }
        Ok(crashed)
    }

    /// Removes what it left on the servers, when its processes have ended.
    ///
    /// # Errors
    /// When a server is away.
    pub async fn clear(&self) -> Result<()> {
        match &self.cluster {
            Some(cluster) => cluster.clear().await,
            None => Ok(()),
        }
    }

    /// Ends all processes.
    ///
    /// # Errors
    /// When one does not end.
    pub async fn end(&mut self) -> Result<()> {
        for process in &mut self.processes {
            process.thaw();
            process.kill().await?;
        }
        Ok(())
    }
}

/// Enough for a session.
const DISK_MIB: u32 = 64;
const HTTP_PORT: u16 = 18080;
const ADMIN_PORT: u16 = 19090;

/// An address of this machine that nobody else uses: all of 127.0.0.0/8 is this machine, so a process that is started
/// again is found where it was, and meets no other.
fn host() -> String {
    let mut random = rand::rng();
    let mut byte = || random.random_range(1..255_u8);
    format!("127.{}.{}.{}", byte(), byte(), byte())
}

/// The settings of any process.
fn operators(host: &str) -> BTreeMap<String, String> {
    [
        ("DARDA_ADMIN_ADDR", format!("{host}:{ADMIN_PORT}")),
        ("DARDA_LOG", "info,backend=debug".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The settings of a process that serves clients: it limits nobody, and notices soon who is gone.
fn clients(host: &str) -> BTreeMap<String, String> {
    let mut env = operators(host);
    let more = [
        ("DARDA_HTTP_ADDR", format!("{host}:{HTTP_PORT}")),
        (
            "DARDA_ALLOWED_ORIGINS",
            format!("http://{host}:{HTTP_PORT}"),
        ),
        ("DARDA_LIMIT_SENDS_PER_SEC", "100000".to_owned()),
        ("DARDA_LIMIT_SENDS_BURST", "100000".to_owned()),
        ("DARDA_LIMIT_JOINS_PER_SEC", "10000".to_owned()),
        ("DARDA_LIMIT_CONNECTIONS_PER_USER", "1000".to_owned()),
        ("DARDA_HEARTBEAT_SECS", "1".to_owned()),
        ("DARDA_DRAIN_SECS", "5".to_owned()),
        ("DARDA_HTTP_WORKERS", "1".to_owned()),
    ];
    env.extend(more.map(|(name, value)| (name.to_owned(), value)));
    env
}
