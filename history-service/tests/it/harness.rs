//! A running history-service with rooms and messages in it, and a small HTTP client.

use std::net::{SocketAddr, TcpListener};

use backend::directory::{Changed, NewRoom, RoomKind};
use backend::log::Append;
use backend::{Backends, Config};
use futures_util::future::join_all;
use protocol::{EventBody, MessageId, Role, RoomId, Seq, Timestamp, UserId};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub struct Service {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    pub backends: Backends,
    pub shutdown: CancellationToken,
    pub server: JoinHandle<anyhow::Result<()>>,
    pub data: TempDir,
}

pub fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub fn room(name: &str) -> RoomId {
    RoomId::parse(name).unwrap()
}

pub fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

pub fn text(words: &str) -> EventBody {
    EventBody::Message {
        text: words.to_owned(),
        reply_to: None,
        meta: None,
    }
}

impl Service {
    pub async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = Config::Embedded {
            data_dir: data.path().to_owned(),
        };
        let backends = backend::open(config).await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let admin = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let shutdown = CancellationToken::new();
        Self {
            addr: listener.local_addr().unwrap(),
            admin: admin.local_addr().unwrap(),
            server: tokio::spawn(history_service::run(
                backends.clone(),
                listener,
                admin,
                shutdown.clone(),
            )),
            backends,
            shutdown,
            data,
        }
    }

    /// Makes a room of `owner`, without telling its log, so that seqs begin with the test's own events.
    pub async fn room(&self, id: &str, kind: RoomKind, owner: &str) {
        let new = NewRoom {
            id: room(id),
            kind,
            name: String::new(),
            topic: String::new(),
            by: user(owner),
            at: Timestamp::now(),
        };
        let made = self
            .backends
            .directory
            .create_room(new, None)
            .await
            .unwrap();
        self.hush(made).await;
    }

    pub async fn join(&self, id: &str, who: &str) {
        let directory = &self.backends.directory;
        let (id, who) = (room(id), user(who));
        let joined = directory.put_member(&id, &who, Role::Member, &who).await;
        self.hush(joined.unwrap()).await;
    }

    async fn hush<T>(&self, changed: Changed<T>) {
        self.backends
            .directory
            .announced(&changed.announce)
            .await
            .unwrap();
    }

    /// Appends one event and returns its seq.
    pub async fn append(&self, id: &str, from: &str, body: EventBody) -> Seq {
        let append = Append {
            room: room(id),
            from: user(from),
            id: MessageId::generate(),
            body,
        };
        self.backends.log.append(append).await.unwrap().event.seq
    }

    /// Appends many events in their order.
    pub async fn append_all(&self, id: &str, from: &str, bodies: impl Iterator<Item = EventBody>) {
        let bodies: Vec<EventBody> = bodies.collect();
        for some in bodies.chunks(100) {
            let appends = some.iter().map(|body| self.append(id, from, body.clone()));
            join_all(appends).await;
        }
    }

    /// Asks as a user.
    pub async fn get(&self, who: &str, path: &str) -> Answer {
        ask(self.addr, "GET", path, &[("x-darda-user", who)]).await
    }

    /// Asks as a user and expects a page.
    pub async fn page(&self, who: &str, path: &str) -> Value {
        let answer = self.get(who, path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// One request on a connection of its own.
pub async fn ask(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: darda\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    parse(&answer)
}

fn parse(answer: &[u8]) -> Answer {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap()["HTTP/1.1 ".len()..][..3]
        .parse()
        .unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = answer[end + 4..].to_vec();
    if headers.contains(&("transfer-encoding".to_owned(), "chunked".to_owned())) {
        body = unchunk(&body);
    }
    Answer {
        status,
        headers,
        body,
    }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|w| w == b"\r\n").unwrap();
        let size = std::str::from_utf8(&bytes[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[line + 2..line + 2 + size]);
        bytes = &bytes[line + 2 + size + 2..];
    }
}

/// The seqs of a page.
pub fn seqs(page: &Value) -> Vec<u64> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["seq"].as_u64().unwrap())
        .collect()
}
