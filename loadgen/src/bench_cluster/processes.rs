//! The servers and programs of one cluster, each a process whose processor time is counted apart.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use testbed::{Mongo, MongoOptions, RabbitMq, Redis, RedisOptions};

use crate::process;
use crate::target::{Protocol, Target};

/// How many chat-services there are.
const PODS: usize = 2;
/// Memory that MongoDB has for data: a small share of what a server for it would have.
pub const MONGOD_CACHE_MIB: u32 = 1024;
/// How long a program may take until it is ready.
const READY: Duration = Duration::from_secs(60);
/// How long a program may take to answer an operator.
const ANSWER: Duration = Duration::from_secs(5);

/// What is set beside addresses, as it stands in the report.
pub const SETTINGS: [(&str, &str); 8] = [
    ("DARDA_BACKEND", "cluster"),
    ("DARDA_AUTH_MODE", "open"),
    ("DARDA_HTTP_WORKERS", "1"),
    ("DARDA_LOG", "warn"),
    ("DARDA_LIMIT_SENDS_PER_SEC", "1000000"),
    ("DARDA_LIMIT_SENDS_BURST", "1000000"),
    ("DARDA_LIMIT_CONNECTIONS_PER_USER", "100000"),
    ("DARDA_LIMIT_JOINS_PER_SEC", "1000000"),
];

/// All of it, running; it ends when this is dropped.
pub struct Processes {
    // Programs end before the servers that they use.
    chats: Vec<Program>,
    history: Program,
    worker: Program,
    redis: Redis,
    rabbitmq: RabbitMq,
    mongo: Mongo,
    _folder: TempDir,
}

/// Processor time in microseconds, by name, since each process began.
pub type Usage = Vec<(&'static str, u64)>;

impl Processes {
    /// Starts everything from the programs of a folder, and waits until it is ready.
    pub fn start(programs: &Path) -> Result<Self> {
        if let Some(what) = testbed::missing() {
            bail!("needs {what} (scripts/setup test)");
        }
        let folder = TempDir::with_prefix("darda-bench-")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let options = RedisOptions {
            append_only: true,
            ..RedisOptions::default()
        };
        let mongo = MongoOptions {
            cache_mib: MONGOD_CACHE_MIB,
            ..MongoOptions::default()
        };
        let (redis, rabbitmq, mongo) = runtime.block_on(async {
            tokio::try_join!(
                Redis::start(options),
                RabbitMq::start(),
                Mongo::start_with(mongo)
            )
        })?;
        let servers = [
            ("DARDA_REDIS_URL", redis.url()),
            ("DARDA_RABBITMQ_URL", rabbitmq.url()),
            ("DARDA_MONGODB_URI", mongo.url()),
        ];
        let start = |name: &'static str, program: &str, more: &[(&'static str, String)]| {
            let variables = servers.iter().chain(more).cloned().collect();
            Program::start(name, programs.join(program), variables, folder.path())
        };
        let history = start("history", "history-service", &[])?;
        let url = format!("http://{}", history.http);
        let mut chats = Vec::new();
        for name in ["chat 1", "chat 2"].into_iter().take(PODS) {
            let more = [("DARDA_HISTORY_URL", url.clone())];
            chats.push(start(name, "chat-service", &more)?);
        }
        let worker = start("worker", "persistence-worker", &[])?;
        let mut processes = Self {
            chats,
            history,
            worker,
            redis,
            rabbitmq,
            mongo,
            _folder: folder,
        };
        processes.history.ready()?;
        processes.worker.ready()?;
        for chat in &mut processes.chats {
            chat.ready()?;
        }
        Ok(processes)
    }

    /// Both pods, in turn.
    pub fn target(&self) -> Target {
        Target {
            protocol: Protocol::Darda,
            addrs: self.chats.iter().map(|chat| chat.http).collect(),
            pad_bytes: 0,
        }
    }

    /// What every process, and this one, has used of the processors.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Vec::new();
        let programs = self.chats.iter().chain([&self.history, &self.worker]);
        for program in programs {
            let used = match &program.child {
                Some(child) => process::cpu_us(child.id())?,
                None => 0,
            };
            usage.push((program.name, program.used_before + used));
        }
        for (name, leader) in [
            ("Redis", self.redis.pid()),
            ("RabbitMQ", self.rabbitmq.pid()),
            ("mongod", self.mongo.members()[0].pid()),
        ] {
            usage.push((name, process::group_cpu_us(leader)?));
        }
        usage.push(("driver", process::cpu_us(std::process::id())?));
        Ok(usage)
    }

    /// Events that the worker has stored since it was started.
    pub fn stored(&self) -> Result<u64> {
        self.worker_counts("chat_persist_events_total")
    }

    /// Merges of segments of the index of search that the worker has made since it began.
    pub fn merges(&self) -> Result<u64> {
        self.worker_counts("chat_search_merges_total")
    }

    fn worker_counts(&self, metric: &str) -> Result<u64> {
        let metrics = get(self.worker.admin, "/metrics")?;
        let count = metrics
            .lines()
            .find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        Ok(count.map(str::parse).transpose()?.unwrap_or(0))
    }

    /// Ends the worker as a crash would.
    pub fn stop_worker(&mut self) -> Result<()> {
        self.worker.kill()
    }

    /// Starts it again.
    pub fn start_worker(&mut self) -> Result<()> {
        self.worker.spawn()
    }
}

struct Program {
    name: &'static str,
    path: PathBuf,
    variables: Vec<(&'static str, String)>,
    log: PathBuf,
    http: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
    /// Processor time of those that ran before.
    used_before: u64,
}

impl Program {
    fn start(
        name: &'static str,
        path: PathBuf,
        variables: Vec<(&'static str, String)>,
        folder: &Path,
    ) -> Result<Self> {
        ensure!(path.is_file(), "there is no {}", path.display());
        let mut program = Self {
            name,
            path,
            variables,
            log: folder.join(format!("{name}.log")),
            http: free()?,
            admin: free()?,
            child: None,
            used_before: 0,
        };
        program.spawn()?;
        Ok(program)
    }

    fn spawn(&mut self) -> Result<()> {
        // It ends when this process does.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.path);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"DARDA_"))
        {
            command.env_remove(name);
        }
        let child = command
            .envs(SETTINGS)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("DARDA_HTTP_ADDR", self.http.to_string())
            .env("DARDA_ADMIN_ADDR", self.admin.to_string())
            .stdin(Stdio::null())
            .stdout(File::create(&self.log)?)
            .stderr(File::options().append(true).open(&self.log)?)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    fn ready(&mut self) -> Result<()> {
        let began = Instant::now();
        while get(self.admin, "/readyz").is_err() {
            let status = self.child.as_mut().map(Child::try_wait).transpose()?;
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(Some(status)) = status {
                bail!("{} ended ({status}): {}", self.name, log().trim());
            }
            ensure!(
                began.elapsed() < READY,
                "{} is not ready: {}",
                self.name,
                log().trim()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            self.used_before += process::cpu_us(child.id())?;
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

fn free() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// The body of an answer 200.
fn get(addr: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect_timeout(&addr, ANSWER)?;
    socket.set_read_timeout(Some(ANSWER))?;
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{path} is not well");
    Ok(answer)
}
