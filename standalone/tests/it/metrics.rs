//! What operators see: the names that dashboards and alerts are written against, and that the values move.

use serde_json::{Value, json};

use crate::chat::{Chat, new_id, send};
use crate::http;
use crate::server::{Server, eventually};

#[tokio::test]
async fn the_figures_follow_what_happens() {
    let server = Server::start().await;
    let text = server.metrics().await;
    for name in [
        "chat_connections gauge",
        "chat_subscriptions gauge",
        "chat_slow_sessions gauge",
        "chat_events_appended counter",
        "chat_deliveries counter",
        "chat_send_ack_seconds histogram",
        "chat_delivery_seconds histogram",
        "chat_resume_gap counter",
        "chat_log_violations counter",
        "chat_duplicate_sends counter",
    ] {
        assert!(
            text.contains(&format!("# TYPE {name}\n")),
            "{name} is missing in {text}"
        );
    }
    for must_stay in ["chat_resume_gap_total", "chat_log_violations_total"] {
        assert_eq!(server.metric(must_stay).await, 0.0);
    }
    assert!(
        text.contains("chat_build_info{program=\"standalone\""),
        "{text}"
    );
    assert!(server.metric("process_resident_memory_bytes").await > 1e6);
    assert!(server.metric("process_open_fds").await > 3.0);

    let mut alice = Chat::open(&server, "alice").await;
    let mut bob = Chat::open(&server, "bob").await;
    for chat in [&mut alice, &mut bob] {
        chat.subscribe("general", None).await;
    }
    let appended = server.metric("chat_events_appended_total").await;
    let acks = server.metric("chat_send_ack_seconds_count").await;
    let delivered = server.metric("chat_deliveries_total").await;
    for n in 0..10 {
        alice.send("general", &format!("{n}")).await;
    }
    while bob.event().await["text"] != "9" {}
    assert_eq!(server.metric("chat_connections").await, 2.0);
    assert_eq!(server.metric("chat_subscriptions").await, 2.0);
    assert_eq!(
        server.metric("chat_events_appended_total").await,
        appended + 10.0
    );
    assert_eq!(
        server.metric("chat_send_ack_seconds_count").await,
        acks + 10.0
    );
    server
        .metric_becomes("chat_deliveries_total", |n| n >= delivered + 20.0)
        .await;
    assert!(server.metric("chat_delivery_seconds_count").await > 0.0);

    let again = send(&new_id(), "general", "twice");
    alice.answer(again.clone()).await;
    alice.answer(again).await;
    assert_eq!(server.metric("chat_duplicate_sends_total").await, 1.0);
    alice.refusal(json!({"type": "nonsense"})).await;
    assert_eq!(
        server
            .metric("chat_refusals_total{code=\"bad_request\"}")
            .await,
        1.0
    );
    for chat in [&mut alice, &mut bob] {
        chat.say(json!({"type": "unsubscribe", "rooms": ["general"]}))
            .await;
        chat.of_type("unsubscribed").await;
    }
    assert_eq!(server.metric("chat_subscriptions").await, 0.0);
    drop((alice, bob));
    server
        .metric_becomes("chat_connections", |n| n == 0.0)
        .await;
}

#[tokio::test]
async fn the_store_is_a_dependency_and_it_is_up() {
    let server = Server::start().await;
    let name = "chat_dependency_up{dependency=\"database\"}";
    eventually(name, async || {
        server
            .metrics()
            .await
            .contains(&format!("{name} 1"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn health_is_told_on_both_ports_and_figures_on_one() {
    let server = Server::start().await;
    for (addr, path, status) in [
        (server.http, "/healthz", 200),
        (server.http, "/readyz", 200),
        (server.http, "/metrics", 404),
        (server.admin, "/healthz", 200),
        (server.admin, "/readyz", 200),
        (server.admin, "/metrics", 200),
        (server.admin, "/v1/rooms", 404),
    ] {
        let answer = http::request(addr, "GET", path, Some("alice"), Value::Null).await;
        assert_eq!(answer.unwrap().status, status, "{path} at {addr}");
    }
}
