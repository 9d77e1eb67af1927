//! The program under test, as an operator runs it: environment in, signals in, exit code out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::http::{self, Answer};

/// No single thing that a test waits for takes longer than this, on any machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

const PROGRAM: &str = env!("CARGO_BIN_EXE_standalone");

/// How a server is to be started.
pub struct Setup {
    env: BTreeMap<String, String>,
    data: PathBuf,
    /// Removed with the server.
    folder: Option<TempDir>,
}

/// A running server. Killed when dropped.
pub struct Server {
    setup: Setup,
    child: Child,
    log: Arc<Mutex<String>>,
    pub http: SocketAddr,
    pub admin: SocketAddr,
}

impl Setup {
    /// A server with a folder of its own, on addresses of its own, that does not limit how fast tests send.
    ///
    /// All of 127.0.0.0/8 is this machine, so a random address there with a fixed port meets no other test, and a
    /// restarted server is found where it was.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
        let host = format!("127.{}.{b}.{}", a.max(1), c.clamp(1, 254));
        let setup = Self {
            env: BTreeMap::new(),
            data: folder.path().to_owned(),
            folder: Some(folder),
        };
        setup
            .with("DARDA_HTTP_ADDR", format!("{host}:18080"))
            .with("DARDA_ADMIN_ADDR", format!("{host}:19090"))
            .with("DARDA_LIMIT_SENDS_PER_SEC", 100_000)
            .with("DARDA_LIMIT_SENDS_BURST", 100_000)
            .with("DARDA_LIMIT_JOINS_PER_SEC", 10_000)
            .with("DARDA_LIMIT_CONNECTIONS_PER_USER", 1000)
    }

    /// Sets a variable.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// Uses another data folder.
    pub fn in_folder(mut self, data: &Path) -> Self {
        self.data = data.to_owned();
        self
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .env_clear()
            .env("DARDA_DATA_DIR", &self.data)
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Starts the server and waits until it listens.
    pub async fn start(self) -> Server {
        let (child, log, http) = launch(&self).await;
        let admin = self.env["DARDA_ADMIN_ADDR"].parse().unwrap();
        Server {
            setup: self,
            child,
            log,
            http,
            admin,
        }
    }

    /// Runs a server that must refuse to start; what it says, and how it ends.
    pub async fn refuses(self) -> String {
        let output = timeout(PATIENCE, self.command().output())
            .await
            .expect("the program neither starts nor ends")
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success(),
            "it started and ended well: {said}"
        );
        assert!(output.stdout.is_empty(), "it said that it listens");
        said
    }
}

async fn launch(setup: &Setup) -> (Child, Arc<Mutex<String>>, SocketAddr) {
    let mut child = setup.command().spawn().unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let mut stderr = child.stderr.take().unwrap();
    let kept = Arc::clone(&log);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..n]);
            kept.lock().unwrap().push_str(&text);
        }
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line())
        .await
        .expect("the server does not start")
        .unwrap();
    let address = line
        .as_deref()
        .and_then(|line| line.strip_prefix("Darda is listening on http://"))
        .unwrap_or_else(|| panic!("{line:?}; it said: {}", log.lock().unwrap()));
    (child, log, address.parse().unwrap())
}

impl Server {
    /// Like [`Setup::start`], with nothing changed.
    pub async fn start() -> Self {
        Setup::new().start().await
    }

    /// Ends the process as a power switch would: at once, in the middle of anything.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again on the same folder and address.
    pub async fn start_again(&mut self) {
        let (child, log, http) = launch(&self.setup).await;
        (self.child, self.log, self.http) = (child, log, http);
    }

    /// Ends the process and starts it again on the same folder and address.
    pub async fn kill_and_start_again(&mut self) {
        self.kill().await;
        self.start_again().await;
    }

    /// Asks it to end, as Kubernetes and systemd do.
    pub async fn terminate(&self) {
        let pid = self.child.id().expect("it runs").to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(told.unwrap().success());
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the server does not end").unwrap()
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn data(&self) -> &Path {
        &self.setup.data
    }

    /// Ends it well and gives its folder back, for another server to be started on it.
    pub async fn into_setup(mut self) -> Setup {
        self.terminate().await;
        assert!(self.ended().await.success(), "{}", self.log());
        let setup = std::mem::replace(&mut self.setup, Setup::new());
        debug_assert!(setup.folder.is_some());
        setup
    }

    /// Memory in use that is the process's own, in KiB. Pages of files do not count.
    pub fn memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id().expect("it runs"));
        let status = std::fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB").trim();
        kib.parse().unwrap()
    }

    /// Asks over HTTP on behalf of a user.
    pub async fn ask(&self, method: &str, path: &str, user: &str, body: Value) -> Answer {
        http::request(self.http, method, path, Some(user), body)
            .await
            .unwrap_or_else(|error| panic!("{method} {path}: {error}; {}", self.log()))
    }

    /// As [`ask`](Self::ask), and the answer must be a good one.
    pub async fn done(&self, method: &str, path: &str, user: &str, body: Value) -> Value {
        let answer = self.ask(method, path, user, body).await;
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer.json()
    }

    /// All of a room's log, through the HTTP API.
    pub async fn log_of(&self, room: &str, user: &str) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        loop {
            let after = events
                .last()
                .map_or(0, |event| event["seq"].as_u64().unwrap());
            let path = format!("/v1/rooms/{room}/events?after={after}&limit=200");
            let page = self.done("GET", &path, user, Value::Null).await;
            let items = page["items"].as_array().unwrap();
            if items.is_empty() {
                assert_eq!(page["head"], after);
                return events;
            }
            events.extend(items.iter().cloned());
        }
    }

    /// A metric without labels, or with those in `name`.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("{name} is missing in {text}"))
            .parse()
            .unwrap()
    }

    /// All metrics.
    pub async fn metrics(&self) -> String {
        let answer = http::request(self.admin, "GET", "/metrics", None, Value::Null).await;
        answer.unwrap().body
    }

    /// Waits until a metric is as it should be.
    pub async fn metric_becomes(&self, name: &str, right: impl Fn(f64) -> bool) -> f64 {
        eventually(name, async || {
            Some(self.metric(name).await).filter(|v| right(*v))
        })
        .await
    }

    /// `/readyz` on the operators' port: status, state and what it says about the database.
    pub async fn readiness(&self) -> (u16, String, Value) {
        let answer = http::request(self.admin, "GET", "/readyz", None, Value::Null).await;
        let answer = answer.unwrap();
        let report = answer.json();
        let state = report["status"].as_str().unwrap().to_owned();
        (answer.status, state, report["checks"].clone())
    }
}

/// Asks again and again until there is an answer.
pub async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
        sleep(Duration::from_millis(20)).await;
    }
}
