//! P6, a slow reader costs a cursor, not a buffer: readers who stop reading, for a while or for good, in the middle of
//! a load that would fill any queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::chat::{Chat, Ended, new_id, send};
use crate::raw::{FIN, Got, PING, PONG, Raw, TEXT};
use crate::server::{Server, Setup};

/// The text of each message. Large, so that queues would show.
const TEXT_BYTES: usize = 16_000;

/// Sends many messages, a few at a time; when each was acked, by seq.
async fn pump(chat: &mut Chat, room: &str, count: usize) -> Vec<(u64, Instant)> {
    let text = "x".repeat(TEXT_BYTES);
    let (mut acks, mut sent) = (Vec::new(), 0);
    while acks.len() < count {
        let more = (count - sent).min(8 - (sent - acks.len()));
        chat.say_all((0..more).map(|_| send(&new_id(), room, &text)))
            .await;
        sent += more;
        let ack = chat.of_type("ack").await;
        acks.push((ack["seq"].as_u64().unwrap(), Instant::now()));
    }
    acks
}

/// Reads events, each after the one before, up to `last`; when each came.
async fn read_to(chat: &mut Chat, mut position: u64, last: u64) -> Vec<(u64, Instant)> {
    let mut came = Vec::new();
    while position < last {
        let event = chat.event().await;
        assert_eq!(event["prev"], position, "a hole");
        position = event["seq"].as_u64().unwrap();
        came.push((position, Instant::now()));
    }
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_who_stop_cost_little_delay_nobody_and_miss_nothing() {
    const STALLED: usize = 10;
    const WARM_UP: usize = 1500;
    const MESSAGES: usize = 4000;
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    alice.send("busy", "to make the room").await;
    let mut lively = Chat::open(&server, "lively").await;
    let start = lively.subscribe("busy", None).await["after"]
        .as_u64()
        .unwrap();

    // Whatever the load costs anyway (rings, pages of the database, arenas of the allocator) is there before it is
    // measured: the same load goes on until it no longer makes the process larger.
    let mut warm = start;
    for round in 0.. {
        let before = server.memory_kib();
        let acks = pump(&mut alice, "busy", WARM_UP).await;
        let (last, _) = *acks.last().unwrap();
        read_to(&mut lively, warm, last).await;
        warm = last;
        if server.memory_kib() < before + 512 {
            break;
        }
        assert!(
            round < 12,
            "memory grows without end: {} KiB",
            server.memory_kib()
        );
    }

    let mut stalled = Vec::new();
    let mut begin = 0;
    for n in 0..STALLED {
        let mut chat = Chat::open_narrow(&server, &format!("stalled-{n}")).await;
        begin = chat.subscribe("busy", None).await["after"]
            .as_u64()
            .unwrap();
        stalled.push((begin, chat));
    }
    let last = begin + MESSAGES as u64;
    let listening = tokio::spawn(async move { read_to(&mut lively, warm, last).await });
    let before = server.memory_kib();
    let acks = pump(&mut alice, "busy", MESSAGES).await;
    let came = listening.await.unwrap();
    let after = server.memory_kib();

    // Even one queue that all of them share would hold everything that was sent. How much the allocator keeps comes and
    // goes by some MiB.
    let growth = after.saturating_sub(before) as usize * 1024;
    println!("{STALLED} stalled readers of {MESSAGES} messages: {before} KiB, then {after} KiB");
    assert!(
        growth < MESSAGES * TEXT_BYTES / 2,
        "{before} KiB before, {after} KiB after"
    );
    for ((seq, acked), (_, came)) in acks.iter().zip(came.iter().skip(STALLED)) {
        let late = came.saturating_duration_since(*acked);
        assert!(
            late < Duration::from_secs(5),
            "{seq} came {late:?} after its ack"
        );
    }
    // Those who came last are behind by almost all of it.
    assert_eq!(server.metric("chat_slow_sessions").await, STALLED as f64);

    stalled.truncate(3);
    for (position, chat) in &mut stalled {
        read_to(chat, *position, last).await;
    }
    server
        .metric_becomes("chat_slow_sessions", |n| n == 0.0)
        .await;
    let seq = alice.send("busy", "live again").await;
    for (_, chat) in &mut stalled {
        assert_eq!(chat.event().await["seq"], seq);
    }
    assert_eq!(server.metric("chat_resume_gap_total").await, 0.0);
}

#[tokio::test]
async fn readers_who_are_far_behind_at_many_places_cost_little_each() {
    const READERS: u64 = 60;
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let acks = pump(&mut alice, "old", 1300).await;
    let (last, _) = *acks.last().unwrap();
    let mut whole = Chat::open(&server, "alice").await;
    whole.subscribe("old", 0).await;
    read_to(&mut whole, 0, last).await;
    let before = server.memory_kib();
    let mut readers = Vec::new();
    for n in 0..READERS {
        let mut chat = Chat::open_narrow(&server, "alice").await;
        let subscribe = json!([{"room": "old", "after": n * 20}]);
        chat.say(json!({"type": "subscribe", "ref": "s", "rooms": subscribe}))
            .await;
        chat.of_type("subscribed").await;
        readers.push((n * 20, chat));
    }
    server
        .metric_becomes("chat_slow_sessions", |n| n == READERS as f64)
        .await;
    let after = server.memory_kib();
    println!("{READERS} readers far behind: {before} KiB, then {after} KiB");
    assert!(
        after < before + 48 * 1024,
        "{before} KiB before, {after} KiB after"
    );
    for (position, chat) in readers.iter_mut().step_by(20) {
        read_to(chat, *position, last).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_never_comes_back_is_let_go() {
    let server = Setup::new().with("DARDA_HEARTBEAT_SECS", 1).start().await;
    let mut lively = Chat::open(&server, "lively").await;
    assert_eq!(lively.welcome["heartbeat_secs"], 1);
    lively.subscribe("busy", None).await;
    let mut gone = Chat::open_narrow(&server, "gone").await;
    gone.subscribe("busy", None).await;
    let mut alice = Chat::open(&server, "alice").await;
    let enough = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&enough);
    let load = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            pump(&mut alice, "busy", 32).await;
        }
    });
    let offline = |frame: &Value| {
        frame["type"] == "presence" && frame["user"] == "gone" && frame["status"] == "offline"
    };
    let begun = Instant::now();
    lively.until(offline).await;
    assert!(
        begun.elapsed() > Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    enough.store(true, Ordering::Relaxed);
    load.await.unwrap();
    server
        .metric_becomes("chat_connections", |n| n == 1.0)
        .await;
    // What is left of it in the reader's own kernel, and then the end.
    while gone.next().await.is_ok() {}
}

