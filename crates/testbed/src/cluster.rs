//! A cluster of Darda on this machine: `make cluster`. Whatever ends by itself is started again, so that one can kill any
//! part and watch the rest.

mod program;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::{join_all, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::ports;
use crate::process::{Data, Folder};
use crate::{Flavour, Mongo, MongoOptions, RabbitMq, RabbitMqOptions, Redis, RedisOptions};
use program::Program;

/// Where everything listens.
#[derive(Debug, Clone)]
pub struct Ports {
    redis: u16,
    rabbitmq: u16,
    mongodb: u16,
    chats: [u16; 2],
    history: u16,
    /// Those for operators: of the chats, the workers and the history.
    admin: [u16; 5],
}

impl Ports {
    /// Always the same, because the replica set remembers its own; the servers' are not those of servers of the system.
    pub fn usual() -> Self {
        Self {
            redis: 16_379,
            rabbitmq: 15_673,
            mongodb: 17_017,
            chats: [8080, 8081],
            history: 8082,
            admin: [9090, 9091, 9092, 9093, 9094],
        }
    }

    /// Others, for a folder that is new.
    ///
    /// # Errors
    /// If there are not enough.
    pub fn free() -> Result<Self> {
        let mut ports = [0; 11];
        for port in &mut ports {
            *port = ports::free()?;
        }
        let [redis, rabbitmq, mongodb, chat, other, history, admin @ ..] = ports;
        Ok(Self {
            redis,
            rabbitmq,
            mongodb,
            chats: [chat, other],
            history,
            admin,
        })
    }
}

/// How long a program may take to say whether it is ready.
const ANSWER: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);
/// A part that ends sooner than this has failed. One that fails so often in a row is given up.
const STEADY: Duration = Duration::from_secs(10);
const FAILURES_MAX: u32 = 5;

/// Runs two of chat-service, two of persistence-worker and one of history-service over servers of their own until SIGINT or
/// SIGTERM, with the servers' data in the folder. The programs are those beside this one. A second signal ends all at once.
///
/// # Errors
/// If a part does not start or keeps ending.
pub async fn cluster(folder: &Path, ports: &Ports) -> Result<()> {
    let mut signals = Signals::new()?;
    println!(
        "starting Redis, RabbitMQ and MongoDB, with data and logs in {}",
        folder.display()
    );
    let servers = tokio::select! {
        servers = Servers::start(folder, ports) => servers?,
        () = signals.next() => return Ok(()),
    };
    let programs = programs(&servers, ports)?;
    let ended = tokio::select! {
        Err(error) = announce(ports) => Err(error),
        Err(error) = keep_all(&servers, &programs) => Err(error),
        () = signals.next() => Ok(()),
    };
    println!("ending");
    tokio::select! {
        () = end(&servers, &programs, ports) => ended,
        () = signals.next() => ended,
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

struct Servers {
    redis: Redis,
    rabbitmq: RabbitMq,
    mongo: Mongo,
}

impl Servers {
    async fn start(folder: &Path, ports: &Ports) -> Result<Self> {
        let missing = [Redis::missing(), RabbitMq::missing(), Mongo::missing()];
        let missing: Vec<_> = missing.into_iter().flatten().collect();
        if !missing.is_empty() {
            bail!("needs {} (scripts/setup cluster)", missing.join(", "));
        }
        let kept = |name: &str| Folder::Kept(folder.join(name));
        let options = RedisOptions {
            append_only: true,
            ..RedisOptions::default()
        };
        let (mongodb, one) = ([ports.mongodb], MongoOptions::default());
        let (redis, rabbitmq, mongo) = tokio::try_join!(
            Redis::start_in(
                kept("redis"),
                Some(ports.redis),
                Flavour::Installed,
                options
            ),
            RabbitMq::start_in(
                kept("rabbitmq"),
                Some(ports.rabbitmq),
                RabbitMqOptions::default()
            ),
            Mongo::start_in(vec![kept("mongodb")], &mongodb, &one),
        )?;
        Ok(Self {
            redis,
            rabbitmq,
            mongo,
        })
    }

    /// What tells a program of them.
    fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("DARDA_REDIS_URL", self.redis.url()),
            ("DARDA_RABBITMQ_URL", self.rabbitmq.url()),
            ("DARDA_MONGODB_URI", self.mongo.url()),
        ]
    }

    /// Until one cannot be kept.
    async fn keep(&self) -> Result<()> {
        let mongod = &self.mongo.members()[0];
        tokio::try_join!(
            keep(
                "Redis",
                || self.redis.exited(),
                || self.redis.restart(Data::Kept)
            ),
            keep(
                "RabbitMQ",
                || self.rabbitmq.exited(),
                || self.rabbitmq.restart(Data::Kept)
            ),
            keep("MongoDB", || mongod.exited(), || mongod.restart(Data::Kept)),
        )
        .map(drop)
    }

    async fn terminate(&self) -> Result<()> {
        tokio::try_join!(
            self.redis.terminate(),
            self.rabbitmq.terminate(),
            self.mongo.terminate()
        )
        .map(drop)
    }
}

