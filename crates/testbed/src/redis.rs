//! A Redis of our own.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::certificates::Certificate;
use crate::process::{Data, Folder, Process};
use crate::programs::{Trixie, installed};
use crate::{ports, programs};

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(20);

/// What differs from a Redis that keeps nothing on disk.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// Log every write to disk and read it at the next start.
    pub append_only: bool,
    /// Write a snapshot at this many seconds if anything changed, and when asked to end.
    pub snapshot_secs: Option<u32>,
    /// Copy this primary.
    pub replica_of: Option<SocketAddr>,
    /// Speak TLS too, at a port of its own. Only the installed one.
    pub certificate: Option<Certificate>,
    /// More settings, as on the command line: `["--maxmemory", "10mb"]`.
    pub extra: Vec<String>,
}

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// The `redis-server` of this machine.
    Installed,
    /// The one of Debian 13.
    Redis8,
    /// The one of Debian 13.
    Valkey8,
}

/// A running Redis with 64 databases that never evicts a key.
pub struct Redis {
    process: Process,
    flavour: Flavour,
    port: u16,
    tls_port: Option<u16>,
    options: RedisOptions,
}

impl Redis {
    pub async fn start(options: RedisOptions) -> Result<Self> {
        Self::start_with(Flavour::Installed, options).await
    }

    pub async fn start_with(flavour: Flavour, options: RedisOptions) -> Result<Self> {
        ports::retried(|| Self::start_in(Folder::Private, None, flavour, options.clone())).await
    }

    pub(crate) async fn start_in(
        folder: Folder,
        port: Option<u16>,
        flavour: Flavour,
        options: RedisOptions,
    ) -> Result<Self> {
        let port = port.map_or_else(ports::free, Ok)?;
        let process = Process::new("redis", folder)?;
        let redis = Self {
            process,
            flavour,
            port,
            tls_port: ports::free_if(options.certificate.is_some())?,
            options,
        };
        redis.spawn().await?;
        Ok(redis)
    }

    /// What has to be installed to start one.
    pub fn missing() -> Option<&'static str> {
        Self::missing_with(Flavour::Installed)
    }

    /// The same for one of these.
    pub fn missing_with(flavour: Flavour) -> Option<&'static str> {
        match flavour {
            Flavour::Installed => programs::redis_server().is_none().then_some("redis-server"),
            Flavour::Redis8 | Flavour::Valkey8 => Trixie::missing(),
        }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it speaks TLS, if it does.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        Some((Ipv4Addr::LOCALHOST, self.tls_port?).into())
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it as a crash would (SIGKILL).
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing is answered.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Lets it go on (SIGCONT).
    pub fn cont(&self) {
        self.process.cont();
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub async fn terminate(&self) -> Result<()> {
        self.process.terminate(STOP).await
    }

    /// Starts it again at the same port, after killing it if it runs.
    pub async fn restart(&self, data: Data) -> Result<()> {
        self.kill();
        if data == Data::Wiped {
            remove(&self.process.folder().join("dump.rdb"))?;
            remove(&self.process.folder().join("appendonlydir"))?;
        }
        self.spawn().await
    }

    /// How it ended, if it did by itself.
    pub(crate) fn exited(&self) -> Result<Option<ExitStatus>> {
        self.process.exited()
    }

    async fn spawn(&self) -> Result<()> {
        self.process.spawn(self.command()?)?;
        self.process
            .ready(START, async || answers(self.addr()).await)
            .await
    }

    fn command(&self) -> Result<Command> {
        let folder = self.process.folder();
        let (mut command, inside) = match self.flavour {
            Flavour::Installed => installed("redis-server", programs::redis_server(), folder)?,
            Flavour::Redis8 => Trixie::command("redis-server", folder)?,
            Flavour::Valkey8 => Trixie::command("valkey-server", folder)?,
        };
        let port = self.port.to_string();
        let save = self
            .options
            .snapshot_secs
            .map(|secs| format!("{secs} 1"))
            .unwrap_or_default();
        command
            .args(["--port", &port, "--bind", "127.0.0.1"])
            .arg("--dir")
            .arg(inside);
        command.args([
            "--databases",
            "64",
            "--maxmemory-policy",
            "noeviction",
            "--save",
            &save,
        ]);
        command.args([
            "--appendonly",
            if self.options.append_only {
                "yes"
            } else {
                "no"
            },
        ]);
        if let Some(primary) = self.options.replica_of {
            command.args([
                "--replicaof",
                &primary.ip().to_string(),
                &primary.port().to_string(),
            ]);
        }
        if let (Some(certificate), Some(port)) = (&self.options.certificate, self.tls_port) {
            command
                .args(["--tls-port", &port.to_string()])
                .args(["--tls-auth-clients", "no"])
                .arg("--tls-ca-cert-file")
                .arg(certificate.authority())
                .arg("--tls-cert-file")
                .arg(certificate.chain())
                .arg("--tls-key-file")
                .arg(certificate.key());
        }
        command.args(&self.options.extra);
        Ok(command)
    }
}

/// While it reads its data it answers, but not with PONG.
async fn answers(addr: SocketAddr) -> bool {
    let ping = async {
        let mut socket = TcpStream::connect(addr).await?;
        socket.write_all(b"PING\r\n").await?;
        let mut answer = [0; 5];
        socket.read_exact(&mut answer).await?;
        std::io::Result::Ok(&answer == b"+PONG")
    };
    matches!(timeout(Duration::from_secs(1), ping).await, Ok(Ok(true)))
}

/// Removes a file or a folder, if it is there.
fn remove(path: &std::path::Path) -> Result<()> {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
