//! P4, send again safely: one id, one sender, one room, one place in the log, whoever asks and however often.

use serde_json::{Value, json};

use crate::chat::{Chat, new_id, send};
use crate::server::Server;

fn place(answer: &Value) -> (u64, &str, bool) {
    assert_eq!(answer["type"], "ack", "{answer}");
    (
        answer["seq"].as_u64().unwrap(),
        answer["at"].as_str().unwrap(),
        answer["duplicate"].as_bool().unwrap_or(false),
    )
}

#[tokio::test]
async fn the_first_answer_is_repeated_over_connections_restarts_and_protocols() {
    let mut server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let id = new_id();
    let frame = send(&id, "general", "once");
    let first = alice.answer(frame.clone()).await;
    let (seq, at, duplicate) = place(&first);
    assert!(!duplicate);
    assert_eq!(place(&alice.answer(frame.clone()).await), (seq, at, true));

    let mut elsewhere = Chat::open(&server, "alice").await;
    elsewhere.subscribe("general", None).await;
    assert_eq!(
        place(&elsewhere.answer(frame.clone()).await),
        (seq, at, true)
    );

    let path = "/v1/rooms/general/messages";
    let body = json!({"id": id, "text": "once"});
    let answer = server.ask("POST", path, "alice", body.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(
        (&answer["seq"], &answer["duplicate"]),
        (&json!(seq), &json!(true))
    );

    for _ in 0..2 {
        server.kill_and_start_again().await;
        let mut alice = Chat::open(&server, "alice").await;
        assert_eq!(place(&alice.answer(frame.clone()).await), (seq, at, true));
        let answer = server.done("POST", path, "alice", body.clone()).await;
        assert_eq!(answer["seq"], seq);
    }
    let messages = server.log_of("general", "alice").await;
    let stored = messages.iter().filter(|event| event["id"] == id.as_str());
    assert_eq!(stored.count(), 1);
}

#[tokio::test]
async fn what_came_over_http_first_is_known_on_the_socket() {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    alice.subscribe("general", None).await;
    let id = new_id();
    let body = json!({"id": id, "text": "first"});
    let path = "/v1/rooms/general/messages";
    let answer = server.ask("POST", path, "alice", body).await;
    assert_eq!(answer.status, 201);
    let (seq, _, duplicate) = {
        let again = alice.answer(send(&id, "general", "first")).await;
        let (seq, at, duplicate) = place(&again);
        (seq, at.to_owned(), duplicate)
    };
    assert_eq!(
        (json!(seq), duplicate),
        (answer.json()["seq"].clone(), true)
    );
}

#[tokio::test]
async fn other_content_under_the_same_id_is_a_conflict_and_changes_nothing() {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let id = new_id();
    let first = alice.answer(send(&id, "general", "one")).await;
    let seq = first["seq"].as_u64().unwrap();
    let mut with_meta = send(&id, "general", "one");
    with_meta["meta"] = json!({"k": "v"});
    let mut reply = send(&id, "general", "one");
    reply["reply_to"] = json!(seq);
    let others = [
        send(&id, "general", "two"),
        with_meta,
        reply,
        json!({"type": "edit", "id": id, "room": "general", "seq": seq, "text": "one"}),
        json!({"type": "react", "id": id, "room": "general", "seq": seq, "emoji": "x", "on": true}),
        json!({"type": "delete", "id": id, "room": "general", "seq": seq}),
    ];
    for other in others {
        let answer = alice.answer(other.clone()).await;
        assert_eq!(
            answer["code"], "conflict",
            "{other} was answered with {answer}"
        );
    }
    let body = json!({"id": id, "text": "two"});
    let answer = server
        .ask("POST", "/v1/rooms/general/messages", "alice", body)
        .await;
    assert_eq!(answer.status, 409, "{answer:?}");
    let log = server.log_of("general", "alice").await;
    assert_eq!(log.last().unwrap()["text"], "one");
    assert_eq!(log.last().unwrap()["seq"], seq);
}

#[tokio::test]
async fn another_sender_or_another_room_is_another_message() {
    let server = Server::start().await;
    let id = new_id();
    let mut places = Vec::new();
    for (user, room) in [
        ("alice", "one"),
        ("alice", "two"),
        ("bob", "one"),
        ("bob", "two"),
    ] {
        let mut chat = Chat::open(&server, user).await;
        let text = format!("{room} {}", places.len());
        let answer = chat.answer(send(&id, room, &text)).await;
        let (seq, _, duplicate) = place(&answer);
        assert!(!duplicate, "{answer}");
        places.push((room, seq));
    }
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 4);
}

#[tokio::test]
async fn the_same_message_many_times_at_once_is_stored_once() {
    let server = Server::start().await;
    let frame = send(&new_id(), "general", "now");
    let mut chats = Vec::new();
    for _ in 0..8 {
        let mut chat = Chat::open(&server, "alice").await;
        chat.subscribe("general", None).await;
        chats.push(chat);
    }
    for chat in &mut chats {
        chat.say_all([frame.clone(), frame.clone()]).await;
    }
    let mut answers = Vec::new();
    for chat in &mut chats {
        for _ in 0..2 {
            let answer = chat.of_type("ack").await;
            let (seq, at, duplicate) = place(&answer);
            answers.push((seq, at.to_owned(), duplicate));
        }
    }
    let first = answers.iter().filter(|(_, _, duplicate)| !duplicate);
    assert_eq!(first.count(), 1, "{answers:?}");
    assert!(
        answers
            .iter()
            .all(|(seq, at, _)| (seq, at) == (&answers[0].0, &answers[0].1))
    );
    for chat in &mut chats {
        assert_eq!(chat.event().await["seq"], answers[0].0);
        let more = chat.everything().await;
        assert!(
            more.iter().all(|frame| frame["type"] != "event"),
            "{more:?}"
        );
    }
}

#[tokio::test]
async fn edits_deletes_and_reactions_are_done_once_as_well() {
    let mut server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let seq = alice.send("general", "hello").await;
    let acts = [
        json!({"type": "edit", "id": new_id(), "room": "general", "seq": seq, "text": "hi"}),
        json!({"type": "react", "id": new_id(), "room": "general", "seq": seq, "emoji": "👍", "on": true}),
        json!({"type": "delete", "id": new_id(), "room": "general", "seq": seq}),
    ];
    let mut first = Vec::new();
    for act in &acts {
        first.push(alice.answer(act.clone()).await);
    }
    server.kill_and_start_again().await;
    let mut alice = Chat::open(&server, "alice").await;
    for (act, first) in acts.iter().zip(&first) {
        let again = alice.answer(act.clone()).await;
        let (seq, at, _) = place(first);
        assert_eq!(place(&again), (seq, at, true));
    }
    let head = server.log_of("general", "alice").await.len() as u64;
    assert_eq!(head, place(&first[2]).0);
}
