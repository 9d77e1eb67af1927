//! A cluster of Darda on this machine: `make cluster`. Whatever ends by itself is started again, so that one can kill any
//! part and watch the rest.

mod program;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::{join_all, try_join_all};
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use crate::process::{Data, Folder};
use crate::{Flavour, Generation, Mongo, RabbitMq, Redis, RedisOptions};
use program::Program;

/// Always the same, because the replica set remembers its own, and others than those of servers of the system.
const REDIS: u16 = 16_379;
const RABBITMQ: u16 = 15_673;
const MONGODB: u16 = 17_017;

const CHATS: [u16; 2] = [8080, 8081];
const HISTORY: u16 = 8082;
/// Of the first program; each of the others has the next one.
const ADMIN: u16 = 9090;

const POLL: Duration = Duration::from_millis(100);
/// A part that ends sooner than this has failed. One that fails so often in a row is given up.
const STEADY: Duration = Duration::from_secs(10);
const FAILURES_MAX: u32 = 5;

/// Runs two of chat-service, two of persistence-worker and one of history-service over servers of their own until SIGINT or
/// SIGTERM, with the servers' data in the folder. The programs are those beside this one. A second signal ends all at once.
///
/// # Errors
/// If a part does not start or keeps ending.
pub async fn cluster(folder: &Path) -> Result<()> {
    let mut signals = Signals::new()?;
    println!(
        "starting Redis, RabbitMQ and MongoDB, with data and logs in {}",
        folder.display()
    );
    let servers = tokio::select! {
        servers = Servers::start(folder) => servers?,
        () = signals.next() => return Ok(()),
    };
    let programs = programs(&servers)?;
    let ended = tokio::select! {
        Err(error) = announce() => Err(error),
        Err(error) = keep_all(&servers, &programs) => Err(error),
        () = signals.next() => Ok(()),
    };
    println!("ending");
    tokio::select! {
        () = end(&servers, &programs) => ended,
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
    async fn start(folder: &Path) -> Result<Self> {
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
        let (redis, rabbitmq, mongo) = tokio::try_join!(
            Redis::start_in(kept("redis"), Some(REDIS), Flavour::Installed, options),
            RabbitMq::start_in(kept("rabbitmq"), Some(RABBITMQ), Generation::Installed),
            Mongo::start_in(vec![kept("mongodb")], &[MONGODB]),
        )?;
        Ok(Self {
            redis,
            rabbitmq,
            mongo,
        })
    }

    /// What tells a program of them.
    fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("DARDA_BACKEND", "cluster".to_owned()),
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
fn programs(servers: &Servers) -> Result<Vec<Program>> {
    let beside = beside()?;
    let http = |port: u16| ("DARDA_HTTP_ADDR", format!("127.0.0.1:{port}"));
    let history = ("DARDA_HISTORY_URL", format!("http://127.0.0.1:{HISTORY}"));
    let open = ("DARDA_AUTH_MODE", "open".to_owned());
    let mut wanted = Vec::new();
    for (i, port) in CHATS.into_iter().enumerate() {
        let variables = vec![http(port), history.clone(), open.clone()];
        wanted.push(("chat-service", format!("chat-{}", i + 1), variables));
    }
    wanted.push(("persistence-worker", "worker-1".to_owned(), vec![]));
    wanted.push(("persistence-worker", "worker-2".to_owned(), vec![]));
    wanted.push(("history-service", "history".to_owned(), vec![http(HISTORY)]));
    let numbered = (ADMIN..).zip(wanted);
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

/// Says where the chat is as soon as all of it answers; then waits for ever.
async fn announce() -> Result<()> {
    for port in CHATS.into_iter().chain([HISTORY]) {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            sleep(POLL).await;
        }
    }
    println!(
        "\nDarda is listening on http://127.0.0.1:{} and http://127.0.0.1:{}\n",
        CHATS[0], CHATS[1]
    );
    std::future::pending().await
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
async fn end(servers: &Servers, programs: &[Program]) {
    let (chats, others) = programs.split_at(CHATS.len());
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
