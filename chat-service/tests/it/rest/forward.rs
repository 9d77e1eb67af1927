//! History, asked of chat-service and answered by history-service.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backend::Backends;
use chat_service::History;
use chat_service::forward::Address;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Answer, Server, ask_at, id};

/// A running history-service.
struct HistoryService {
    addr: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl HistoryService {
    fn start(backends: &Backends, addr: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(addr).unwrap();
        let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let shutdown = CancellationToken::new();
        Self {
            addr: listener.local_addr().unwrap(),
            running: tokio::spawn(history_service::run(
                backends.clone(),
                listener,
                admin,
                shutdown.clone(),
            )),
            shutdown,
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn at(addr: SocketAddr) -> History {
    History::At(Address::try_from(format!("http://{addr}")).unwrap())
}

/// A chat-service and the history-service behind it.
async fn both() -> (Server, HistoryService) {
    let mut history = None;
    let server = Server::start_with(|backends| {
        let started = HistoryService::start(backends, "127.0.0.1:0".parse().unwrap());
        let addr = started.addr;
        history = Some(started);
        at(addr)
    })
    .await;
    (server, history.unwrap())
}

/// Somebody who takes requests in place of history-service, and does with each what `answer` does.
async fn stranger<F: Future<Output = ()> + Send + 'static>(
    answer: impl Fn(Request, TcpStream) -> F + Send + Sync + 'static,
) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let Some(head) = head(&mut stream).await else {
                    return;
                };
                answer(Request { number, head }, stream).await;
            });
        }
    });
    Server::start_with(|_| at(addr)).await
}

/// What came first on a connection.
struct Request {
    /// Which connection it was, from 0.
    number: u32,
    head: String,
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(bytes).unwrap())
}

async fn say(stream: &mut TcpStream, answer: &str) {
    stream.write_all(answer.as_bytes()).await.unwrap();
}

const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

const LATE: &str = "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

fn unavailable(answer: &Answer) {
    let problem = answer.expect(503);
    assert_eq!(problem["code"], "unavailable");
    assert_eq!(problem["retry_after_ms"], 1000);
    assert_eq!(answer.header("retry-after"), Some("1"));
}

async fn figure(server: &Server, outcome: &str) -> u64 {
    let line = format!("chat_history_forwards_total{{outcome=\"{outcome}\"}} ");
    let answer = ask_at(server.admin, "GET", "/metrics", "", "").await;
    let text = answer.text();
    let found = text.lines().find_map(|text| text.strip_prefix(&line));
    found.map_or(0, |figure| figure.parse().unwrap())
}

