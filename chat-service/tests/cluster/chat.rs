//! The program over the family: two processes, and without servers.

use std::process::Stdio;
use std::time::Duration;

use client::Socket;
use protocol::{ClientFrame, MessageId, RoomId, Seq, ServerFrame, Subscribe, SubscribeRoom};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::stage::{PATIENCE, Pod, Stage, ask, chat_service};

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_and_a_history_are_one_chat() {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    let stage = Stage::new(testbed::shared().await);
    let history = stage.history(None).await;
    let url = history.url();
    let forwarding = [("DARDA_HISTORY_URL", url.as_str())];
    let (here, there) = tokio::join!(stage.pod(&forwarding), stage.pod(&[]));
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

    history.end().await;
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
