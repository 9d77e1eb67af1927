//! Traces of messages, as a receiver of OTLP gets them from real processes over real servers.

mod receiver;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{Authority, Servers};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use uuid::Uuid;

use crate::programs::programs;
use receiver::{Receiver, Seen};

/// No single thing that is waited for takes longer, on any machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Must not be in any trace.
const SECRET: &str = "the text of a message is nobody else's";

struct Stage {
    folder: TempDir,
    namespace: String,
    endpoint: String,
}

/// A process; killed when dropped.
struct Program {
    child: Child,
    http: SocketAddr,
    admin: SocketAddr,
    log: std::path::PathBuf,
}

impl Stage {
    fn new(endpoint: String) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            namespace: testbed::namespace(),
            endpoint,
        }
    }

    async fn start(&self, servers: &Servers, name: &str, more: &[(&str, &str)]) -> Program {
        let number = Uuid::new_v4().simple().to_string();
        let log = self.folder.path().join(format!("{name}-{number}"));
        // All of 127.0.0.0/8 is this machine, so a random address meets nobody else.
        let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
        let host = [127, a.max(1), b, c.clamp(1, 254)];
        let (http, admin) = (
            SocketAddr::from((host, 18_080)),
            SocketAddr::from((host, 19_090)),
        );
        let variables = BTreeMap::from([
            ("DARDA_BACKEND", "cluster".to_owned()),
            ("DARDA_AUTH_MODE", "open".to_owned()),
            ("DARDA_ALLOWED_ORIGINS", format!("http://{http}")),
            ("DARDA_HTTP_ADDR", http.to_string()),
            ("DARDA_ADMIN_ADDR", admin.to_string()),
            ("DARDA_REDIS_URL", servers.redis_url.clone()),
            ("DARDA_RABBITMQ_URL", servers.rabbitmq_url.clone()),
            ("DARDA_MONGODB_URI", servers.mongodb_uri.clone()),
            ("DARDA_NAMESPACE", self.namespace.clone()),
            ("DARDA_SHARDS", "2".to_owned()),
            ("DARDA_OTLP_ENDPOINT", self.endpoint.clone()),
            ("DARDA_OTLP_RATIO", "1".to_owned()),
            ("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=a-pod".to_owned()),
        ]);
        let output = File::create(&log).unwrap();
        let mut command = Command::new(programs().path(name).unwrap());
        command
            .env_clear()
            .envs(variables)
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        if name == "persistence-worker" {
            for unknown in [
                "DARDA_BACKEND",
                "DARDA_AUTH_MODE",
                "DARDA_ALLOWED_ORIGINS",
                "DARDA_HTTP_ADDR",
            ] {
                command.env_remove(unknown);
            }
        }
        let child = command.spawn().unwrap();
        let program = Program {
            child,
            http,
            admin,
            log,
        };
        eventually(&format!("{name} is ready"), async || {
            get(program.admin, "/readyz", &[]).is_ok_and(|(status, _)| status == 200)
        })
        .await;
        program
    }
}

impl Program {
    /// As Kubernetes ends it.
    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    fn metrics(&self) -> String {
        get(self.admin, "/metrics", &[]).unwrap().1
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(
            begun.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(10)));
    config.build().into()
}