/// Says something in a room and returns the room's path.
async fn furnished(server: &Server, texts: impl IntoIterator<Item = String>) -> String {
    let room = server.room("alice", "private").await;
    let id = protocol::RoomId::parse(room.rsplit('/').next().unwrap()).unwrap();
    for text in texts {
        let append = backend::log::Append {
            room: id.clone(),
            from: protocol::UserId::parse("alice").unwrap(),
            id: protocol::MessageId::generate(),
            body: protocol::EventBody::Message {
                text,
                reply_to: None,
                meta: None,
            },
        };
        server.backends.log.append(append).await.unwrap();
    }
    room
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_had_through_the_front_door() {
    let (server, history) = both().await;
    let room = furnished(&server, ["an apple", "a pie"].map(str::to_owned)).await;
    for (path, status) in [
        (format!("{room}/events?limit=2"), 200),
        (format!("{room}/messages?limit=1"), 200),
        ("/v1/search?q=apple%20pie&limit=1".to_owned(), 200),
        ("/v1/inbox".to_owned(), 200),
        (format!("{room}/events?limit=0"), 400),
        ("/v1/rooms/none/messages".to_owned(), 404),
    ] {
        let head = "x-darda-user: alice\r\nx-request-id: 42\r\n";
        let through = server.ask_raw("GET", &path, head, "").await;
        let direct = ask_at(history.addr, "GET", &path, head, "").await;
        let body = through.expect(status);
        assert_eq!(body, direct.json(), "{path}");
        for name in [
            "content-type",
            "cache-control",
            "x-request-id",
            "content-length",
        ] {
            assert_eq!(through.header(name), direct.header(name), "{path} {name}");
        }
        assert_eq!(through.header("x-request-id"), Some("42"));
    }
    server
        .get("eve", &format!("{room}/events"))
        .await
        .expect_no_room();
    server.ask_raw("GET", "/v1/inbox", "", "").await.expect(401);
    server
        .ask("alice", "DELETE", "/v1/inbox", Value::Null)
        .await
        .expect(405);
    assert_eq!(figure(&server, "answered").await, 8);

    let description = server.get("alice", "/openapi.json").await.json();
    assert!(description["paths"]["/v1/search"]["get"].is_object());
    let messages = &description["paths"]["/v1/rooms/{id}/messages"];
    assert!(messages["get"].is_object() && messages["post"].is_object());
    server.stop().await;
    history.stop().await;
}

/// The whole of an export.
async fn export(addr: SocketAddr, room: &str) -> Vec<u8> {
    let path = format!("{room}/export");
    let answer = ask_at(addr, "GET", &path, "x-darda-user: alice\r\n", "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    let (mut rest, mut body) = (&answer.bytes[..], Vec::new());
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend(&rest[end + 2..][..length]);
        rest = &rest[end + 2 + length + 2..];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_passes_through_at_the_pace_of_its_reader() {
    let (server, history) = both().await;
    let room = furnished(
        &server,
        (0..1500).map(|n| format!("{n} {}", "x".repeat(16_000))),
    )
    .await;
    let through = export(server.addr, &room).await;
    assert_eq!(through.iter().filter(|&&byte| byte == b'\n').count(), 1502);
    assert!(through == export(history.addr, &room).await);

    // Somebody who takes their time holds up nobody, and may leave.
    let mut slow = TcpStream::connect(server.addr).await.unwrap();
    let request = format!(
        "GET {room}/export HTTP/1.1\r\nhost: {}\r\nx-darda-user: alice\r\n\r\n",
        server.addr
    );
    slow.write_all(request.as_bytes()).await.unwrap();
    let answer = head(&mut slow).await.unwrap();
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
    server.get("alice", "/v1/inbox").await.expect(200);
    drop(slow);
    server.stop().await;
    // Ends at once: no export is under way any more.
    let begun = Instant::now();
    history.stop().await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_history_chat_goes_on_and_history_comes_back() {
    let (server, history) = both().await;
    let room = furnished(&server, ["hello".to_owned()]).await;
    let path = format!("{room}/messages");
    let addr = history.addr;
    server.get("alice", &path).await.expect(200);
    history.stop().await;

    let begun = Instant::now();
    unavailable(&server.get("alice", &path).await);
    unavailable(&server.get("alice", "/v1/search?q=hello").await);
    assert!(begun.elapsed() < Duration::from_secs(2));
    let message = json!({"id": id(), "text": "still here"});
    server.post("alice", &path, message).await.expect(201);
    let ready = ask_at(server.admin, "GET", "/readyz", "", "").await;
    assert_eq!(ready.status, 200, "{}", ready.text());
    assert_eq!(figure(&server, "unavailable").await, 2);

    let history = HistoryService::start(&server.backends, addr);
    let page = server.get("alice", &path).await.expect(200);
    assert_eq!(page["items"][1]["text"], "still here");
    server.stop().await;
    history.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again_and_a_stale_one_is_not_noticed() {
    let connections = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&connections);
    let server = stranger(move |request, mut stream| {
        *seen.lock().unwrap() = request.number + 1;
        async move {
            for _ in 0..3 {
                say(&mut stream, EMPTY).await;
                if head(&mut stream).await.is_none() {
                    return;
                }
            }
            // The fourth request gets nothing, or this.
            if request.number == 0 {
                say(&mut stream, LATE).await;
            }
        }
    })
    .await;
    for _ in 0..7 {
        server.get("alice", "/v1/inbox").await.expect(200);
    }
    assert_eq!(*connections.lock().unwrap(), 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_one_connection_go_no_further() {
    let server = stranger(|request, mut stream| async move {
        let body = json!(request.head).to_string();
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nconnection: close, x-hop\r\nx-hop: 1\r\nx-end: 2\r\nset-cookie: a\r\n\
             set-cookie: b\r\ncache-control: no-store\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        say(&mut stream, &head).await;
    })
    .await;
    let head = "x-darda-user: alice\r\nte: trailers\r\nx-mine: 1\r\nexpect: nothing\r\n";
    let answer = server
        .ask_raw("GET", "/v1/search?q=%C3%A4+b", head, "")
        .await;
    let told = answer.expect(200);
    let told = told.as_str().unwrap();
    assert!(
        told.starts_with("GET /v1/search?q=%C3%A4+b HTTP/1.1\r\n"),
        "{told}"
    );
    for there in [
        "x-darda-user: alice",
        "x-mine: 1",
        "x-request-id: ",
        "host: 127.0.0.1",
        "via: 1.1 chat-service",
    ] {
        assert!(told.contains(there), "{there} is missing in {told}");
    }
    for gone in ["te: ", "connection: close", "content-length", "expect"] {
        assert!(
            !told.contains(&format!("\r\n{gone}")),
            "{gone} is in {told}"
        );
    }
    assert_eq!(answer.header("x-hop"), None);
    assert_eq!(answer.header("x-end"), Some("2"));
    assert_eq!(
        answer
            .headers
            .iter()
            .filter(|(name, _)| name == "set-cookie")
            .count(),
        2
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_of_history_service_means_that_it_is_away() {
    let server = stranger(|request, mut stream| async move {
        let answer = match request.head.split(['?', ' ']).nth(2).unwrap() {
            "nonsense" => "SSH-2.0-OpenSSH\r\n\r\n",
            "nothing" => "",
            "half" => "HTTP/1.1 200 OK\r\ncontent-le",
            "408" => LATE,
            "502" => "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno",
            "503" => "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nno",
            "504" => "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n",
            other => panic!("{other}"),
        };
        say(&mut stream, answer).await;
    })
    .await;
    for answer in ["nonsense", "nothing", "half", "408", "502", "503", "504"] {
        unavailable(&server.get("alice", &format!("/v1/inbox?{answer}")).await);
    }
    assert_eq!(figure(&server, "unavailable").await, 7);
    assert_eq!(figure(&server, "answered").await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_of_history_service_is_passed_on_as_it_is() {
    let problem = json!({
        "type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "mongodb: gone",
        "code": "unavailable", "retry_after_ms": 250,
    });
    let body = problem.to_string();
    let server = stranger(move |_, mut stream| {
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        async move { say(&mut stream, &answer).await }
    })
    .await;
    let answer = server.get("alice", "/v1/inbox").await;
    assert_eq!(answer.expect(503), problem);
    assert_eq!(figure(&server, "answered").await, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_does_not_look_complete() {
    let server = stranger(|request, mut stream| async move {
        let encoding = match request.number {
            0 => "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            _ => "content-length: 10\r\n\r\nhello",
        };
        say(&mut stream, &format!("HTTP/1.1 200 OK\r\n{encoding}")).await;
    })
    .await;
    for ending in ["0\r\n\r\n", "hellohello"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let request = format!(
            "GET /v1/rooms/a/export HTTP/1.1\r\nhost: {}\r\nx-darda-user: alice\r\n\r\n",
            server.addr
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The connection ends, one way or another, and it would not after a whole answer.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(
            !answer.ends_with(ending.as_bytes()),
            "{}",
            answer.escape_ascii()
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_after_a_while_and_waiting_is_bounded() {
    let server = stranger(|_, mut stream| async move {
        // Holds the connection for as long as the other side does.
        let _ = stream.read_u8().await;
    })
    .await;
    let begun = Instant::now();
    let waiting: Vec<_> =
        futures_util::future::join_all((0..300).map(|_| server.get("alice", "/v1/inbox"))).await;
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    let refused = |code: &str| {
        waiting
            .iter()
            .filter(|answer| answer.expect(503)["code"] == code)
            .count()
    };
    assert_eq!((refused("unavailable"), refused("overloaded")), (256, 44));
    assert_eq!(figure(&server, "overloaded").await, 44);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_back_is_found_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = Server::start_with(|_| at(addr)).await;
    let back = server.addr;
    tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            let mut there = TcpStream::connect(back).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut here, &mut there).await });
        }
    });
    let problem = server.get("alice", "/v1/inbox").await.expect(500);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("DARDA_HISTORY_URL")
    );
    server.stop().await;
}
