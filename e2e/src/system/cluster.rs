//! A cluster on one machine: several pods, workers and a history-service over shared servers, each of them behind a
//! proxy of its own to every server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::{Event, RoomId, Seq};
use testbed::Proxy;
use tokio::time::{Instant, sleep};

use super::broker::Broker;
use super::stored::Stored;
use super::{ADMIN_PORT, HTTP_PORT, Programs, Servers, System, clients, host, operators};
use crate::http::Http;
use crate::process::Process;

/// Processes that serve clients.
const PODS: usize = 3;
/// Shards of a session: a handful, so that each has several rooms.
const SHARDS: u16 = 3;
const WORKERS: usize = 2;
/// How long processes may take to make their first connections, tables and queues.
const WELL_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// A server, from the side of those who use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    Redis,
    RabbitMq,
    Mongo,
}

/// How processes find MongoDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MongoPath {
    /// By the names of the members, as drivers do; no proxy is in between.
    ReplicaSet,
    /// Only the present primary, through proxies. It must not change.
    Proxied,
}

/// What belongs to a cluster beside its processes.
pub struct Cluster {
    pub servers: Arc<Servers>,
    pub namespace: String,
    pub shards: u16,
    /// By process and server.
    pub links: BTreeMap<(String, Server), Proxy>,
    pub stored: Stored,
    /// Envelopes that were made to be parked.
    pub poisoned: u32,
}

impl Cluster {
    /// A connection to the broker, around all proxies.
    ///
    /// # Errors
    /// When the broker is away.
    pub async fn broker(&self) -> Result<Broker> {
        Broker::connect(&self.servers.rabbitmq.url(), &self.namespace, self.shards).await
    }

    /// Waits until a crash of the broker would keep this session's queues: RabbitMQ 3.10 writes the names of new ones
    /// down some seconds late.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn queues_are_written(&self) -> Result<()> {
        for queue in self.broker().await?.queues() {
            self.servers.rabbitmq.written(&queue).await?;
        }
        Ok(())
    }

    /// The proxies between the processes of a kind and a server.
    #[must_use]
    pub fn links(&self, kind: &str, to: Server) -> Vec<(&str, &Proxy)> {
        let all = self.links.iter();
        let of_it = all.filter(|((from, server), _)| from.starts_with(kind) && *server == to);
        of_it
            .map(|((from, _), proxy)| (from.as_str(), proxy))
            .collect()
    }

    /// All connections to Redis lead to another one from now on, but for those of `but`.
    ///
    /// # Errors
    /// When a proxy cannot listen any more.
    pub async fn move_redis(&self, to: SocketAddr, but: Option<&str>) -> Result<()> {
        for (from, proxy) in self.links("", Server::Redis) {
            if Some(from) != but {
                proxy.aim(to);
                proxy.cut().await;
                proxy.heal().await?;
            }
        }
        Ok(())
    }

    /// The logs as they lie in the database, when all of them reach as far as they should, or the time is over.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn stored(
        &self,
        ends: &BTreeMap<RoomId, Seq>,
        patience: Duration,
    ) -> Result<BTreeMap<RoomId, Vec<Arc<Event>>>> {
        let deadline = Instant::now() + patience;
        for (room, end) in ends {
            while self.stored.head(room).await? < *end && Instant::now() < deadline {
                sleep(POLL).await;
            }
        }
        let rooms: Vec<RoomId> = ends.keys().cloned().collect();
        self.stored.logs(&rooms).await
    }

    /// What is wrong beside what clients see: parked envelopes.
    ///
    /// # Errors
    /// When the broker is away.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let (parked, poisoned) = (self.broker().await?.parked().await?, self.poisoned);
        Ok(if parked == poisoned {
            Vec::new()
        } else {
            vec![format!(
                "{parked} envelopes are parked, and {poisoned} were poisoned"
            )]
        })
    }

    /// Removes what the session left on the servers.
    ///
    /// # Errors
    /// When a server is away.
    pub async fn clear(&self) -> Result<()> {
        let generation = self.stored.generation().await.unwrap_or_default();
        self.broker().await?.drop(generation).await?;
        self.stored.drop().await
    }
}

