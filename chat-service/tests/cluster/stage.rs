//! The processes of a cluster over servers that a test chose.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use backend::cluster::Settings;
use backend::cluster::settings::Endpoint;
use serde_json::Value;
use testbed::Servers;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// No single thing that a test waits for takes longer than this, on any machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Servers, and a name of its own on them.
pub struct Stage {
    servers: Servers,
    pub namespace: String,
}

impl Stage {
    pub fn new(servers: &Servers) -> Self {
        Self {
            servers: servers.clone(),
            namespace: testbed::namespace(),
        }
    }

    /// A chat-service with more variables, listening.
    pub async fn pod(&self, more: &[(&str, &str)]) -> Pod {
        let mut variables = vec![
            ("DARDA_REDIS_URL", self.servers.redis_url.as_str()),
            ("DARDA_RABBITMQ_URL", &self.servers.rabbitmq_url),
            ("DARDA_MONGODB_URI", &self.servers.mongodb_uri),
            ("DARDA_NAMESPACE", &self.namespace),
            // The tests are those who send too much, and who do not listen for a while.
            ("DARDA_LIMIT_SENDS_PER_SEC", "100000"),
            ("DARDA_LIMIT_SENDS_BURST", "100000"),
            ("DARDA_HEARTBEAT_SECS", "600"),
        ];
        variables.extend(more);
        Pod::start(&variables).await
    }

    /// A persistence-worker.
    pub fn worker(&self) -> Running {
        let (admin, shutdown) = (listener(), CancellationToken::new());
        let addr = admin.local_addr().unwrap();
        let config = persistence_worker::Config {
            settings: self.settings(),
            admin_addr: addr,
            drain: Duration::from_secs(20),
        };
        let ended = shutdown.clone();
        let task = tokio::spawn(async move {
            persistence_worker::run(config, admin, ended).await.unwrap();
        });
        Running {
            http: addr,
            admin: addr,
            shutdown,
            task,
        }
    }

    /// A history-service, at this address if there is one.
    pub async fn history(&self, at: Option<SocketAddr>) -> Running {
        let backends = backend::cluster::open(self.settings()).await.unwrap();
        let http = at.map_or_else(listener, |at| TcpListener::bind(at).unwrap());
        let (admin, shutdown) = (listener(), CancellationToken::new());
        let addrs = (http.local_addr().unwrap(), admin.local_addr().unwrap());
        let ended = shutdown.clone();
        let task = tokio::spawn(async move {
            history_service::run(backends.clone(), http, admin, ended)
                .await
                .unwrap();
            backends.health.close().await;
        });
        Running {
            http: addrs.0,
            admin: addrs.1,
            shutdown,
            task,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            redis: endpoint(&self.servers.redis_url),
            rabbitmq: endpoint(&self.servers.rabbitmq_url),
            mongodb: endpoint(&self.servers.mongodb_uri),
            namespace: self.namespace.clone(),
            shards: SHARDS,
            backlog_max: 100_000,
        }
    }
}

pub const SHARDS: u16 = 2;

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.to_owned(),
        verify: true,
        ca_file: None,
    }
}

/// A service that runs in the test's own process.
pub struct Running {
    pub http: SocketAddr,
    pub admin: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// As SIGTERM does.
    pub async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// A running chat-service. Killed when dropped.
pub struct Pod {
    child: Child,
    pub http: SocketAddr,
    pub admin: SocketAddr,
}

pub fn chat_service() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-service"));
    command
        .env_clear()
        .env("DARDA_BACKEND", "cluster")
        .env("DARDA_HTTP_ADDR", "127.0.0.1:0")
        .env("DARDA_SHARDS", SHARDS.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    command
}

impl Pod {
    /// Starts it with more variables and waits until it listens.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        // All of 127.0.0.0/8 is this machine, so a random address meets nobody else.
        let [a, b, c, ..] = *uuid::Uuid::new_v4().as_bytes();
        let admin = SocketAddr::from(([127, a.max(1), b, c.clamp(1, 254)], 19_090));
        let mut child = chat_service()
            .env("DARDA_ADMIN_ADDR", admin.to_string())
            .envs(variables.iter().copied())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
        let http = line
            .as_deref()
            .and_then(|line| line.strip_prefix("Darda is listening on http://"));
        let http = http.expect("it listens").parse().unwrap();
        Self { child, http, admin }
    }

    /// Ends it as Kubernetes does.
    pub async fn terminate(mut self) {
        let pid = self.child.id().expect("it runs").to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(told.unwrap().success());
        let ended = timeout(PATIENCE, self.child.wait()).await;
        assert!(ended.expect("it ends").unwrap().success());
    }

    pub async fn ready(&self) {
        ready(self.admin).await;
    }

    /// Asks as a user; the answer must be good.
    pub async fn done(&self, method: &str, path: &str, user: &str, body: Value) -> Value {
        let (status, body) = ask(self.http, method, path, user, body).await;
        assert!(status < 300, "{method} {path}: {status} {body}");
        serde_json::from_str(&body).unwrap_or(Value::Null)
    }

    /// Reads as a user: status and body.
    pub async fn read(&self, path: &str, user: &str) -> (u16, Value) {
        let (status, body) = ask(self.http, "GET", path, user, Value::Null).await;
        let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
        (status, body)
    }
}

/// Waits until a process wants work.
pub async fn ready(admin: SocketAddr) {
    eventually("ready", async || {
        ask(admin, "GET", "/readyz", "", Value::Null).await.0 == 200
    })
    .await;
}

/// One request on a connection of its own: status and body.
pub async fn ask(
    addr: SocketAddr,
    method: &str,
    path: &str,
    user: &str,
    body: Value,
) -> (u16, String) {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let user = if user.is_empty() {
        String::new()
    } else {
        format!("x-darda-user: {user}\r\n")
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-type: application/json\r\n{user}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let talk = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(PATIENCE, talk).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Asks processes all the time whether they are alive.
pub struct Liveness {
    over: CancellationToken,
    watching: JoinHandle<usize>,
}

impl Liveness {
    pub fn watch(addrs: Vec<SocketAddr>) -> Self {
        let over = CancellationToken::new();
        let until = over.clone();
        let watching = tokio::spawn(async move {
            let mut asked = 0;
            while !until.is_cancelled() {
                for addr in &addrs {
                    let (status, body) = ask(*addr, "GET", "/healthz", "", Value::Null).await;
                    assert_eq!(status, 200, "/healthz of {addr}: {body}");
                }
                asked += 1;
                sleep(Duration::from_millis(100)).await;
            }
            asked
        });
        Self { over, watching }
    }

    /// All of them were, all the time.
    pub async fn was_green(self) {
        self.over.cancel();
        assert!(self.watching.await.expect("every answer was 200") > 0);
    }
}

/// What Redis answers to a command without spaces in its arguments; an array is not understood.
pub async fn redis(addr: SocketAddr, command: &str) -> String {
    let talk = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let line = format!("{command}\r\n");
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        stream.read_line(&mut head).await.unwrap();
        let Some(length) = head.trim().strip_prefix('$') else {
            return head.trim().to_owned();
        };
        let mut text = vec![0; length.parse().unwrap_or(0)];
        stream.read_exact(&mut text).await.unwrap();
        String::from_utf8(text).unwrap()
    };
    timeout(PATIENCE, talk).await.expect("Redis answers")
}