#[tokio::test]
async fn who_answers_no_ping_is_let_go_and_who_does_stays() {
    let server = Setup::new().with("DARDA_HEARTBEAT_SECS", 1).start().await;
    let mut deaf = Raw::open_as(&server, "deaf").await;
    let mut quiet = Raw::open_as(&server, "quiet").await;
    let listening = tokio::spawn(async move {
        let mut pings = 0;
        while pings < 5 {
            match quiet.next().await {
                Got::Ping(payload) => {
                    pings += 1;
                    quiet.frame(FIN | PONG, &payload).await;
                }
                Got::Frame(_) => {}
                other => panic!("{other:?}"),
            }
        }
        quiet
    });
    let mut pings = 0;
    let end = loop {
        match deaf.next().await {
            Got::Ping(_) => pings += 1,
            Got::Frame(_) => {}
            other => break other,
        }
    };
    assert_eq!((pings, end), (2, Got::Close(4408)));
    let mut quiet = listening.await.unwrap();
    quiet.frame(FIN | PING, b"here").await;
    while quiet.next().await != Got::Pong(b"here".to_vec()) {}
}

#[tokio::test]
async fn who_asks_and_does_not_listen_is_not_answered_into_memory() {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    pump(&mut alice, "long", 200).await;
    let fetch = json!({"type": "fetch", "room": "long", "after": 0, "limit": 200}).to_string();
    let mut warm = Raw::open_as(&server, "alice").await;
    for _ in 0..4 {
        warm.text(&fetch).await;
        warm.of_type("events").await;
    }
    let before = server.memory_kib();
    let mut greedy = Vec::new();
    for _ in 0..3 {
        // Each question is worth 3 MiB.
        let mut raw = Raw::open_as(&server, "alice").await;
        for _ in 0..50 {
            raw.frame(FIN | TEXT, fetch.as_bytes()).await;
        }
        greedy.push(raw);
    }
    // The server has taken what it wants to take when others were served for a while.
    for _ in 0..20 {
        pump(&mut alice, "other", 10).await;
    }
    let after = server.memory_kib();
    println!("questions worth 450 MiB: {before} KiB, then {after} KiB");
    assert!(
        after < before + 40 * 1024,
        "{before} KiB before, {after} KiB after"
    );
    // When they listen, they get all answers.
    for raw in &mut greedy {
        for _ in 0..50 {
            let page = raw.of_type("events").await;
            assert_eq!(page["events"][199]["seq"], 200);
        }
    }
}

#[tokio::test]
async fn nobody_is_kept_waiting_by_a_flood_of_pings() {
    let server = Server::start().await;
    let mut raw = Raw::open_as(&server, "mallory").await;
    let before = server.memory_kib();
    let ping = crate::raw::frame(FIN | PING, &[b'p'; 125]).repeat(500);
    // Until the server stops taking more than it can answer.
    let mut sent = 0;
    while sent < 1000
        && let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(500), raw.bytes(&ping)).await
    {
        sent += 1;
    }
    let mut alice = Chat::open(&server, "alice").await;
    alice.send("calm", "hello").await;
    let after = server.memory_kib();
    assert!(
        after < before + 8 * 1024,
        "{before} KiB before, {after} KiB after {sent} pings"
    );
    assert!(sent < 1000, "the server reads on and on");
    drop(raw);
    server
        .metric_becomes("chat_connections", |n| n == 1.0)
        .await;
    assert_ne!(
        Chat::try_open(&server, "mallory").await.map(|_| ()),
        Err(Ended(None))
    );
}