/// All programs, started; those that clients talk to come first.
fn programs(servers: &Servers, ports: &Ports) -> Result<Vec<Program>> {
    let beside = beside()?;
    let http = |port: u16| ("DARDA_HTTP_ADDR", format!("127.0.0.1:{port}"));
    let history = (
        "DARDA_HISTORY_URL",
        format!("http://127.0.0.1:{}", ports.history),
    );
    let open = ("DARDA_AUTH_MODE", "open".to_owned());
    let family = ("DARDA_BACKEND", "cluster".to_owned());
    let mut wanted = Vec::new();
    for (i, port) in ports.chats.into_iter().enumerate() {
        let variables = vec![http(port), family.clone(), history.clone(), open.clone()];
        wanted.push(("chat-service", format!("chat-{}", i + 1), variables));
    }
    wanted.push(("persistence-worker", "worker-1".to_owned(), vec![]));
    wanted.push(("persistence-worker", "worker-2".to_owned(), vec![]));
    wanted.push((
        "history-service",
        "history".to_owned(),
        vec![http(ports.history), family],
    ));
    let numbered = ports.admin.into_iter().zip(wanted);
    let started = numbered.map(|(admin, (program, name, mut variables))| {
        variables.extend(servers.variables());
        variables.push(("DARDA_ADMIN_ADDR", format!("127.0.0.1:{admin}")));
        Program::start(name, beside.join(program), variables)
    });
    started.collect()
}

/// The folder of this program.
fn beside() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    Ok(exe
        .parent()
        .context("this program is in no folder")?
        .to_owned())
}

/// Says where the chat is as soon as all of it is ready; then waits for ever.
async fn announce(ports: &Ports) -> Result<()> {
    for admin in ports.admin {
        while !is_ready(admin).await {
            sleep(POLL).await;
        }
    }
    println!(
        "\nDarda is ready on http://127.0.0.1:{} and http://127.0.0.1:{}; Ctrl-C ends it\n",
        ports.chats[0], ports.chats[1]
    );
    std::future::pending().await
}

/// Asks a program by its port for operators.
async fn is_ready(admin: u16) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(("127.0.0.1", admin)).await?;
        socket
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            .await?;
        let mut status = [0; 12];
        socket.read_exact(&mut status).await?;
        std::io::Result::Ok(&status == b"HTTP/1.1 200")
    };
    matches!(timeout(ANSWER, ask).await, Ok(Ok(true)))
}

/// Until a part cannot be kept.
async fn keep_all(servers: &Servers, programs: &[Program]) -> Result<()> {
    let programs = programs
        .iter()
        .map(|program| keep(program.name(), || program.exited(), || program.restart()));
    tokio::try_join!(servers.keep(), try_join_all(programs)).map(drop)
}

/// Starts a part again whenever it ended, until it fails too often.
async fn keep<R: Future<Output = Result<()>>>(
    name: &str,
    exited: impl Fn() -> Result<Option<ExitStatus>>,
    restart: impl Fn() -> R,
) -> Result<()> {
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = exited()? {
                break status;
            }
            sleep(POLL).await;
        };
        failures = if begun.elapsed() < STEADY {
            failures + 1
        } else {
            1
        };
        if failures > FAILURES_MAX {
            bail!("{name} keeps ending, the last time with {status}");
        }
        println!("{name} has ended with {status}; starting it again");
        sleep(Duration::from_secs(u64::from(failures) - 1)).await;
        restart().await?;
    }
}

/// What clients talk to ends first, then what stores and what reads, then the servers.
async fn end(servers: &Servers, programs: &[Program], ports: &Ports) {
    let (chats, others) = programs.split_at(ports.chats.len());
    for group in [chats, others] {
        for ended in join_all(group.iter().map(Program::terminate)).await {
            say(ended);
        }
    }
    say(servers.terminate().await);
}

fn say(ended: Result<()>) {
    if let Err(error) = ended {
        eprintln!("{error:#}");
    }
}
