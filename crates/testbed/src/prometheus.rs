//! A Prometheus of our own, and the tool that checks its rules.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::process::{Folder, Process};
use crate::programs::installed;
use crate::{ports, programs};

const START: Duration = Duration::from_secs(60);

/// `promtool`, where it is installed.
pub fn promtool() -> Option<PathBuf> {
    programs::promtool()
}

/// A running Prometheus.
pub struct Prometheus {
    process: Process,
    port: u16,
}

impl Prometheus {
    /// Starts one with a configuration, and files beside it that the configuration names.
    pub async fn start(config: &str, files: &[(&str, &str)]) -> Result<Self> {
        ports::retried(async || {
            let prometheus = Self {
                process: Process::new("prometheus", Folder::Private)?,
                port: ports::free()?,
            };
            let folder = prometheus.process.folder();
            for (name, text) in [("prometheus.yml", config)].iter().chain(files) {
                fs::write(folder.join(name), text)?;
            }
            prometheus.process.spawn(prometheus.command()?)?;
            let addr = prometheus.addr();
            prometheus
                .process
                .ready(START, async || is_ready(addr).await)
                .await?;
            Ok(prometheus)
        })
        .await
    }

    /// What has to be installed to start one.
    pub fn missing() -> Option<&'static str> {
        let is_there = programs::prometheus().is_some() && programs::promtool().is_some();
        (!is_there).then_some("prometheus")
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn command(&self) -> Result<Command> {
        let folder = self.process.folder();
        let (mut command, folder) = installed("prometheus", programs::prometheus(), folder)?;
        command
            .current_dir(&folder)
            .arg(format!("--web.listen-address={}", self.addr()))
            .arg(format!(
                "--config.file={}",
                folder.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            // Exemplars are kept only when asked for.
            .arg("--enable-feature=exemplar-storage");
        Ok(command)
    }
}

async fn is_ready(addr: SocketAddr) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(addr).await?;
        socket
            .write_all(b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut status = [0; 12];
        socket.read_exact(&mut status).await?;
        std::io::Result::Ok(&status == b"HTTP/1.1 200")
    };
    matches!(timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
}