fn get(at: SocketAddr, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<(u16, String)> {
    let mut request = agent().get(format!("http://{at}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = request.call()?;
    Ok((
        answer.status().as_u16(),
        answer.body_mut().read_to_string()?,
    ))
}

fn ask(method: &str, at: SocketAddr, path: &str, user: &str, more: &[(&str, &str)], body: Value) {
    let mut request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("http://{at}{path}"))
        .header("content-type", "application/json")
        .header("x-darda-user", user);
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    let request = request.body(body.to_string()).unwrap();
    let mut answer = agent().run(request).unwrap();
    let status = answer.status().as_u16();
    let body = answer.body_mut().read_to_string().unwrap();
    assert!(status < 300, "{method} {path}: {status} {body}");
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Somebody in the room.
async fn enter(pod: &Program, user: &str) -> Socket {
    let url = format!("ws://{}/v1/ws", pod.http);
    let mut request = url.into_client_request().unwrap();
    request
        .headers_mut()
        .insert("x-darda-user", user.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    say(&mut socket, json!({"type": "hello", "user": user})).await;
    hears(&mut socket, |frame| frame["type"] == "welcome").await;
    let rooms = json!([{"room": "general", "after": 0}]);
    say(&mut socket, json!({"type": "subscribe", "rooms": rooms})).await;
    hears(&mut socket, |frame| frame["type"] == "subscribed").await;
    socket
}

async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

async fn hears(socket: &mut Socket, wanted: impl Fn(&Value) -> bool) -> Value {
    let hearing = async {
        loop {
            let message = socket.next().await.expect("it is open").unwrap();
            if let Message::Text(text) = message {
                let frame: Value = serde_json::from_str(&text).unwrap();
                if wanted(&frame) {
                    return frame;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, hearing)
        .await
        .expect("it is heard")
}

async fn send(socket: &mut Socket) -> Uuid {
    let id = Uuid::now_v7();
    say(
        socket,
        json!({"type": "send", "id": id, "room": "general", "text": SECRET}),
    )
    .await;
    let of = |frame: &Value| frame["id"] == id.to_string();
    let answer = hears(socket, |frame| frame["type"] != "event" && of(frame)).await;
    assert_eq!(answer["type"], "ack", "{answer}");
    id
}

fn open_room(pod: &Program) {
    let room = json!({"id": "general", "kind": "public"});
    ask("POST", pod.http, "/v1/rooms", "alice", &[], room);
}

fn named<'a>(spans: &'a [Seen], name: &str) -> Vec<&'a Seen> {
    spans.iter().filter(|seen| seen.span.name == name).collect()
}

fn only<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    match named(spans, name)[..] {
        [only] => only,
        _ => panic!("not one {name} in {spans:#?}"),
    }
}

fn receiver_address() -> SocketAddr {
    let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
    SocketAddr::from(([127, a.max(1), b, c.clamp(1, 254)], 14_317))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_traced_from_the_socket_to_the_database() {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    let servers = testbed::shared().await;
    let receiver = Receiver::start(receiver_address()).await;
    let stage = Stage::new(receiver.url());
    let worker = stage.start(servers, "persistence-worker", &[]).await;
    let here = stage.start(servers, "chat-service", &[]).await;
    let there = stage.start(servers, "chat-service", &[]).await;
    open_room(&here);
    ask(
        "PUT",
        there.http,
        "/v1/rooms/general/members/me",
        "bob",
        &[],
        Value::Null,
    );
    let mut alice = enter(&here, "alice").await;
    let mut bob = enter(&there, "bob").await;
    let id = send(&mut alice).await;
    hears(&mut bob, |frame| {
        frame["text"] == SECRET || frame["body"]["text"] == SECRET
    })
    .await;

    // Its trace has its id, and ends in the database and with both readers.
    let trace = id.simple().to_string();
    eventually("its spans arrive", async || {
        let spans = receiver.trace(&trace);
        !named(&spans, "send").is_empty()
            && !named(&spans, "store").is_empty()
            && named(&spans, "deliver").len() >= 2
    })
    .await;
    let spans = receiver.trace(&trace);
    let [first, number, publish, store, insert] =
        ["send", "number", "publish", "store", "insert"].map(|name| only(&spans, name));
    for (span, service, parent, kind) in [
        (first, "chat-service", String::new(), SpanKind::Server),
        (number, "chat-service", first.id(), SpanKind::Client),
        (publish, "chat-service", first.id(), SpanKind::Producer),
        (
            store,
            "persistence-worker",
            publish.id(),
            SpanKind::Consumer,
        ),
        (insert, "persistence-worker", store.id(), SpanKind::Client),
    ] {
        assert_eq!(span.service, service, "{span:#?}");
        assert_eq!(span.parent(), parent, "{span:#?}");
        assert_eq!(span.span.kind(), kind, "{span:#?}");
        assert!(span.span.end_time_unix_nano > span.span.start_time_unix_nano);
    }
    for deliver in named(&spans, "deliver") {
        assert_eq!(deliver.parent(), first.id());
    }
    // What comes later began later, and the whole lasted longer than its parts.
    let begins = [first, number, publish, store, insert].map(|seen| seen.span.start_time_unix_nano);
    assert!(begins.is_sorted(), "{begins:?}");
    assert!(first.span.end_time_unix_nano >= publish.span.end_time_unix_nano);
    assert!(store.span.end_time_unix_nano >= insert.span.end_time_unix_nano);
    assert_eq!(first.attribute("room.id").as_deref(), Some("general"));
    assert!(
        first
            .attribute("session.id")
            .is_some_and(|id| id.len() == 36)
    );
    assert_eq!(store.attribute("room.seq"), first.attribute("room.seq"));

    // A figure leads to a trace of those it was made of.
    for histogram in [
        "chat_send_ack_seconds_bucket",
        "chat_delivery_seconds_bucket",
    ] {
        eventually("an exemplar", async || {
            let metrics = here.metrics();
            let mut lines = metrics.lines().filter(|line| line.starts_with(histogram));
            lines.any(|line| line.contains(&format!("# {{trace_id=\"{trace}\"}}")))
        })
        .await;
    }

    // The last one is not lost when a process ends.
    let last = send(&mut alice).await.simple().to_string();
    here.terminate();
    assert_eq!(only(&receiver.trace(&last), "send").service, "chat-service");
    drop(worker);
    let everything = format!("{:?}", receiver.seen());
    assert!(!everything.contains(SECRET), "a text is in a trace");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_goes_on_with_the_trace_of_its_sender() {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    let servers = testbed::shared().await;
    let receiver = Receiver::start(receiver_address()).await;
    let stage = Stage::new(receiver.url());
    let history = stage.start(servers, "history-service", &[]).await;
    let url = history.url();
    let none = [
        ("DARDA_HISTORY_URL", url.as_str()),
        ("DARDA_OTLP_RATIO", "0"),
    ];
    let pod = stage.start(servers, "chat-service", &none).await;
    open_room(&pod);
    let trace = Uuid::new_v4().simple().to_string();
    let parent = "b7ad6b7169203331";
    let recorded = format!("00-{trace}-{parent}-01");
    let id = Uuid::now_v7();
    let body = json!({"id": id, "text": SECRET});
    let path = "/v1/rooms/general/messages";
    ask(
        "POST",
        pod.http,
        path,
        "alice",
        &[("traceparent", &recorded)],
        body,
    );
    let headers = [("x-darda-user", "alice"), ("traceparent", &*recorded)];
    assert_eq!(get(pod.http, path, &headers).unwrap().0, 200);

    eventually("its spans arrive", async || {
        receiver.trace(&trace).len() >= 3 && receiver.trace(&id.simple().to_string()).len() >= 3
    })
    .await;
    let spans = receiver.trace(&trace);
    let of = |name: &str, service: &str| {
        let mut found = spans
            .iter()
            .filter(|seen| seen.span.name == name && seen.service == service);
        found
            .next()
            .unwrap_or_else(|| panic!("no {name} of {service} in {spans:#?}"))
    };
    let post = of("POST /v1/rooms/{id}/messages", "chat-service");
    assert_eq!(post.parent(), parent);
    assert_eq!(
        post.attribute("http.response.status_code").as_deref(),
        Some("201")
    );
    let read = of("GET /v1/rooms/{id}/messages", "history-service");
    let forwarded = spans.iter().find(|seen| seen.id() == read.parent());
    assert_eq!(forwarded.map(|seen| &*seen.service), Some("chat-service"));
    assert_eq!(forwarded.map(Seen::parent).as_deref(), Some(parent));
    // The message has a trace of its own, which the request points to.
    let way = receiver.trace(&id.simple().to_string());
    let first = only(&way, "send");
    let links = |seen: &Seen| -> Vec<Vec<u8>> {
        seen.span
            .links
            .iter()
            .map(|link| link.span_id.clone())
            .collect()
    };
    assert_eq!(links(first), std::slice::from_ref(&post.span.span_id));
    assert_eq!(links(post), std::slice::from_ref(&first.span.span_id));

    // Who says that a trace is not recorded has none, and neither has nonsense.
    let unrecorded = [
        format!("00-{}-{parent}-00", Uuid::new_v4().simple()),
        "00-x".to_owned(),
    ]
    .map(|unrecorded| {
        let id = Uuid::now_v7();
        let body = json!({"id": id, "text": SECRET});
        let headers = [("traceparent", unrecorded.as_str())];
        ask("POST", pod.http, path, "alice", &headers, body);
        (unrecorded, id.simple().to_string())
    });
    // Whatever there is of them is sent at the end.
    pod.terminate();
    history.terminate();
    for (traceparent, id) in &unrecorded {
        assert_eq!(receiver.trace(id).len(), 0, "{traceparent}");
    }
    let of_requests = receiver.seen().into_iter().filter(|seen| {
        seen.span.name.starts_with("POST ") && seen.span.name.ends_with("/messages")
    });
    assert_eq!(of_requests.count(), 1, "{:#?}", receiver.seen());
    assert!(!format!("{:?}", receiver.seen()).contains(SECRET));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_receiver_people_chat_as_ever() {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    let servers = testbed::shared().await;
    let address = receiver_address();
    let stage = Stage::new(format!("http://{address}"));
    let pod = stage.start(servers, "chat-service", &[]).await;
    open_room(&pod);
    let mut alice = enter(&pod, "alice").await;
    let lost = |program: &Program| {
        let metrics = program.metrics();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("chat_otlp_spans_lost_total "));
        line.expect("it is counted").parse::<u64>().unwrap()
    };
    send(&mut alice).await;
    eventually("spans are lost", async || lost(&pod) > 0).await;
    let before = lost(&pod);
    send(&mut alice).await;
    eventually("more are lost", async || lost(&pod) > before).await;
    let said = |what: &str| pod.log().matches(what).count();
    assert_eq!(said("traces cannot be sent"), 1, "{}", pod.log());

    let receiver = Receiver::start(address).await;
    assert_eq!(receiver.address(), address);
    send(&mut alice).await;
    eventually("the receiver gets spans", async || {
        send(&mut enter(&pod, "alice").await).await;
        !receiver.seen().is_empty()
    })
    .await;
    eventually("it is said", async || said("traces are sent again") == 1).await;
    pod.terminate();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_with_tls_is_trusted_by_its_authority_alone() {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    let servers = testbed::shared().await;
    let address = receiver_address();
    let authority = Authority::new().unwrap();
    let certificate = authority.certify(&[&address.ip().to_string()]).unwrap();
    let receiver = Receiver::start_with(address, Some(&certificate)).await;
    let stage = Stage::new(receiver.url());
    let stranger = Authority::new().unwrap();
    let of = |authority: &Authority| authority.file().to_str().unwrap().to_owned();
    for (file, is_trusted) in [
        (Some(of(&authority)), true),
        (Some(of(&stranger)), false),
        (None, false),
    ] {
        let more = file
            .as_deref()
            .map(|file| [("DARDA_OTLP_CA_FILE", file)].to_vec());
        let pod = stage
            .start(servers, "chat-service", &more.unwrap_or_default())
            .await;
        let traceparent = format!("00-{}-b7ad6b7169203331-01", Uuid::new_v4().simple());
        let headers = [("x-darda-user", "alice"), ("traceparent", &*traceparent)];
        get(pod.http, "/v1/rooms", &headers).unwrap();
        let trace = &traceparent[3..35];
        let name = if is_trusted { "sent" } else { "lost" };
        let counted = format!("chat_otlp_spans_{name}_total ");
        eventually(&counted, async || {
            let metrics = pod.metrics();
            let count = metrics
                .lines()
                .find_map(|line| line.strip_prefix(&*counted));
            count.is_some_and(|count| count != "0")
        })
        .await;
        assert_eq!(!receiver.trace(trace).is_empty(), is_trusted, "{file:?}");
        pod.terminate();
    }
}

#[test]
fn what_is_no_receiver_is_refused_at_the_start() {
    for (name, value, right) in [
        (
            "DARDA_OTLP_ENDPOINT",
            "collector:4317",
            "http://collector:4317",
        ),
        ("DARDA_OTLP_RATIO", "2", "from 0 to 1"),
        ("DARDA_OTLP_RATIO", "often", "DARDA_OTLP_RATIO"),
        ("DARDA_OTLP_CA_FILE", "/nowhere", "cannot read /nowhere"),
    ] {
        let output = Command::new(programs().path("chat-service").unwrap())
            .env_clear()
            .env("DARDA_BACKEND", "cluster")
            .env("DARDA_OTLP_ENDPOINT", "https://collector:4317")
            .env(name, value)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(said.contains(name) && said.contains(right), "{said}");
    }
}
