//! The program over the cluster family: real processes, real servers.
#![cfg(feature = "cluster")]

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use backend::cluster::Settings;
use backend::cluster::settings::Endpoint;
use client::Socket;
use protocol::{ClientFrame, MessageId, RoomId, Seq, ServerFrame, Subscribe, SubscribeRoom};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// No single thing that a test waits for takes longer than this, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running chat-service. Killed when dropped.
struct Pod {
    child: Child,
    http: SocketAddr,
    admin: SocketAddr,
}

fn chat_service() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-service"));
    command
        .env_clear()
        .env("DARDA_BACKEND", "cluster")
        .env("DARDA_HTTP_ADDR", "127.0.0.1:0")
        .env("DARDA_SHARDS", "2")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    command
}

impl Pod {
    /// Starts it with more variables and waits until it listens.
    async fn start(variables: &[(&str, &str)]) -> Self {
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
    async fn terminate(mut self) {
        let pid = self.child.id().expect("it runs").to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(told.unwrap().success());
        let ended = timeout(PATIENCE, self.child.wait()).await;
        assert!(ended.expect("it ends").unwrap().success());
    }

    async fn ready(&self) {
        eventually("ready", async || {
            ask(self.admin, "GET", "/readyz", "", Value::Null).await.0 == 200
        })
        .await;
    }

    /// Asks as a user; the answer must be good.
    async fn done(&self, method: &str, path: &str, user: &str, body: Value) -> Value {
        let (status, body) = ask(self.http, method, path, user, body).await;
        assert!(status < 300, "{method} {path}: {status} {body}");
        serde_json::from_str(&body).unwrap_or(Value::Null)
    }
}

/// One request on a connection of its own: status and body.
async fn ask(addr: SocketAddr, method: &str, path: &str, user: &str, body: Value) -> (u16, String) {
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

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A history-service over the same servers.
async fn history(
    settings: Settings,
) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let backends = backend::cluster::open(settings).await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let ended = shutdown.clone();
    let running = tokio::spawn(async move {
        history_service::run(backends.clone(), listener, admin, ended)
            .await
            .unwrap();
        backends.health.close().await;
    });
    (addr, shutdown, running)
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.to_owned(),
        verify: true,
        ca_file: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_and_a_history_are_one_chat() {
    if let Some(what) = testbed::missing() {
        println!("skipped: needs {what}");
        return;
    }
    let servers = testbed::shared().await;
    let namespace = testbed::namespace();
    let settings = Settings {
        redis: endpoint(&servers.redis_url),
        rabbitmq: endpoint(&servers.rabbitmq_url),
        mongodb: endpoint(&servers.mongodb_uri),
        namespace: namespace.clone(),
        shards: 2,
        backlog_max: 100_000,
    };
    let (history, shutdown, running) = history(settings).await;
    let history = format!("http://{history}");
    let variables = [
        ("DARDA_REDIS_URL", servers.redis_url.as_str()),
        ("DARDA_RABBITMQ_URL", &servers.rabbitmq_url),
        ("DARDA_MONGODB_URI", &servers.mongodb_uri),
        ("DARDA_NAMESPACE", &namespace),
        ("DARDA_HISTORY_URL", &history),
    ];
    let (here, there) = tokio::join!(Pod::start(&variables), Pod::start(&variables[..4]));
    tokio::join!(here.ready(), there.ready());

    let room = json!({"id": "general", "kind": "public"});
    here.done("POST", "/v1/rooms", "alice", room).await;
    there
        .done("PUT", "/v1/rooms/general/members/me", "bob", Value::Null)
        .await;
    let mut alice = Socket::open(&format!("ws://{}/v1/ws?id=alice", here.http))
        .await
        .unwrap();
    let rooms = vec![SubscribeRoom {
        room: RoomId::parse("general").unwrap(),
        after: Some(Seq::ZERO),
    }];
    let subscribe = Subscribe {
        reference: None,
        rooms,
    };
    alice
        .send(&ClientFrame::Subscribe(subscribe))
        .await
        .unwrap();
    let message = json!({"id": MessageId::generate().to_string(), "text": "hello from there"});
    let ack = there
        .done("POST", "/v1/rooms/general/messages", "bob", message)
        .await;
    let heard = async {
        loop {
            let frame = alice.next_frame().await.expect("an open socket");
            if let ServerFrame::Event(event) = frame
                && event.seq.get() == ack["seq"]
            {
                break;
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("alice hears bob");

    let path = "/v1/rooms/general/events?limit=200";
    let forwarded = here.done("GET", path, "alice", Value::Null).await;
    let in_process = there.done("GET", path, "alice", Value::Null).await;
    assert_eq!(forwarded, in_process);
    assert_eq!(
        forwarded["items"].as_array().unwrap().last().unwrap()["text"],
        "hello from there"
    );
    here.done("GET", "/v1/inbox", "bob", Value::Null).await;

    shutdown.cancel();
    running.await.unwrap();
    let (status, body) = ask(here.http, "GET", path, "alice", Value::Null).await;
    assert_eq!(status, 503, "{body}");
    there.done("GET", path, "alice", Value::Null).await;
    tokio::join!(here.terminate(), there.terminate());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_servers_it_starts_and_says_so() {
    let variables = [
        ("DARDA_REDIS_URL", "redis://127.0.0.1:1"),
        ("DARDA_RABBITMQ_URL", "amqp://127.0.0.1:1"),
        ("DARDA_MONGODB_URI", "mongodb://127.0.0.1:1"),
    ];
    let pod = Pod::start(&variables).await;
    assert_eq!(
        ask(pod.http, "GET", "/healthz", "", Value::Null).await.0,
        200
    );
    let (status, report) = ask(pod.http, "GET", "/readyz", "", Value::Null).await;
    assert_eq!(status, 503, "{report}");
    let metrics = ask(pod.admin, "GET", "/metrics", "", Value::Null).await.1;
    for dependency in ["redis", "rabbitmq", "mongodb"] {
        assert!(report.contains(dependency), "{report}");
        let line = format!("chat_dependency_up{{dependency=\"{dependency}\"}} 0");
        assert!(metrics.contains(&line), "{line} is missing in {metrics}");
    }
    let begun = Instant::now();
    let (status, problem) = ask(pod.http, "GET", "/v1/rooms/general", "alice", Value::Null).await;
    assert_eq!(status, 503, "{problem}");
    assert!(problem.contains("retry_after_ms"), "{problem}");
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    pod.terminate().await;
}

#[tokio::test]
async fn a_missing_address_stops_the_start_by_name() {
    let output = chat_service()
        .env("DARDA_REDIS_URL", "redis://127.0.0.1:1")
        .env("DARDA_RABBITMQ_URL", "amqp://127.0.0.1:1")
        .stderr(Stdio::piped())
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("DARDA_MONGODB_URI: "), "{said}");
}
