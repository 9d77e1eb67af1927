//! What operators see: `/metrics` of every process, and its page.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};
use testbed::{Data, Redis, RedisOptions, Servers};

use crate::people::Person;
use crate::stage::{Stage, ask, eventually, ready};

const PAGE: &str = include_str!("../../../docs/metrics.md");

/// All of it.
pub async fn scrape(admin: SocketAddr) -> String {
    let (status, text) = ask(admin, "GET", "/metrics", "", Value::Null).await;
    assert_eq!(status, 200, "{text}");
    text
}

/// A sample, named as it is scraped, with its labels.
pub async fn value(admin: SocketAddr, sample: &str) -> Option<f64> {
    let text = scrape(admin).await;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

async fn reaches(admin: SocketAddr, sample: &str, least: f64) {
    eventually(sample, async || {
        value(admin, sample)
            .await
            .is_some_and(|value| value >= least)
    })
    .await;
}

async fn becomes(admin: SocketAddr, sample: &str, wanted: f64) {
    eventually(sample, async || value(admin, sample).await == Some(wanted)).await;
}

/// The names of what is scraped, as the page has them.
async fn names(admin: SocketAddr) -> BTreeSet<String> {
    let text = scrape(admin).await;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(
            |line| match line.split_once(' ').expect("a name and a type") {
                (name, "counter") => format!("{name}_total"),
                (name, "info") => format!("{name}_info"),
                (name, _) => name.to_owned(),
            },
        )
        .collect()
}

/// The lines of the page about one program: the names, and whether they have labels.
fn documented(program: &str) -> Vec<(String, bool)> {
    let lines = PAGE.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, _, programs, _] = cells[..] else {
            return None;
        };
        let name = name.strip_prefix('`')?.strip_suffix('`')?;
        let is_of = programs == "all" || programs.split(", ").any(|other| other == program);
        let (bare, labels) = name.split_once('{').unwrap_or((name, ""));
        is_of.then(|| (bare.to_owned(), !labels.is_empty()))
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_counts_and_the_page_names_it_all() {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    let own = Redis::start(RedisOptions::default()).await.unwrap();
    let stage = Stage::new(&Servers {
        redis_url: own.url(),
        ..testbed::shared().await.clone()
    });
    let worker = stage.worker();
    let history = stage.history(None).await;
    let (here, there) = tokio::join!(stage.pod(&[]), stage.pod(&[]));
    let admins = [here.admin, there.admin, history.admin, worker.admin];
    for admin in admins {
        ready(admin).await;
    }
    let room = json!({"id": "general", "kind": "public"});
    here.done("POST", "/v1/rooms", "alice", room).await;
    there
        .done("PUT", "/v1/rooms/general/members/me", "bob", Value::Null)
        .await;
    let mut alice = Person::enter(&here, "alice", 0).await;
    let mut bob = Person::enter(&there, "bob", 0).await;
    alice.say("one").await;
    bob.hears("one").await;
    reaches(here.admin, "chat_log_numbered_total", 1.0).await;
    reaches(here.admin, "chat_publish_confirmed_total", 1.0).await;
    reaches(here.admin, "chat_publish_envelopes_total", 1.0).await;
    reaches(there.admin, "chat_relay_rooms", 1.0).await;
    reaches(worker.admin, "chat_persist_events_total", 1.0).await;
    reaches(worker.admin, "chat_persist_marks_total", 1.0).await;
    becomes(here.admin, "chat_publish_waiting", 0.0).await;
    // The first event of a room may come by another way than the relay: its route is young.
    let sent = async || {
        let sent = value(here.admin, "chat_relay_events_sent_total").await;
        let came = value(there.admin, "chat_relay_events_received_total").await;
        sent.zip(came)
            .is_some_and(|(sent, came)| sent >= 1.0 && came >= 1.0)
    };
    let mut number = 0;
    while !sent().await {
        number += 1;
        assert!(number < 100, "nothing is relayed");
        alice.say(&format!("more {number}")).await;
        bob.hears(&format!("more {number}")).await;
    }

    here.read("/v1/search?q=one", "alice").await;
    reaches(here.admin, "chat_search_seconds_count", 1.0).await;
    let sample = r#"chat_http_request_seconds_count{method="GET",route="/v1/search",status="2xx"}"#;
    reaches(here.admin, sample, 1.0).await;
    reaches(here.admin, "chat_connections_opened_total", 1.0).await;
    for dependency in ["redis", "rabbitmq", "mongodb"] {
        let sample = format!("chat_dependency_call_seconds_count{{dependency=\"{dependency}\"}}");
        reaches(here.admin, &sample, 1.0).await;
    }

    for admin in admins {
        becomes(admin, "chat_draining", 0.0).await;
        becomes(admin, "chat_generation", 0.0).await;
        becomes(admin, "chat_dependency_up{dependency=\"redis\"}", 1.0).await;
        becomes(admin, "chat_breaker_open{dependency=\"redis\"}", 0.0).await;
    }
    own.kill();
    for admin in admins {
        becomes(admin, "chat_dependency_up{dependency=\"redis\"}", 0.0).await;
        becomes(admin, "chat_breaker_open{dependency=\"redis\"}", 1.0).await;
        reaches(
            admin,
            "chat_breaker_opened_total{dependency=\"redis\"}",
            1.0,
        )
        .await;
        becomes(admin, "chat_dependency_up{dependency=\"mongodb\"}", 1.0).await;
    }
    let unavailable = "{code=\"unavailable\"}";
    let failures = format!("chat_send_failures_total{unavailable}");
    let refusals = format!("chat_http_refusals_total{unavailable}");
    let before = value(here.admin, &failures).await.unwrap();
    let message = json!({"id": uuid::Uuid::now_v7(), "text": "lost"});
    let path = "/v1/rooms/general/messages";
    let (status, body) = ask(here.http, "POST", path, "alice", message).await;
    assert_eq!(status, 503, "{body}");
    becomes(here.admin, &failures, before + 1.0).await;
    becomes(here.admin, &refusals, 1.0).await;
    own.restart(Data::Wiped).await.unwrap();
    alice.say("two").await;
    bob.hears("two").await;
    for admin in admins {
        reaches(admin, "chat_generation", 1.0).await;
        becomes(admin, "chat_dependency_up{dependency=\"redis\"}", 1.0).await;
        becomes(admin, "chat_breaker_open{dependency=\"redis\"}", 0.0).await;
    }
    let raised = async |admin| value(admin, "chat_generations_raised_total").await.unwrap();
    let all = raised(here.admin).await + raised(there.admin).await + raised(history.admin).await;
    assert!(all >= 1.0, "somebody raised it");

    for (program, admin) in [
        ("chat-service", here.admin),
        ("history-service", history.admin),
        ("persistence-worker", worker.admin),
    ] {
        let scraped = names(admin).await;
        let page = documented(program);
        for name in &scraped {
            let is_known = page.iter().any(|(known, _)| known == name);
            assert!(is_known, "docs/metrics.md has no {name} of {program}");
        }
        for (name, has_labels) in page {
            // With labels there is nothing to scrape before something has happened.
            let is_there = scraped.contains(&name) || has_labels;
            assert!(is_there, "{program} has no {name}");
        }
    }
    here.terminate().await;
    there.terminate().await;
    history.end().await;
    worker.end().await;
}
