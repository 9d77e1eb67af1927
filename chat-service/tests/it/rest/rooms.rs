use serde_json::{Value, json};

use super::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_made_changed_and_deleted() {
    let server = Server::start().await;
    let body = json!({"id": "general", "kind": "public", "name": " General ", "topic": "all of it", "more": 1});
    let made = server.post("alice", "/v1/rooms", body).await;
    let room = made.expect(201);
    assert_eq!(made.header("location"), Some("/v1/rooms/general"));
    for (field, value) in [
        ("id", json!("general")),
        ("kind", json!("public")),
        ("name", json!("General")),
        ("topic", json!("all of it")),
        ("members", json!(1)),
        ("role", json!("owner")),
    ] {
        assert_eq!(room[field], value, "{field}");
    }
    assert!(protocol::Timestamp::parse(room["created_at"].as_str().unwrap()).is_ok());
    assert!(room["head"].as_u64().unwrap() > 0);
    assert_eq!(
        server.get("alice", "/v1/rooms/general").await.expect(200),
        room
    );
    let seen = server.get("bob", "/v1/rooms/general").await.expect(200);
    assert_eq!(seen["role"], Value::Null);

    let patch = json!({"name": "", "topic": "some of it"});
    let patched = server.patch("alice", "/v1/rooms/general", patch).await;
    let patched = patched.expect(200);
    assert_eq!(patched["name"], "general");
    assert_eq!(patched["topic"], "some of it");
    assert!(patched["head"].as_u64() > room["head"].as_u64());
    let same = server.patch("alice", "/v1/rooms/general", json!({})).await;
    assert_eq!(same.expect(200), patched);

    server
        .delete("alice", "/v1/rooms/general")
        .await
        .expect(204);
    server
        .get("alice", "/v1/rooms/general")
        .await
        .expect_no_room();
    server
        .delete("alice", "/v1/rooms/general")
        .await
        .expect_no_room();
    assert!(server.log("general").await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_in_the_log() {
    let server = Server::start().await;
    let room = server.room("alice", "public").await;
    server
        .patch("alice", &room, json!({"name": "a"}))
        .await
        .expect(200);
    server
        .patch("alice", &room, json!({"topic": "b"}))
        .await
        .expect(200);
    server
        .put("bob", &format!("{room}/members/me"))
        .await
        .expect(201);
    let role = json!({"role": "admin"});
    server
        .patch("alice", &format!("{room}/members/bob"), role)
        .await
        .expect(200);
    server
        .delete("bob", &format!("{room}/members/me"))
        .await
        .expect(204);
    server
        .put("alice", &format!("{room}/members/bob"))
        .await
        .expect(201);
    server
        .delete("alice", &format!("{room}/members/bob"))
        .await
        .expect(204);
    let log = server.log(&room).await;
    let told = [
        "room created",
        "room renamed",
        "room topic",
        "bob joined",
        "bob role",
        "bob left",
        "bob joined",
        "bob removed",
    ];
    let without_founder: Vec<_> = log
        .iter()
        .filter(|line| !line.starts_with("alice"))
        .collect();
    assert_eq!(without_founder, told, "{log:?}");
    assert!(
        server
            .backends
            .directory
            .unannounced(10)
            .await
            .unwrap()
            .is_empty()
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_is_given_out_once_and_never_looks_like_a_uuid() {
    let server = Server::start().await;
    let make = async |user: &str, id: &str| {
        let body = json!({"id": id, "kind": "public"});
        server.post(user, "/v1/rooms", body).await
    };
    make("alice", "general").await.expect(201);
    assert_eq!(make("bob", "general").await.expect(409)["code"], "conflict");
    assert_eq!(
        make("alice", "general").await.expect(409)["code"],
        "conflict"
    );
    server
        .delete("alice", "/v1/rooms/general")
        .await
        .expect(204);
    assert_eq!(
        make("alice", "general").await.expect(409)["code"],
        "conflict"
    );
    let message = json!({"id": super::id(), "text": "hi"});
    let sent = server
        .post("alice", "/v1/rooms/general/messages", message)
        .await;
    sent.expect_no_room();
    server
        .get("alice", "/v1/rooms/general")
        .await
        .expect_no_room();

    for bad in [
        "0198c0de-0000-7000-8000-000000000001",
        "0198c0de000070008000000000000001",
        "General",
        "-a",
        "a b",
        "a.b",
        "",
        "ä",
        &"x".repeat(65),
    ] {
        make("alice", bad).await.expect_field("id");
    }
    make("alice", &"x".repeat(64)).await.expect(201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_body_names_the_field() {
    let server = Server::start().await;
    let room = server.room("alice", "public").await;
    for (body, field) in [
        (json!({}), "kind"),
        (json!({"kind": "open"}), "kind"),
        (json!({"kind": "direct"}), "kind"),
        (json!({"kind": null}), "kind"),
        (json!({"kind": {"$ne": "private"}}), "kind"),
        (json!({"kind": "public", "id": {"$gt": ""}}), "id"),
        (json!({"kind": "public", "id": 7}), "id"),
        (json!({"kind": "private", "id": "secret"}), "id"),
        (json!({"kind": "public", "name": {"$where": "1"}}), "name"),
        (json!({"kind": "public", "name": ["a"]}), "name"),
        (json!({"kind": "public", "name": "x".repeat(101)}), "name"),
        (json!({"kind": "public", "name": "a\nb"}), "name"),
        (json!({"kind": "public", "topic": true}), "topic"),
        (
            json!({"kind": "public", "topic": "x".repeat(1001)}),
            "topic",
        ),
        (json!(["public"]), "body"),
        (json!("public"), "body"),
    ] {
        server
            .post("alice", "/v1/rooms", body)
            .await
            .expect_field(field);
    }
    for (body, field) in [
        (json!({"name": {"$set": 1}}), "name"),
        (json!({"topic": 1}), "topic"),
        (json!({"name": "x".repeat(101)}), "name"),
    ] {
        server.patch("alice", &room, body).await.expect_field(field);
    }
    let text = "x-darda-user: alice\r\ncontent-type: text/plain\r\n";
    let answer = server.ask_raw("POST", "/v1/rooms", text, "{}").await;
    answer.expect_field("content-type");
    let long = json!({"kind": "public", "topic": "x".repeat(rest::BODY_BYTES_MAX)});
    server.post("alice", "/v1/rooms", long).await.expect(413);
    server.get("alice", "/v1/rooms/No").await.expect_field("id");
    server
        .get("alice", "/v1/rooms/a%20b")
        .await
        .expect_field("id");
    server
        .get("alice", "/v1/rooms/$ne")
        .await
        .expect_field("id");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_without_a_name() {
    let server = Server::start().await;
    for (method, path) in [
        ("GET", "/v1/rooms"),
        ("POST", "/v1/rooms"),
        ("GET", "/v1/rooms/general"),
        ("PATCH", "/v1/rooms/general"),
        ("DELETE", "/v1/rooms/general"),
        ("GET", "/v1/rooms/general/members"),
        ("PUT", "/v1/rooms/general/members/me"),
        ("PATCH", "/v1/rooms/general/members/me"),
        ("DELETE", "/v1/rooms/general/members/me"),
        ("POST", "/v1/rooms/general/invites"),
        ("POST", "/v1/rooms/general/messages"),
        ("POST", "/v1/invites/x"),
        ("PUT", "/v1/direct/bob"),
        ("GET", "/v1/presence?users=bob"),
    ] {
        let answer = server.ask_raw(method, path, "", "").await;
        assert_eq!(
            answer.expect(401)["code"],
            "unauthenticated",
            "{method} {path}"
        );
        let answer = server
            .ask_raw(method, path, "x-darda-user: No\r\n", "")
            .await;
        assert_eq!(
            answer.expect(401)["code"],
            "unauthenticated",
            "{method} {path}"
        );
    }
    server.get("alice", "/v1/nothing").await.expect(404);
    let answer = server.put("alice", "/v1/rooms").await;
    answer.expect(405);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_listed_filtered_and_paged() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        let body = json!({"id": format!("room-{name}"), "kind": "public", "topic": format!("All about {name}")});
        server.post("alice", "/v1/rooms", body).await.expect(201);
    }
    let hidden = server.room("bob", "private").await;
    let direct = server.put("bob", "/v1/direct/carol").await.expect(201);
    server
        .put("bob", "/v1/rooms/room-c/members/me")
        .await
        .expect(201);

    let list = async |user: &str, query: &str| {
        let page = server
            .get(user, &format!("/v1/rooms{query}"))
            .await
            .expect(200);
        let ids = page["items"].as_array().unwrap().iter();
        let ids: Vec<_> = ids
            .map(|room| room["id"].as_str().unwrap().to_owned())
            .collect();
        (ids, page["next"].as_str().map(str::to_owned))
    };
    let (ids, next) = list("alice", "").await;
    assert_eq!(ids, ["room-a", "room-b", "room-c", "room-d", "room-e"]);
    assert_eq!(next, None);
    assert_eq!(list("bob", "").await.0.len(), 7);
    assert_eq!(list("bob", "?mine=true").await.0.len(), 3);
    assert_eq!(list("bob", "?mine=true&kind=public").await.0, ["room-c"]);
    assert_eq!(
        list("bob", "?kind=direct").await.0,
        [direct["id"].as_str().unwrap()]
    );
    assert_eq!(list("dave", "?kind=direct").await.0.len(), 0);
    let hidden = hidden.rsplit('/').next().unwrap();
    assert_eq!(list("bob", "?kind=private").await.0, [hidden]);
    assert_eq!(list("alice", "?kind=private").await.0.len(), 0);
    assert_eq!(list("alice", "?q=ABOUT%20D").await.0, ["room-d"]);
    for odd in ["%25", "_", "%27", "%22", "\\", "*"] {
        assert_eq!(
            list("alice", &format!("?q={odd}")).await.0.len(),
            0,
            "{odd}"
        );
    }

    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let at = cursor.map_or(String::new(), |cursor| format!("&cursor={cursor}"));
        let (ids, next) = list("alice", &format!("?limit=2{at}")).await;
        assert!(ids.len() <= 2);
        all.extend(ids);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(all, ["room-a", "room-b", "room-c", "room-d", "room-e"]);

    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=AAAA", "cursor"),
        ("kind=open", "kind"),
        ("mine=yes", "mine"),
        (&*format!("q={}", "x".repeat(101)), "q"),
    ] {
        server
            .get("alice", &format!("/v1/rooms?{query}"))
            .await
            .expect_field(field);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_have_one_direct_room() {
    let server = Server::start().await;
    let room = server.put("alice", "/v1/direct/bob").await.expect(201);
    assert_eq!(room["kind"], "direct");
    assert_eq!(
        (&room["name"], &room["with"]),
        (&json!("bob"), &json!("bob"))
    );
    assert_eq!(
        (&room["members"], &room["role"]),
        (&json!(2), &json!("member"))
    );
    let again = server.put("alice", "/v1/direct/bob").await.expect(200);
    assert_eq!(again, room);
    let theirs = server.put("bob", "/v1/direct/alice").await.expect(200);
    assert_eq!(theirs["id"], room["id"]);
    assert_eq!(theirs["with"], "alice");

    server
        .put("alice", "/v1/direct/alice")
        .await
        .expect_field("user");
    server
        .put("alice", "/v1/direct/No")
        .await
        .expect_field("user");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_made_at_the_same_time_are_made_once() {
    let server = Server::start().await;
    let make = || {
        server.post(
            "alice",
            "/v1/rooms",
            json!({"id": "general", "kind": "public"}),
        )
    };
    let direct = |one: &'static str, other: &str| {
        let path = format!("/v1/direct/{other}");
        let server = &server;
        async move { server.put(one, &path).await }
    };
    let (a, b, c, d) = tokio::join!(
        make(),
        make(),
        direct("bob", "carol"),
        direct("carol", "bob")
    );
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    let mut statuses = [c.status, d.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201]);
    assert_eq!(c.json()["id"], d.json()["id"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_is_told_for_a_hundred_users_at_most() {
    let server = Server::start().await;
    let answer = server
        .get("alice", "/v1/presence?users=bob,carol")
        .await
        .expect(200);
    let users: Vec<_> = answer["items"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&users[0]["user"], &users[1]["user"]),
        (&json!("bob"), &json!("carol"))
    );
    assert_eq!(users[0]["status"], "offline");

    for bad in [
        "",
        "?users=",
        "?users=bob,,carol",
        "?users=Bob",
        "?users=$ne",
    ] {
        let path = format!("/v1/presence{bad}");
        server.get("alice", &path).await.expect_field("users");
    }
    let users = |count: usize| {
        let names: Vec<_> = (0..count).map(|n| format!("u{n}")).collect();
        format!("/v1/presence?users={}", names.join(","))
    };
    server.get("alice", &users(100)).await.expect(200);
    server.get("alice", &users(101)).await.expect_field("users");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_names_every_path_and_has_no_loose_ends() {
    let server = Server::start().await;
    let text = server.ask_raw("GET", "/openapi.json", "", "").await;
    assert_eq!(text.status, 200);
    let description = text.json();
    assert_eq!(description["openapi"].as_str().unwrap()[..3], *"3.1");
    for (path, methods) in [
        ("/v1/rooms", &["get", "post"][..]),
        ("/v1/rooms/{id}", &["get", "patch", "delete"]),
        ("/v1/rooms/{id}/members", &["get"]),
        ("/v1/rooms/{id}/members/{user}", &["put", "patch", "delete"]),
        ("/v1/rooms/{id}/invites", &["post"]),
        ("/v1/rooms/{id}/messages", &["post"]),
        ("/v1/invites/{code}", &["post"]),
        ("/v1/direct/{user}", &["put"]),
        ("/v1/presence", &["get"]),
    ] {
        for method in methods {
            let operation = &description["paths"][path][method];
            assert!(operation["responses"]["401"].is_object(), "{method} {path}");
            assert!(operation["security"].is_array(), "{method} {path}");
        }
    }
    let mut refs = Vec::new();
    collect_refs(&description, &mut refs);
    assert!(!refs.is_empty());
    for reference in refs {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
    server.stop().await;
}

fn collect_refs(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                into.push(reference.clone());
            }
            fields.values().for_each(|value| collect_refs(value, into));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_refs(value, into)),
        _ => {}
    }
}
