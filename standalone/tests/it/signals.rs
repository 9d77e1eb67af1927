//! What is told besides the log, to whom, and to whom no longer: presence, typing, receipts, heads, notices; and P9 for
//! those who lose the right to read while they are connected.

use serde_json::{Value, json};

use crate::chat::{Chat, new_id, send};
use crate::server::{Server, Setup, eventually};

fn is_presence(frame: &Value, user: &str, status: &str) -> bool {
    frame["type"] == "presence" && frame["user"] == user && frame["status"] == status
}

fn is_notice(frame: &Value, kind: &str, room: &str) -> bool {
    frame["type"] == "notice" && frame["kind"] == kind && frame["room"] == room
}

/// A new private room of alice's, with bob in it.
async fn private_room(server: &Server) -> String {
    let room = json!({"kind": "private", "name": "plans"});
    let room = server.done("POST", "/v1/rooms", "alice", room).await;
    let room = room["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/rooms/{room}/members/bob");
    server.done("PUT", &path, "alice", Value::Null).await;
    room
}

#[tokio::test]
async fn members_see_each_other_come_and_go() {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    assert_eq!(
        alice.subscribe("general", None).await["online"],
        json!(["alice"])
    );
    let mut bob = Chat::open(&server, "bob").await;
    let subscribed = bob.subscribe("general", None).await;
    assert_eq!(subscribed["online"], json!(["alice", "bob"]));
    assert_eq!(subscribed["members"], 2);
    alice
        .until(|frame| is_presence(frame, "bob", "online"))
        .await;

    let mut again = Chat::open(&server, "bob").await;
    again.subscribe("general", None).await;
    drop(bob);
    server
        .metric_becomes("chat_connections", |n| n == 2.0)
        .await;
    let came = alice.everything().await;
    assert!(
        !came
            .iter()
            .any(|frame| is_presence(frame, "bob", "offline")),
        "{came:?}"
    );
    drop(again);
    let gone = alice
        .until(|frame| is_presence(frame, "bob", "offline"))
        .await;
    assert!(gone["last_seen"].is_string(), "{gone}");
    let known = server
        .done("GET", "/v1/presence?users=alice,bob", "alice", Value::Null)
        .await;
    let statuses: Vec<_> = known["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| &of["status"])
        .collect();
    assert_eq!(statuses, ["online", "offline"]);
}

#[tokio::test]
async fn typing_is_told_to_the_others_in_the_room() {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let mut bob = Chat::open(&server, "bob").await;
    let mut carol = Chat::open(&server, "carol").await;
    alice.subscribe("general", None).await;
    bob.subscribe("general", None).await;
    carol.subscribe("elsewhere", None).await;
    for on in [true, false] {
        alice
            .say(json!({"type": "typing", "room": "general", "on": on}))
            .await;
        let typing = bob.of_type("typing").await;
        assert_eq!(
            typing,
            json!({"type": "typing", "room": "general", "user": "alice", "on": on})
        );
    }
    for chat in [&mut alice, &mut carol] {
        let told = chat.everything().await;
        assert!(
            told.iter().all(|frame| frame["type"] != "typing"),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn cursors_are_told_kept_and_only_go_up() {
    let mut server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    alice.subscribe("general", None).await;
    let mut bob = Chat::open(&server, "bob").await;
    bob.subscribe("general", None).await;
    let mut seqs = Vec::new();
    for n in 0..3 {
        seqs.push(alice.send("general", &format!("{n}")).await);
    }
    let receipt = |received: u64, read: u64| {
        move |frame: &Value| {
            frame["type"] == "receipt"
                && frame["user"] == "bob"
                && frame["received"] == received
                && frame["read"] == read
        }
    };
    bob.say(json!({"type": "received", "room": "general", "seq": seqs[1]}))
        .await;
    alice.until(receipt(seqs[1], 0)).await;
    bob.say(json!({"type": "read", "room": "general", "seq": seqs[0]}))
        .await;
    let kept = async || {
        let members = server
            .done("GET", "/v1/rooms/general/members", "alice", Value::Null)
            .await;
        let members = members["items"].as_array().unwrap().clone();
        let bob = members.into_iter().find(|of| of["user"] == "bob").unwrap();
        (
            bob["received"].as_u64().unwrap(),
            bob["read"].as_u64().unwrap(),
        )
    };
    eventually("the cursor", async || {
        (kept().await == (seqs[1], seqs[0])).then_some(())
    })
    .await;
    bob.say(json!({"type": "read", "room": "general", "seq": seqs[2]}))
        .await;
    alice.until(receipt(seqs[2], seqs[2])).await;
    bob.say(json!({"type": "read", "room": "general", "seq": seqs[0]}))
        .await;
    bob.say(json!({"type": "received", "room": "general", "seq": seqs[1]}))
        .await;
    // The next movement is told after these would have been.
    let last = alice.send("general", "last").await;
    bob.event().await;
    bob.say(json!({"type": "received", "room": "general", "seq": last}))
        .await;
    eventually("the cursor", async || {
        (kept().await == (last, seqs[2])).then_some(())
    })
    .await;

    server.kill_and_start_again().await;
    let mut bob = Chat::open(&server, "bob").await;
    assert_eq!(bob.subscribe("general", None).await["read"], seqs[2]);
}

#[tokio::test]
async fn heads_come_with_the_heartbeat() {
    let server = Setup::new().with("DARDA_HEARTBEAT_SECS", 1).start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let one = alice.subscribe("one", None).await["head"].as_u64().unwrap();
    alice.subscribe("two", None).await;
    let two = alice.send("two", "hello").await;
    let right = json!({"type": "heads", "rooms": {"one": one, "two": two}});
    alice.until(|frame| *frame == right).await;
}

#[tokio::test]
async fn who_is_added_hears_of_it_and_who_is_removed_hears_no_more() {
    let server = Server::start().await;
    let mut bob = Chat::open(&server, "bob").await;
    let room = private_room(&server).await;
    bob.until(|frame| is_notice(frame, "room_added", &room))
        .await;
    let mut alice = Chat::open(&server, "alice").await;
    alice.subscribe(&room, None).await;
    let mut elsewhere = Chat::open(&server, "bob").await;
    for chat in [&mut bob, &mut elsewhere] {
        chat.subscribe(&room, None).await;
    }
    let seq = alice.send(&room, "for bob, too").await;
    for chat in [&mut bob, &mut elsewhere] {
        assert_eq!(chat.event().await["seq"], seq);
    }

    let path = format!("/v1/rooms/{room}/members/bob");
    server.done("DELETE", &path, "alice", Value::Null).await;
    let secret = alice.send(&room, "not for bob").await;
    alice
        .say(json!({"type": "typing", "room": room, "on": true}))
        .await;
    while alice.event().await["seq"] != secret {}
    for chat in [&mut bob, &mut elsewhere] {
        chat.until(|frame| is_notice(frame, "room_removed", &room))
            .await;
        let told = chat.everything().await;
        let late = |frame: &Value| frame["seq"].as_u64().is_some_and(|seq| seq >= secret);
        assert!(!told.iter().any(late), "{told:?}");
        assert!(
            told.iter().all(|frame| frame["type"] != "typing"),
            "{told:?}"
        );
        for act in [
            json!({"type": "subscribe", "rooms": [{"room": room, "after": 0}]}),
            json!({"type": "fetch", "room": room, "after": 0, "limit": 10}),
            json!({"type": "typing", "room": room, "on": true}),
            send(&new_id(), &room, "let me in"),
        ] {
            let refusal = chat.refusal(act).await;
            assert_eq!(refusal["code"], "not_found", "{refusal}");
        }
    }
}

/// Removal in the middle of a load: bob reads as fast as he can, his other connection does not read at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_after_a_removal_is_seen_even_by_a_reader_who_is_behind() {
    let server = Server::start().await;
    let room = private_room(&server).await;
    let mut behind = Chat::open_narrow(&server, "bob").await;
    behind.subscribe(&room, 0).await;
    let mut lively = Chat::open(&server, "bob").await;
    lively.subscribe(&room, None).await;
    let mut alice = Chat::open(&server, "alice").await;
    alice.subscribe(&room, None).await;
    let text = "x".repeat(8000);
    let load = |count: usize| {
        (0..count)
            .map(|_| send(&new_id(), &room, &text))
            .collect::<Vec<_>>()
    };
    for _ in 0..8 {
        alice.say_all(load(50)).await;
        for _ in 0..50 {
            alice.of_type("ack").await;
        }
    }
    server
        .metric_becomes("chat_slow_sessions", |n| n >= 1.0)
        .await;
    alice.say_all(load(60)).await;
    let path = format!("/v1/rooms/{room}/members/bob");
    server.done("DELETE", &path, "alice", Value::Null).await;
    alice.say_all(load(60)).await;
    for _ in 0..120 {
        alice.of_type("ack").await;
    }
    let log = server.log_of(&room, "alice").await;
    let removal = log
        .iter()
        .find(|event| event["change"] == "removed")
        .unwrap();
    let removal = removal["seq"].as_u64().unwrap();
    assert!(removal < log.last().unwrap()["seq"].as_u64().unwrap());
    for chat in [&mut lively, &mut behind] {
        chat.until(|frame| is_notice(frame, "room_removed", &room))
            .await;
        let told = chat.everything().await;
        let seen = told.iter().filter_map(|frame| frame["seq"].as_u64());
        assert!(seen.max().unwrap_or(0) <= removal);
    }
}

#[tokio::test]
async fn who_is_removed_and_added_again_hears_again() {
    let server = Server::start().await;
    let room = private_room(&server).await;
    let mut alice = Chat::open(&server, "alice").await;
    let mut bob = Chat::open(&server, "bob").await;
    alice.subscribe(&room, None).await;
    bob.subscribe(&room, None).await;
    let path = format!("/v1/rooms/{room}/members/bob");
    for round in 0..20 {
        server.done("DELETE", &path, "alice", Value::Null).await;
        server.done("PUT", &path, "alice", Value::Null).await;
        bob.subscribe(&room, 0).await;
        let text = format!("round {round}");
        alice.send(&room, &text).await;
        bob.until(|frame| frame["text"] == text.as_str()).await;
    }
}

#[tokio::test]
async fn who_subscribes_again_at_once_is_still_there() {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let mut bob = Chat::open(&server, "bob").await;
    alice.subscribe("general", None).await;
    bob.subscribe("general", None).await;
    for _ in 0..20 {
        bob.say_all([
            json!({"type": "unsubscribe", "ref": "u", "rooms": ["general"]}),
            json!({"type": "subscribe", "ref": "s", "rooms": [{"room": "general"}]}),
        ])
        .await;
        bob.of_type("unsubscribed").await;
        bob.of_type("subscribed").await;
        bob.everything().await;
        let online = alice.subscribe("general", None).await["online"].clone();
        assert_eq!(online, json!(["alice", "bob"]));
    }
}

#[tokio::test]
async fn who_leaves_one_room_is_not_taken_for_gone_in_another() {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let mut bob = Chat::open(&server, "bob").await;
    for room in ["one", "two"] {
        alice.subscribe(room, None).await;
        bob.subscribe(room, None).await;
    }
    alice.everything().await;
    bob.say(json!({"type": "unsubscribe", "rooms": ["one"]}))
        .await;
    bob.of_type("unsubscribed").await;
    alice
        .until(|frame| is_presence(frame, "bob", "offline"))
        .await;
    alice
        .until(|frame| is_presence(frame, "bob", "online"))
        .await;
}

#[tokio::test]
async fn a_flood_of_typing_is_thinned_out() {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let mut bob = Chat::open(&server, "bob").await;
    alice.subscribe("general", None).await;
    bob.subscribe("general", None).await;
    let typing = |on: bool| json!({"type": "typing", "room": "general", "on": on});
    alice.say_all((0..500).map(|n| typing(n % 2 == 0))).await;
    alice.send("general", "done").await;
    bob.until(|frame| frame["text"] == "done").await;
    let told = bob.everything().await;
    let signs = told.iter().filter(|frame| frame["type"] == "typing");
    let signs = signs.count();
    assert!((1..100).contains(&signs), "{signs}");
    server
        .metric_becomes("chat_signals_dropped_total", |n| n > 400.0)
        .await;
}

#[tokio::test]
async fn joining_is_limited_whichever_way() {
    let server = Setup::new()
        .with("DARDA_LIMIT_JOINS_PER_SEC", 1)
        .start()
        .await;
    let mut alice = Chat::open(&server, "alice").await;
    // Ten at once, then one a second.
    for n in 0..9 {
        alice.subscribe(&format!("subscribed-{n}"), None).await;
    }
    alice.send("sent-to", "hello").await;
    let refused = alice.refusal(send(&new_id(), "another", "hello")).await;
    assert_eq!(refused["code"], "rate_limited", "{refused}");
    assert!(refused["retry_after_ms"].as_u64().unwrap() <= 1000);
    let made = json!({"kind": "public", "id": "made"});
    let made = server.ask("POST", "/v1/rooms", "alice", made).await;
    assert_eq!(made.status, 429, "{made:?}");
    let direct = server.ask("PUT", "/v1/direct/bob", "alice", json!(null));
    assert_eq!(direct.await.status, 429);
    // Rooms she is in are open to her as before.
    alice.send("sent-to", "again").await;
}

#[tokio::test]
async fn a_deleted_room_is_gone_for_all() {
    let server = Server::start().await;
    let room = private_room(&server).await;
    let mut alice = Chat::open(&server, "alice").await;
    let mut bob = Chat::open(&server, "bob").await;
    for chat in [&mut alice, &mut bob] {
        chat.subscribe(&room, None).await;
    }
    alice.send(&room, "soon gone").await;
    server
        .done("DELETE", &format!("/v1/rooms/{room}"), "alice", Value::Null)
        .await;
    for chat in [&mut alice, &mut bob] {
        chat.until(|frame| is_notice(frame, "room_deleted", &room))
            .await;
        let subscribe = json!({"type": "subscribe", "rooms": [{"room": room, "after": 0}]});
        for act in [subscribe, send(&new_id(), &room, "anybody?")] {
            assert_eq!(chat.refusal(act).await["code"], "not_found");
        }
        let answer = server
            .ask(
                "GET",
                &format!("/v1/rooms/{room}/events"),
                "alice",
                Value::Null,
            )
            .await;
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    server
        .metric_becomes("chat_subscriptions", |n| n == 0.0)
        .await;
}

#[tokio::test]
async fn after_unsubscribing_nothing_more_comes() {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let mut bob = Chat::open(&server, "bob").await;
    bob.subscribe("general", None).await;
    bob.say(json!({"type": "unsubscribe", "ref": "u", "rooms": ["general"]}))
        .await;
    let answer = bob.of_type("unsubscribed").await;
    assert_eq!(
        (&answer["ref"], &answer["rooms"]),
        (&json!("u"), &json!(["general"]))
    );
    alice.send("general", "quietly").await;
    let told = bob.everything().await;
    let joined = |frame: &Value| frame["kind"] == "member";
    assert!(
        told.iter()
            .all(|frame| frame["type"] != "event" || joined(frame)),
        "{told:?}"
    );
}
