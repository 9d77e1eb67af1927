//! The REST surface, asked over real sockets, on the embedded family.

mod forward;
mod invites;
mod members;
mod messages;
mod outage;
mod page;
mod rooms;
mod sockets;
mod visibility;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use backend::Backends;
use chat_service::{Config, History, Service};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running chat-service with a folder of its own.
struct Server {
    addr: SocketAddr,
    admin: SocketAddr,
    backends: Backends,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    _data: TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(|_| History::Here).await
    }

    /// A server whose history is answered by somebody; `who` is given what it would be read from.
    async fn start_with(who: impl FnOnce(&Backends) -> History) -> Self {
        Self::start_over(|_| {}, who).await
    }

    /// A server over backends of which some were replaced.
    async fn start_over(
        replace: impl FnOnce(&mut Backends),
        who: impl FnOnce(&Backends) -> History,
    ) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut backends = backend::open(backend::Config::Embedded {
            data_dir: data.path().to_owned(),
        })
        .await
        .unwrap();
        replace(&mut backends);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut config = Config::default();
        // What is tested here is not how fast one may be.
        config.limits.joins_per_sec = 10_000;
        config.gateway.http_workers = Some(1);
        let service = Service {
            program: "chat-service",
            config,
            backends: backends.clone(),
            history: who(&backends),
        };
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin_addr = admin.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = chat_service::run(service, listener, admin, shutdown.clone());
        let running = tokio::spawn(served);
        Self {
            addr,
            admin: admin_addr,
            backends,
            shutdown,
            running,
            _data: data,
        }
    }

    /// Stops the server and waits for its end.
    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }

    /// Asks as a user, with a JSON body unless it is null.
    async fn ask(&self, user: &str, method: &str, path: &str, body: Value) -> Answer {
        let mut head = format!("x-darda-user: {user}\r\n");
        let body = if body.is_null() {
            String::new()
        } else {
            head.push_str("content-type: application/json\r\n");
            body.to_string()
        };
        self.ask_raw(method, path, &head, &body).await
    }

    async fn get(&self, user: &str, path: &str) -> Answer {
        self.ask(user, "GET", path, Value::Null).await
    }

    async fn post(&self, user: &str, path: &str, body: Value) -> Answer {
        self.ask(user, "POST", path, body).await
    }

    async fn put(&self, user: &str, path: &str) -> Answer {
        self.ask(user, "PUT", path, Value::Null).await
    }

    async fn patch(&self, user: &str, path: &str, body: Value) -> Answer {
        self.ask(user, "PATCH", path, body).await
    }

    async fn delete(&self, user: &str, path: &str) -> Answer {
        self.ask(user, "DELETE", path, Value::Null).await
    }

    /// One request on a connection of its own, headers as they are.
    async fn ask_raw(&self, method: &str, path: &str, head: &str, body: &str) -> Answer {
        ask_at(self.addr, method, path, head, body).await
    }

    /// Makes a room as `owner` and returns its path.
    async fn room(&self, owner: &str, kind: &str) -> String {
        let made = self.post(owner, "/v1/rooms", json!({"kind": kind})).await;
        let room = made.expect(201);
        format!("/v1/rooms/{}", room["id"].as_str().unwrap())
    }

    /// Makes a room of three: `owner`, `admin` and `member`.
    async fn room_of_three(&self, kind: &str) -> String {
        let room = self.room("owner", kind).await;
        for user in ["admin", "member"] {
            self.put("owner", &format!("{room}/members/{user}"))
                .await
                .expect(201);
        }
        let path = format!("{room}/members/admin");
        self.patch("owner", &path, json!({"role": "admin"}))
            .await
            .expect(200);
        room
    }

    /// The kinds and changes of everything in a room's log.
    async fn log(&self, room: &str) -> Vec<String> {
        let id = protocol::RoomId::parse(room.rsplit('/').next().unwrap()).unwrap();
        let page = self
            .backends
            .log
            .read(&id, protocol::Seq::ZERO, 1000)
            .await
            .unwrap();
        page.events
            .iter()
            .map(|event| {
                let event = serde_json::to_value(event).unwrap();
                let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
                match event["kind"].as_str().unwrap() {
                    "member" => format!("{} {}", word("user"), word("change")),
                    kind => format!("{kind} {}{}", word("change"), word("text")),
                }
            })
            .collect()
    }
}

/// One request on a connection of its own, to any server.
async fn ask_at(addr: SocketAddr, method: &str, path: &str, head: &str, body: &str) -> Answer {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {}\r\n{head}\r\n{body}",
        body.len(),
    );
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        Answer::read(&answer)
    };
    tokio::time::timeout(Duration::from_secs(10), exchange)
        .await
        .unwrap_or_else(|_| panic!("{method} {path} was not answered"))
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    bytes: Vec<u8>,
}

impl Answer {
    fn read(answer: &[u8]) -> Self {
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a head");
        let head = std::str::from_utf8(&answer[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        Self {
            status: status.parse().unwrap(),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            bytes: answer[end + 4..].to_vec(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(known, _)| known == name);
        let value = all.next().map(|(_, value)| value.as_str());
        assert!(all.next().is_none(), "{name} is there twice");
        value
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The body of an answer with this status.
    #[track_caller]
    fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        if status < 300 {
            assert_eq!(self.header("cache-control"), Some("no-store"));
        } else {
            assert_eq!(
                self.header("content-type"),
                Some("application/problem+json")
            );
            assert_eq!(self.json()["status"], status);
        }
        self.json()
    }

    /// Expects a refusal because of one field.
    #[track_caller]
    fn expect_field(&self, field: &str) {
        let problem = self.expect(400);
        assert_eq!(problem["code"], "bad_request");
        assert_eq!(problem["errors"][0]["field"], field, "{}", self.text());
    }

    /// Expects the words for a room that does not exist.
    #[track_caller]
    fn expect_no_room(&self) {
        let problem = self.expect(404);
        let expected = json!({
            "type": "about:blank", "title": "Not Found", "status": 404, "detail": "no such room", "code": "not_found",
        });
        assert_eq!(problem, expected);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A fresh message id.
fn id() -> String {
    protocol::MessageId::generate().to_string()
}
