//! A RabbitMQ of our own: one node and its own port mapper.

mod ctl;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::certificates::Certificate;
use crate::process::{Data, Folder, Process};
use crate::programs::{Trixie, installed};
use crate::{ports, programs};

const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);
const WRITTEN: Duration = Duration::from_secs(20);

/// Little, so that several fit beside each other on a small machine.
const CONFIG: &str = "log.console = true\n\
    log.console.level = info\n\
    log.file = false\n\
    vm_memory_high_watermark.absolute = 1GB\n\
    disk_free_limit.absolute = 100MB\n";

/// Listen only here, and do not burn the cores while waiting.
const ERLANG: &str =
    "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none";

/// Which RabbitMQ it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Generation {
    /// The one of this machine: 3.10 with Debian 12.
    #[default]
    Installed,
    /// The 4.0 of Debian 13.
    V4,
}

/// What differs from the installed one without TLS.
#[derive(Debug, Clone, Default)]
pub struct RabbitMqOptions {
    pub generation: Generation,
    /// Speak TLS too, at a port of its own. Only the installed one.
    pub certificate: Option<Certificate>,
    /// With the management API, at a port of its own.
    pub management: bool,
    /// Tell Prometheus how it is, at a port of its own.
    pub prometheus: bool,
}

/// A running RabbitMQ without other plugins; user `guest` may do everything.
pub struct RabbitMq {
    options: RabbitMqOptions,
    process: Process,
    /// Ends after the node that is registered with it.
    epmd: Process,
    port: u16,
    tls_port: Option<u16>,
    management_port: Option<u16>,
    prometheus_port: Option<u16>,
    dist_port: u16,
    epmd_port: u16,
}

impl RabbitMq {
    pub async fn start() -> Result<Self> {
        Self::start_with(RabbitMqOptions::default()).await
    }

    pub async fn start_with(options: RabbitMqOptions) -> Result<Self> {
        ports::retried(|| Self::start_in(Folder::Private, None, options.clone())).await
    }

    /// Starts one with its data in a folder, which stays.
    pub async fn start_at(folder: PathBuf, options: RabbitMqOptions) -> Result<Self> {
        let start = || Self::start_in(Folder::Kept(folder.clone()), None, options.clone());
        ports::retried(start).await
    }

    pub(crate) async fn start_in(
        folder: Folder,
        port: Option<u16>,
        options: RabbitMqOptions,
    ) -> Result<Self> {
        let rabbitmq = Self {
            tls_port: ports::free_if(options.certificate.is_some())?,
            management_port: ports::free_if(options.management)?,
            prometheus_port: ports::free_if(options.prometheus)?,
            options,
            process: Process::new("rabbitmq", folder)?,
            epmd: Process::new("epmd", Folder::Private)?,
            port: port.map_or_else(ports::free, Ok)?,
            dist_port: ports::free()?,
            epmd_port: ports::free()?,
        };
        rabbitmq.start_epmd().await?;
        rabbitmq.spawn().await?;
        Ok(rabbitmq)
    }

