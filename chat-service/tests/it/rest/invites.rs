use backend::directory::Invite;
use protocol::{RoomId, Timestamp, UserId};
use serde_json::json;

use super::Server;

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_lets_as_many_in_as_it_says() {
    let server = Server::start().await;
    let room = server.room("alice", "private").await;
    let terms = json!({"max_uses": 2, "expires_in_secs": 60});
    let invite = server
        .post("alice", &format!("{room}/invites"), terms)
        .await
        .expect(201);
    assert_eq!(
        format!("/v1/rooms/{}", invite["room"].as_str().unwrap()),
        room
    );
    assert_eq!(invite["uses_left"], 2);
    let expires = Timestamp::parse(invite["expires_at"].as_str().unwrap()).unwrap();
    let left = expires.as_millis() - Timestamp::now().as_millis();
    assert!((50_000..=60_000).contains(&left), "{left}");

    let path = format!("/v1/invites/{}", invite["code"].as_str().unwrap());
    let entered = server.post("bob", &path, json!(null)).await.expect(200);
    assert_eq!(
        (&entered["id"], &entered["role"]),
        (&invite["room"], &json!("member"))
    );
    assert_eq!(entered["members"], 2);
    // Those who are in already take no use.
    server.post("bob", &path, json!(null)).await.expect(200);
    assert_eq!(
        server.post("alice", &path, json!(null)).await.expect(200)["role"],
        "owner"
    );
    server.post("carol", &path, json!(null)).await.expect(200);
    let problem = server.post("dave", &path, json!(null)).await.expect(404);
    assert_eq!(problem["detail"], "no such invite");
    server.get("dave", &room).await.expect_no_room();
    assert!(server.log(&room).await.contains(&"carol joined".to_owned()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_ends_with_its_time_and_its_room() {
    let server = Server::start().await;
    let room = server.room("alice", "private").await;
    let code = "a".repeat(26);
    let invite = Invite {
        code: code.clone(),
        room: RoomId::parse(room.rsplit('/').next().unwrap()).unwrap(),
        by: UserId::parse("alice").unwrap(),
        uses_left: 5,
        expires_at: Timestamp::from_millis(Timestamp::now().as_millis() - 1),
    };
    let directory = &server.backends.directory;
    directory
        .put_invite(invite, Timestamp::now())
        .await
        .unwrap();
    server
        .post("bob", &format!("/v1/invites/{code}"), json!(null))
        .await
        .expect(404);

    let fresh = server
        .post("alice", &format!("{room}/invites"), json!({}))
        .await
        .expect(201);
    server.delete("alice", &room).await.expect(204);
    let path = format!("/v1/invites/{}", fresh["code"].as_str().unwrap());
    server.post("bob", &path, json!(null)).await.expect(404);
    for bad in [
        "x",
        "%27%20or%201=1",
        "$ne",
        &"z".repeat(26),
        &"z".repeat(500),
    ] {
        let problem = server
            .post("bob", &format!("/v1/invites/{bad}"), json!(null))
            .await;
        assert_eq!(problem.expect(404)["detail"], "no such invite");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_are_bounded() {
    let server = Server::start().await;
    let room = server.room("alice", "public").await;
    let path = format!("{room}/invites");
    for (terms, field) in [
        (json!({"max_uses": 0}), "max_uses"),
        (json!({"max_uses": 1001}), "max_uses"),
        (json!({"max_uses": -1}), "max_uses"),
        (json!({"max_uses": "1"}), "max_uses"),
        (json!({"max_uses": {"$inc": 1}}), "max_uses"),
        (json!({"expires_in_secs": 0}), "expires_in_secs"),
        (json!({"expires_in_secs": 2_592_001}), "expires_in_secs"),
        (json!({"expires_in_secs": 1.5}), "expires_in_secs"),
    ] {
        server.post("alice", &path, terms).await.expect_field(field);
    }
    let default = server.post("alice", &path, json!({})).await.expect(201);
    assert_eq!(default["uses_left"], 10);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_ends_with_the_right_of_whoever_made_it() {
    let server = Server::start().await;
    let room = server.room_of_three("private").await;
    let invite = async |by: &str| {
        let made = server
            .post(by, &format!("{room}/invites"), json!({}))
            .await
            .expect(201);
        format!("/v1/invites/{}", made["code"].as_str().unwrap())
    };
    let (of_owner, of_admin) = (invite("owner").await, invite("admin").await);
    server.post("bob", &of_admin, json!(null)).await.expect(200);
    let admin = format!("{room}/members/admin");
    server
        .patch("owner", &admin, json!({"role": "member"}))
        .await
        .expect(200);
    server
        .post("carol", &of_admin, json!(null))
        .await
        .expect(404);
    let role = json!({"role": "admin"});
    server
        .patch("owner", &admin, role.clone())
        .await
        .expect(200);
    let again = invite("admin").await;
    server.delete("owner", &admin).await.expect(204);
    server.post("admin", &again, json!(null)).await.expect(404);
    server.get("admin", &room).await.expect_no_room();
    server
        .post("carol", &of_owner, json!(null))
        .await
        .expect(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_has_a_bounded_number_of_invites() {
    let server = Server::start().await;
    let room = server.room("alice", "private").await;
    let path = format!("{room}/invites");
    for _ in 0..100 {
        server.post("alice", &path, json!({})).await.expect(201);
    }
    let problem = server.post("alice", &path, json!({})).await.expect(413);
    assert_eq!(problem["code"], "too_large");
    server.stop().await;
}
