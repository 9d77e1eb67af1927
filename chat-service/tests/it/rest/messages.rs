use serde_json::json;

use super::{Server, id};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_stored_once_however_often_it_is_sent() {
    let server = Server::start().await;
    let path = format!("{}/messages", server.room("alice", "private").await);
    let message = json!({"id": id(), "text": "hi", "meta": {"k": "v"}, "more": 1});
    let ack = server
        .post("alice", &path, message.clone())
        .await
        .expect(201);
    assert_eq!(ack["id"], message["id"]);
    assert!(ack.get("duplicate").is_none());
    let again = server
        .post("alice", &path, message.clone())
        .await
        .expect(200);
    assert_eq!(again["duplicate"], true);
    assert_eq!((&again["seq"], &again["at"]), (&ack["seq"], &ack["at"]));

    let mut other = message.clone();
    other["text"] = json!("ho");
    assert_eq!(
        server.post("alice", &path, other).await.expect(409)["code"],
        "conflict"
    );
    let answer = json!({"id": id(), "text": "yes", "reply_to": ack["seq"]});
    let answer = server.post("alice", &path, answer).await.expect(201);
    assert_eq!(
        answer["seq"].as_u64(),
        ack["seq"].as_u64().map(|seq| seq + 1)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_is_another_message_of_another_user_or_room() {
    let server = Server::start().await;
    let room = server.room("alice", "public").await;
    server
        .put("bob", &format!("{room}/members/me"))
        .await
        .expect(201);
    let message = json!({"id": id(), "text": "hi"});
    let path = format!("{room}/messages");
    let one = server
        .post("alice", &path, message.clone())
        .await
        .expect(201);
    let two = server.post("bob", &path, message.clone()).await.expect(201);
    assert_ne!(one["seq"], two["seq"]);
    let elsewhere = format!("{}/messages", server.room("alice", "private").await);
    server.post("alice", &elsewhere, message).await.expect(201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_at_the_same_time_get_one_place() {
    let server = Server::start().await;
    let path = format!("{}/messages", server.room("alice", "private").await);
    let message = json!({"id": id(), "text": "hi"});
    let sends = (0..16).map(|_| server.post("alice", &path, message.clone()));
    let answers = futures_util::future::join_all(sends).await;
    let new = answers.iter().filter(|answer| answer.status == 201).count();
    let known = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((new, known), (1, 15));
    let first = &answers[0].json()["seq"];
    assert!(answers.iter().all(|answer| answer.json()["seq"] == *first));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_message_names_the_field() {
    let server = Server::start().await;
    let path = format!("{}/messages", server.room("alice", "private").await);
    let good = json!({"id": id(), "text": "hi"});
    for (field, value) in [
        ("id", json!("1")),
        ("id", json!({"$oid": "1"})),
        ("id", json!(null)),
        ("text", json!({"$ne": ""})),
        ("text", json!(7)),
        ("text", json!(null)),
        ("reply_to", json!(-1)),
        ("reply_to", json!("1")),
        ("reply_to", json!(9_007_199_254_740_992_u64)),
        ("meta", json!("a")),
        ("meta.k", json!({"k": {"$gt": 1}})),
        ("meta.k", json!({"k": 1})),
    ] {
        let mut bad = good.clone();
        bad[field.split('.').next().unwrap()] = value;
        server.post("alice", &path, bad).await.expect_field(field);
    }
    for text in ["", " \n\t"] {
        let bad = json!({"id": id(), "text": text});
        let problem = server.post("alice", &path, bad).await.expect(400);
        assert!(problem["detail"].as_str().unwrap().starts_with("text: "));
    }
    for bad in [
        json!({"id": id(), "text": "x".repeat(16 * 1024 + 1)}),
        json!({"id": id(), "text": "x", "meta": {"k": "x".repeat(2048)}}),
    ] {
        assert_eq!(
            server.post("alice", &path, bad).await.expect(413)["code"],
            "too_large"
        );
    }
    let longest = json!({"id": id(), "text": "x".repeat(16 * 1024)});
    server.post("alice", &path, longest).await.expect(201);
    let loose = json!({"id": id(), "text": "x", "reply_to": 999});
    let problem = server.post("alice", &path, loose).await.expect(404);
    assert_eq!(problem["errors"][0]["field"], "reply_to");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_at_once_are_told_when_to_come_back() {
    let server = Server::start().await;
    let path = format!("{}/messages", server.room("alice", "private").await);
    let sends = (0..130).map(|_| server.post("alice", &path, json!({"id": id(), "text": "hi"})));
    let answers = futures_util::future::join_all(sends).await;
    let limited: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .collect();
    assert!(!limited.is_empty());
    for answer in limited {
        assert_eq!(answer.expect(429)["code"], "rate_limited");
        assert!(answer.header("retry-after").is_some());
    }
    // Somebody else is not held up.
    let other = format!("{}/messages", server.room("bob", "private").await);
    server
        .post("bob", &other, json!({"id": id(), "text": "hi"}))
        .await
        .expect(201);
    server.stop().await;
}