    /// What has to be installed to start one.
    pub fn missing() -> Option<&'static str> {
        Self::missing_with(Generation::Installed)
    }

    /// The same for one of these.
    pub fn missing_with(generation: Generation) -> Option<&'static str> {
        let here = || programs::rabbitmq_server().is_some() && programs::epmd().is_some();
        match generation {
            Generation::Installed => (!here()).then_some("rabbitmq-server"),
            Generation::V4 => Trixie::missing(),
        }
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.addr())
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it speaks TLS, if it does.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        Some((Ipv4Addr::LOCALHOST, self.tls_port?).into())
    }

    /// Where its management API is, if it has one.
    pub fn management_addr(&self) -> Option<SocketAddr> {
        Some((Ipv4Addr::LOCALHOST, self.management_port?).into())
    }

    /// Where Prometheus reads, if it may.
    pub fn prometheus_addr(&self) -> Option<SocketAddr> {
        Some((Ipv4Addr::LOCALHOST, self.prometheus_port?).into())
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it as a crash would (SIGKILL). RabbitMQ, 3.10 and 4.0 alike, writes down the name of a new quorum queue three
    /// seconds late: one that it has not written yet comes back without its messages and without a leader, for ever. Wait
    /// for [`RabbitMq::written`] first.
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

    /// Starts it again at the same port, after killing it if it runs. Takes about as long as a first start.
    pub async fn restart(&self, data: Data) -> Result<()> {
        self.kill();
        let mnesia = self.process.folder().join("mnesia");
        if data == Data::Wiped && mnesia.exists() {
            fs::remove_dir_all(mnesia)?;
        }
        self.spawn().await
    }

    /// Waits until a new quorum queue of the virtual host `/` would survive a crash.
    ///
    /// # Errors
    /// If that takes more than 20 s.
    pub async fn written(&self, queue: &str) -> Result<()> {
        let names = self
            .process
            .folder()
            .join("mnesia/darda@localhost/quorum/darda@localhost/names.dets");
        let name = format!("%2F_{queue}");
        let holds = || {
            fs::read(&names).is_ok_and(|names| {
                names
                    .windows(name.len())
                    .any(|part| part == name.as_bytes())
            })
        };
        self.process.ready(WRITTEN, async || holds()).await
    }

    /// Without one the node would start its own, which stays when the node ends.
    async fn start_epmd(&self) -> Result<()> {
        let folder = self.epmd.folder();
        let (mut command, _) = match self.options.generation {
            Generation::Installed => installed("epmd", programs::epmd(), folder)?,
            Generation::V4 => Trixie::command("epmd", folder)?,
        };
        command.args([
            "-port",
            &self.epmd_port.to_string(),
            "-address",
            "127.0.0.1",
        ]);
        self.epmd.spawn(command)?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, self.epmd_port));
        self.epmd
            .ready(START, async || TcpStream::connect(addr).await.is_ok())
            .await
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

    /// What its configuration says of TLS.
    fn tls_config(&self) -> String {
        let (Some(certificate), Some(addr)) = (&self.options.certificate, self.tls_addr()) else {
            return String::new();
        };
        format!(
            "listeners.ssl.1 = {addr}\n\
             ssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\n\
             ssl_options.verify = verify_none\n\
             ssl_options.fail_if_no_peer_cert = false\n",
            certificate.authority().display(),
            certificate.chain().display(),
            certificate.key().display(),
        )
    }

    fn command(&self) -> Result<Command> {
        let folder = self.process.folder();
        let mut config = format!("{CONFIG}{}", self.tls_config());
        let mut plugins = Vec::new();
        for (name, addr) in [
            ("management", self.management_addr()),
            ("prometheus", self.prometheus_addr()),
        ] {
            let Some(addr) = addr else {
                continue;
            };
            plugins.push(format!("rabbitmq_{name}"));
            let (ip, port) = (addr.ip(), addr.port());
            config += &format!("{name}.tcp.ip = {ip}\n{name}.tcp.port = {port}\n");
        }
        fs::write(folder.join("rabbitmq.conf"), config)?;
        let plugins = format!("[{}].\n", plugins.join(","));
        fs::write(folder.join("enabled_plugins"), plugins)?;
        fs::write(folder.join("env.conf"), "")?;
        let mut command = self.script("rabbitmq-server")?;
        command
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG)
            // The script becomes the node instead of waiting beside it; the node gets no console nevertheless.
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .env("RABBITMQ_SERVER_START_ARGS", "-noinput");
        Ok(command)
    }

    /// One of RabbitMQ's scripts, for this node.
    fn script(&self, name: &str) -> Result<Command> {
        let folder = self.process.folder();
        let (mut command, inside) = match self.options.generation {
            Generation::Installed => {
                let server = programs::rabbitmq_server();
                installed(
                    name,
                    server.map(|server| server.with_file_name(name)),
                    folder,
                )?
            }
            Generation::V4 => Trixie::command(&format!("/usr/lib/rabbitmq/bin/{name}"), folder)?,
        };
        command
            .current_dir(folder)
            // The cookie of Erlang is made here.
            .env("HOME", &inside)
            .env("RABBITMQ_HOME", &inside)
            .env("RABBITMQ_MNESIA_BASE", inside.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", inside.join("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_CONFIG_FILE", inside.join("rabbitmq.conf"))
            .env(
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                inside.join("enabled_plugins"),
            )
            .env("RABBITMQ_CONF_ENV_FILE", inside.join("env.conf"))
            .env("RABBITMQ_PID_FILE", inside.join("pid"))
            // A name with a host needs no look-up of this machine's.
            .env("RABBITMQ_NODENAME", "darda@localhost")
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        Ok(command)
    }
}

/// The listener comes last in a start: who greets in AMQP is ready.
async fn answers(addr: SocketAddr) -> bool {
    let greet = async {
        let mut socket = TcpStream::connect(addr).await?;
        socket.write_all(b"AMQP\x00\x00\x09\x01").await?;
        let mut frame = [0; 7];
        socket.read_exact(&mut frame).await?;
        std::io::Result::Ok(frame[0] == 1)
    };
    matches!(timeout(Duration::from_secs(2), greet).await, Ok(Ok(true)))
}