impl System {
    /// Starts a cluster with nothing in it.
    ///
    /// # Errors
    /// When a program is missing or does not start.
    pub async fn cluster(
        programs: &Programs,
        folder: &Path,
        servers: Arc<Servers>,
        namespace: &str,
        path: MongoPath,
    ) -> Result<Self> {
        servers.clear().await?;
        let mut cluster = Cluster {
            stored: Stored::new(&servers.mongo.url(), namespace).await?,
            servers,
            namespace: namespace.to_owned(),
            shards: SHARDS,
            links: BTreeMap::new(),
            poisoned: 0,
        };
        let mut processes = Vec::new();
        let history = cluster.process(programs, "history-service", "history-0", folder, path, None);
        let history = history.await?;
        let url = history.address().to_string();
        processes.push(history);
        for n in 0..PODS {
            let name = format!("pod-{n}");
            let pod = cluster.process(programs, "chat-service", &name, folder, path, Some(&url));
            processes.push(pod.await?);
        }
        for n in 0..WORKERS {
            let name = format!("worker-{n}");
            let worker = cluster.process(programs, "persistence-worker", &name, folder, path, None);
            processes.push(worker.await?);
        }
        for process in &mut processes {
            process.spawn()?;
        }
        for process in &mut processes {
            process.ready().await?;
        }
        for process in &processes {
            well(process).await?;
        }
        Ok(Self {
            processes,
            folder: folder.to_owned(),
            cluster: Some(cluster),
            disk: None,
        })
    }
}

impl Cluster {
    async fn process(
        &mut self,
        programs: &Programs,
        program: &str,
        name: &str,
        folder: &Path,
        path: MongoPath,
        history: Option<&str>,
    ) -> Result<Process> {
        let host = host();
        // A worker serves no clients.
        let is_worker = program == "persistence-worker";
        let mut env = if is_worker {
            operators(&host)
        } else {
            clients(&host)
        };
        let redis = self
            .link(name, Server::Redis, self.servers.redis().addr())
            .await?;
        let rabbitmq = self
            .link(name, Server::RabbitMq, self.servers.rabbitmq.addr())
            .await?;
        let mongodb = match path {
            MongoPath::ReplicaSet => self.servers.mongo.url(),
            MongoPath::Proxied => {
                let primary = self.servers.mongo.wait_for_primary().await?.addr();
                let proxy = self.link(name, Server::Mongo, primary).await?;
                format!("mongodb://{proxy}/?directConnection=true")
            }
        };
        let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
        set("DARDA_BACKEND", "cluster".to_owned());
        set("DARDA_REDIS_URL", format!("redis://{redis}"));
        set(
            "DARDA_RABBITMQ_URL",
            format!("amqp://guest:guest@{rabbitmq}/%2f"),
        );
        set("DARDA_MONGODB_URI", mongodb);
        set("DARDA_NAMESPACE", self.namespace.clone());
        set("DARDA_SHARDS", self.shards.to_string());
        if let Some(url) = history {
            set("DARDA_HISTORY_URL", url.to_owned());
        }
        let port = if is_worker { ADMIN_PORT } else { HTTP_PORT };
        let listens = SocketAddr::new(host.parse()?, port);
        let program = programs.path(program)?;
        Ok(Process::new(name, program, env, listens, folder))
    }

    async fn link(&mut self, from: &str, to: Server, target: SocketAddr) -> Result<SocketAddr> {
        let proxy = Proxy::start(target).await?;
        let addr = proxy.addr();
        self.links.insert((from.to_owned(), to), proxy);
        Ok(addr)
    }

    /// The proxy between a process and a server.
    ///
    /// # Errors
    /// When there is none.
    pub fn one(&self, from: &str, to: Server) -> Result<&Proxy> {
        let link = self.links.get(&(from.to_owned(), to));
        link.with_context(|| format!("there is no proxy between {from} and {to:?}"))
    }
}

/// Waits until a process says that it has all it needs.
async fn well(process: &Process) -> Result<()> {
    let deadline = Instant::now() + WELL_MAX;
    let http = Http::default();
    while let Err(error) = http.ready(&process.address()).await {
        if Instant::now() >= deadline {
            bail!("{} is not ready: {error}", process.name);
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// The cluster that a fault is made for.
pub(crate) fn needed(cluster: Option<&Cluster>) -> Result<&Cluster> {
    match cluster {
        Some(cluster) => Ok(cluster),
        None => bail!("this fault is for a cluster"),
    }
}
