//! Who is told what: every act, by everybody, in every kind of room.

use serde_json::{Value, json};

use super::{Answer, Server};

const ACTS: [&str; 12] = [
    "see",
    "members",
    "rename",
    "delete",
    "join",
    "add",
    "promote",
    "remove member",
    "remove admin",
    "leave",
    "invite",
    "write",
];

async fn act(server: &Server, user: &str, act: &str, room: &str) -> Answer {
    let members = |who: &str| format!("{room}/members/{who}");
    match act {
        "see" => server.get(user, room).await,
        "members" => server.get(user, &format!("{room}/members")).await,
        "rename" => server.patch(user, room, json!({"name": "new"})).await,
        "delete" => server.delete(user, room).await,
        "join" => server.put(user, &members("me")).await,
        "add" => server.put(user, &members("newcomer")).await,
        "promote" => {
            server
                .patch(user, &members("member"), json!({"role": "admin"}))
                .await
        }
        "remove member" => server.delete(user, &members("member")).await,
        "remove admin" => server.delete(user, &members("admin")).await,
        "leave" => server.delete(user, &members("me")).await,
        "invite" => {
            server
                .post(user, &format!("{room}/invites"), json!({}))
                .await
        }
        "write" => {
            let message = json!({"id": super::id(), "text": "hi"});
            server
                .post(user, &format!("{room}/messages"), message)
                .await
        }
        other => panic!("{other}"),
    }
}

/// Runs every act by each user in a fresh room and compares the statuses.
async fn check(server: &Server, kind: &str, users: [&str; 4], expected: &[(&str, [u16; 4])]) {
    for (name, statuses) in expected {
        for (user, status) in users.iter().zip(statuses) {
            let room = match kind {
                "direct" => direct(server).await,
                kind => server.room_of_three(kind).await,
            };
            let answer = act(server, user, name, &room).await;
            assert_eq!(
                answer.status,
                *status,
                "{user}: {name} a {kind} room: {}",
                answer.text()
            );
            if *status >= 400 {
                let code = if *status == 404 {
                    "not_found"
                } else {
                    "forbidden"
                };
                assert_eq!(answer.json()["code"], code);
            }
            if *status == 404 {
                answer.expect_no_room();
            }
        }
    }
    let named: Vec<_> = expected.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, ACTS, "an act is missing");
}

/// A direct room of two who met just now.
async fn direct(server: &Server) -> String {
    let made = server.put("member", "/v1/direct/admin").await;
    assert!(matches!(made.status, 200 | 201));
    format!("/v1/rooms/{}", made.json()["id"].as_str().unwrap())
}

const PEOPLE: [&str; 4] = ["owner", "admin", "member", "stranger"];

#[tokio::test(flavor = "multi_thread")]
async fn in_a_public_room() {
    let server = Server::start().await;
    let expected = [
        ("see", [200, 200, 200, 200]),
        ("members", [200, 200, 200, 200]),
        ("rename", [200, 200, 403, 403]),
        ("delete", [204, 403, 403, 403]),
        ("join", [200, 200, 200, 201]),
        ("add", [201, 201, 403, 403]),
        ("promote", [200, 403, 403, 403]),
        ("remove member", [204, 204, 204, 403]),
        ("remove admin", [204, 204, 403, 403]),
        ("leave", [403, 204, 204, 403]),
        ("invite", [201, 201, 403, 403]),
        ("write", [201, 201, 201, 201]),
    ];
    check(&server, "public", PEOPLE, &expected).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_private_room() {
    let server = Server::start().await;
    let expected = [
        ("see", [200, 200, 200, 404]),
        ("members", [200, 200, 200, 404]),
        ("rename", [200, 200, 403, 404]),
        ("delete", [204, 403, 403, 404]),
        ("join", [200, 200, 200, 404]),
        ("add", [201, 201, 403, 404]),
        ("promote", [200, 403, 403, 404]),
        ("remove member", [204, 204, 204, 404]),
        ("remove admin", [204, 204, 403, 404]),
        ("leave", [403, 204, 204, 404]),
        ("invite", [201, 201, 403, 404]),
        ("write", [201, 201, 201, 404]),
    ];
    check(&server, "private", PEOPLE, &expected).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_direct_room() {
    let server = Server::start().await;
    let expected = [
        ("see", [200, 200, 404, 404]),
        ("members", [200, 200, 404, 404]),
        ("rename", [403, 403, 404, 404]),
        ("delete", [403, 403, 404, 404]),
        ("join", [200, 200, 404, 404]),
        ("add", [403, 403, 404, 404]),
        ("promote", [403, 403, 404, 404]),
        ("remove member", [403, 403, 404, 404]),
        ("remove admin", [403, 403, 404, 404]),
        ("leave", [403, 403, 404, 404]),
        ("invite", [403, 403, 404, 404]),
        ("write", [201, 201, 404, 404]),
    ];
    let users = ["member", "admin", "owner", "stranger"];
    check(&server, "direct", users, &expected).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_looks_like_what_is_not_yours() {
    let server = Server::start().await;
    let unknown = format!("/v1/rooms/{}", protocol::RoomId::generate());
    let deleted = server.room_of_three("public").await;
    server.delete("owner", &deleted).await.expect(204);
    let slug = "/v1/rooms/gone".to_owned();
    let body = json!({"id": "gone", "kind": "public"});
    server.post("owner", "/v1/rooms", body).await.expect(201);
    server.delete("owner", &slug).await.expect(204);
    let hidden = server.room_of_three("private").await;

    for name in ACTS {
        let theirs = act(&server, "stranger", name, &hidden).await;
        theirs.expect_no_room();
        for room in [&unknown, &deleted, &slug] {
            for user in PEOPLE {
                let answer = act(&server, user, name, room).await;
                answer.expect_no_room();
                assert_eq!(names(&answer), names(&theirs), "{name}");
            }
        }
    }
    // A name that nobody took yet can be read by nobody, and is made by the first who writes.
    for name in &ACTS[..ACTS.len() - 1] {
        act(&server, "owner", name, "/v1/rooms/fresh")
            .await
            .expect_no_room();
    }
    act(&server, "owner", "write", "/v1/rooms/fresh")
        .await
        .expect(201);
    let room = server.get("owner", "/v1/rooms/fresh").await.expect(200);
    assert_eq!(
        (&room["kind"], &room["role"]),
        (&json!("public"), &json!("owner"))
    );
    server.stop().await;
}

/// The names of an answer's headers, without their values, which hold times and ids.
fn names(answer: &Answer) -> Vec<&str> {
    let mut names: Vec<_> = answer
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_member_is_a_stranger() {
    let server = Server::start().await;
    let room = server.room_of_three("private").await;
    server
        .delete("owner", &format!("{room}/members/member"))
        .await
        .expect(204);
    for name in ACTS {
        act(&server, "member", name, &room).await.expect_no_room();
    }
    let rooms = server
        .get("member", "/v1/rooms?mine=true")
        .await
        .expect(200);
    assert_eq!(rooms, json!({"items": [], "next": Value::Null}));
    server.stop().await;
}
