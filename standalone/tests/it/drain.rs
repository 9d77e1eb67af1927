//! P8 as far as one process goes: it leaves in order. Clients are told, what is under way is answered, and what was
//! acked is there when the next one starts.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::chat::{Chat, Ended, new_id, send};
use crate::raw::Raw;
use crate::server::{PATIENCE, Server, Setup, eventually};

/// What a client knows when its connection has ended.
struct Left {
    acked: HashMap<String, u64>,
    unanswered: usize,
    goaway: Option<Value>,
    end: Ended,
}

/// Sends as fast as the server answers until it is asked to leave, then waits for the end.
async fn sender(mut chat: Chat) -> Left {
    chat.subscribe("busy", None).await;
    let mut left = Left {
        acked: HashMap::new(),
        unanswered: 0,
        goaway: None,
        end: Ended(None),
    };
    loop {
        if left.goaway.is_none() {
            let more = 16 - left.unanswered;
            chat.say_all((0..more).map(|n| send(&new_id(), "busy", &format!("{n}"))))
                .await;
            left.unanswered += more;
        }
        match chat.next().await {
            Ok(frame) if frame["type"] == "ack" => {
                let id = frame["id"].as_str().unwrap().to_owned();
                left.acked.insert(id, frame["seq"].as_u64().unwrap());
                left.unanswered -= 1;
            }
            Ok(frame) if frame["type"] == "error" => {
                assert_eq!(frame["code"], "unavailable", "{frame}");
                left.unanswered -= 1;
            }
            Ok(frame) if frame["type"] == "goaway" => left.goaway = Some(frame),
            Ok(_) => {}
            Err(end) => {
                left.end = end;
                return left;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_leave_leaves_nothing_behind() {
    const DRAIN: Duration = Duration::from_secs(6);
    let mut server = Setup::new()
        .with("DARDA_DRAIN_SECS", DRAIN.as_secs())
        .start()
        .await;
    let mut clients = Vec::new();
    for n in 0..4 {
        let chat = Chat::open(&server, &format!("sender-{n}")).await;
        clients.push(tokio::spawn(sender(chat)));
    }
    let mut quiet = Chat::open(&server, "quiet").await;
    quiet.subscribe("calm", None).await;
    // A connection that will turn into a WebSocket when it is too late for that.
    let mut late = TcpStream::connect(server.http).await.unwrap();
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    late.write_all(request.as_bytes()).await.unwrap();
    assert!(late.read(&mut [0; 1024]).await.unwrap() > 0);
    server
        .metric_becomes("chat_events_appended_total", |n| n > 300.0)
        .await;
    assert_eq!(server.readiness().await.0, 200);

    let told = Instant::now();
    server.terminate().await;
    eventually("draining", async || {
        let (status, state, _) = server.readiness().await;
        (status == 503 && state == "draining").then_some(())
    })
    .await;
    let newcomer = tokio::spawn({
        let address = server.http.to_string();
        async move { Chat::at(&address, "newcomer").await.map(|_| ()) }
    });
    let upgrade = "GET /v1/ws?id=late HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n\
                   connection: upgrade\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // It may be closed already.
    let _ = late.write_all(upgrade.as_bytes()).await;

    let goaway = quiet.of_type("goaway").await;
    assert_eq!(goaway["reason"], "rollout");
    let wait = Duration::from_millis(goaway["reconnect_in_ms"].as_u64().unwrap());
    assert!(wait <= DRAIN / 3, "{goaway}");
    assert_eq!(quiet.end().await, Some(1012));
    let mut acked = HashMap::new();
    for client in clients {
        let left = timeout(PATIENCE, client).await.unwrap().unwrap();
        assert!(left.goaway.is_some());
        assert_eq!((left.end, left.unanswered), (Ended(Some(1012)), 0));
        acked.extend(left.acked);
    }
    let status = server.ended().await;
    let took = told.elapsed();
    assert!(status.success(), "{status}: {}", server.log());
    assert!(took < DRAIN + Duration::from_secs(2), "{took:?}");
    assert_eq!(newcomer.await.unwrap(), Err(Ended(None)));
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, late.read_to_end(&mut rest))
        .await
        .unwrap();
    // Either it was no longer served, or told at once: a close frame with 1012.
    assert!(rest.is_empty() || rest.windows(2).any(|pair| pair == 1012_u16.to_be_bytes()));

    server.start_again().await;
    let log = server.log_of("busy", "judge").await;
    assert!(acked.len() > 100);
    for (id, seq) in &acked {
        assert_eq!(log[*seq as usize - 1]["id"], id.as_str());
    }
}

#[tokio::test]
async fn without_clients_it_leaves_at_once() {
    let mut server = Server::start().await;
    let begun = Instant::now();
    server.terminate().await;
    assert!(server.ended().await.success(), "{}", server.log());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_it_up() {
    let mut server = Setup::new().with("DARDA_DRAIN_SECS", 4).start().await;
    let mut stalled = Chat::open_narrow(&server, "stalled").await;
    stalled.subscribe("busy", None).await;
    let mut alice = Chat::open(&server, "alice").await;
    for _ in 0..400 {
        alice.send("busy", &"x".repeat(8000)).await;
    }
    server
        .metric_becomes("chat_slow_sessions", |n| n == 1.0)
        .await;
    drop(alice);
    let begun = Instant::now();
    server.terminate().await;
    assert!(server.ended().await.success(), "{}", server.log());
    assert!(
        begun.elapsed() < Duration::from_secs(7),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn clients_that_ask_and_do_not_listen_do_not_hold_up_the_others() {
    const DRAIN: Duration = Duration::from_secs(6);
    let mut server = Setup::new()
        .with("DARDA_DRAIN_SECS", DRAIN.as_secs())
        .start()
        .await;
    let mut alice = Chat::open(&server, "alice").await;
    for _ in 0..100 {
        alice.send("busy", &"x".repeat(8000)).await;
    }
    let mut greedy = Vec::new();
    for _ in 0..10 {
        let mut raw = Raw::open_as(&server, "alice").await;
        for _ in 0..10 {
            raw.text(r#"{"type":"fetch","ref":"f","room":"busy","after":0,"limit":100}"#)
                .await;
        }
        greedy.push(raw);
    }
    let mut polite = Vec::new();
    for n in 0..5 {
        polite.push(Chat::open(&server, &format!("polite-{n}")).await);
    }
    let told = Instant::now();
    server.terminate().await;
    for chat in &mut polite {
        chat.of_type("goaway").await;
        assert_eq!(chat.end().await, Some(1012));
    }
    assert!(told.elapsed() < DRAIN, "{:?}", told.elapsed());
    assert!(server.ended().await.success(), "{}", server.log());
}
