use serde_json::{Value, json};

use super::Server;

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() {
    let server = Server::start().await;
    let room = server.room("alice", "public").await;
    let me = format!("{room}/members/me");
    let joined = server.put("bob", &me).await.expect(201);
    assert_eq!(
        (&joined["user"], &joined["role"]),
        (&json!("bob"), &json!("member"))
    );
    assert!(joined["joined_at"].is_string());
    assert!(joined["received"].is_u64() && joined["read"].is_u64());
    assert_eq!(server.put("bob", &me).await.expect(200), joined);
    let by_name = format!("{room}/members/bob");
    assert_eq!(server.put("bob", &by_name).await.expect(200), joined);
    assert_eq!(server.put("alice", &by_name).await.expect(200), joined);
    assert_eq!(server.get("bob", &room).await.expect(200)["members"], 2);
    server.delete("bob", &me).await.expect(204);
    let problem = server.delete("bob", &me).await.expect(403);
    assert_eq!(problem["code"], "forbidden");
    let problem = server.delete("alice", &by_name).await.expect(404);
    assert_eq!(problem["detail"], "no such member");
    assert_eq!(server.get("bob", &room).await.expect(200)["members"], 1);
    server
        .put("alice", &format!("{room}/members/No"))
        .await
        .expect_field("user");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_give_roles_and_admins_may_step_down() {
    let server = Server::start().await;
    let room = server.room_of_three("private").await;
    let role = async |by: &str, user: &str, role: &str| {
        let path = format!("{room}/members/{user}");
        server.patch(by, &path, json!({"role": role})).await
    };
    role("admin", "owner", "member").await.expect(403);
    role("admin", "member", "owner").await.expect(403);
    role("admin", "me", "owner").await.expect(403);
    role("member", "me", "admin").await.expect(403);
    role("owner", "me", "member").await.expect(403);
    assert_eq!(
        role("owner", "member", "owner").await.expect(200)["role"],
        "owner"
    );
    assert_eq!(
        role("owner", "me", "admin").await.expect(200)["role"],
        "admin"
    );
    role("owner", "member", "member").await.expect(403);
    assert_eq!(
        role("admin", "me", "member").await.expect(200)["role"],
        "member"
    );
    assert_eq!(
        role("member", "nobody", "admin").await.expect(404)["detail"],
        "no such member"
    );
    for bad in [
        json!({}),
        json!({"role": "king"}),
        json!({"role": {"$ne": ""}}),
        json!({"role": null}),
    ] {
        let path = format!("{room}/members/admin");
        server
            .patch("member", &path, bad)
            .await
            .expect_field("role");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_remove_members_but_not_each_other() {
    let server = Server::start().await;
    let room = server.room_of_three("private").await;
    server
        .put("admin", &format!("{room}/members/second"))
        .await
        .expect(201);
    let second = format!("{room}/members/second");
    server
        .patch("owner", &second, json!({"role": "admin"}))
        .await
        .expect(200);
    server.delete("admin", &second).await.expect(403);
    server
        .delete("admin", &format!("{room}/members/owner"))
        .await
        .expect(403);
    server
        .delete("admin", &format!("{room}/members/member"))
        .await
        .expect(204);
    server.delete("owner", &second).await.expect(204);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_keeps_somebody_who_can_look_after_it() {
    let server = Server::start().await;
    let room = server.room_of_three("public").await;
    let me = format!("{room}/members/me");
    server.delete("owner", &me).await.expect(403);
    server.delete("admin", &me).await.expect(204);
    server.delete("member", &me).await.expect(204);
    server.delete("owner", &me).await.expect(204);
    assert_eq!(server.get("bob", &room).await.expect(200)["members"], 0);
    assert_eq!(server.put("bob", &me).await.expect(201)["role"], "owner");
    assert_eq!(server.put("carol", &me).await.expect(201)["role"], "member");

    let hidden = server.room("alice", "private").await;
    let problem = server
        .delete("alice", &format!("{hidden}/members/me"))
        .await;
    assert!(
        problem.expect(403)["detail"]
            .as_str()
            .unwrap()
            .contains("delete the room")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_listed_in_pages() {
    let server = Server::start().await;
    let room = server.room("alice", "private").await;
    for user in ["zoe", "bob", "mia", "a.b"] {
        server
            .put("alice", &format!("{room}/members/{user}"))
            .await
            .expect(201);
    }
    let (mut all, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let page = server
            .get("bob", &format!("{room}/members{query}"))
            .await
            .expect(200);
        let users = page["items"].as_array().unwrap().iter();
        all.extend(users.map(|member| member["user"].as_str().unwrap().to_owned()));
        match &page["next"] {
            Value::String(next) => query = format!("?limit=2&cursor={next}"),
            next => break assert!(next.is_null()),
        }
    }
    assert_eq!(all, ["a.b", "alice", "bob", "mia", "zoe"]);
    server
        .get("bob", &format!("{room}/members?cursor=x"))
        .await
        .expect_field("cursor");
    server
        .get("bob", &format!("{room}/members?limit=-1"))
        .await
        .expect_field("limit");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_join_at_once_and_all_are_told() {
    let server = Server::start().await;
    let room = server.room("alice", "public").await;
    let me = format!("{room}/members/me");
    let users: Vec<_> = (0..50).map(|n| format!("u{n}")).collect();
    let joined = futures_util::future::join_all(users.iter().map(|user| server.put(user, &me)));
    for answer in joined.await {
        answer.expect(201);
    }
    let log = server.log(&room).await;
    for user in users {
        let told = format!("{user} joined");
        assert_eq!(
            log.iter().filter(|line| **line == told).count(),
            1,
            "{told}"
        );
    }
    assert_eq!(server.get("alice", &room).await.expect(200)["members"], 51);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_unannounced_is_announced_at_the_next_start() {
    use protocol::{Role, RoomId, UserId};

    let server = Server::start().await;
    let room = server.room("alice", "public").await;
    let id = RoomId::parse(room.rsplit('/').next().unwrap()).unwrap();
    let user = |name: &str| UserId::parse(name).unwrap();
    let directory = &server.backends.directory;
    for name in ["bob", "carol"] {
        let by = user("alice");
        directory
            .put_member(&id, &user(name), Role::Member, &by)
            .await
            .unwrap();
    }
    assert_eq!(directory.unannounced(10).await.unwrap().len(), 2);
    let rooms = chat_service::rooms::Rooms::new(server.backends.clone(), true);
    rooms.announce_leftovers().await;
    rooms.announce_leftovers().await;
    assert!(directory.unannounced(10).await.unwrap().is_empty());
    let log = server.log(&room).await;
    assert_eq!(log[log.len() - 2..], ["bob joined", "carol joined"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_names_are_proven_nothing_is_joined_or_made_on_first_use() {
    use protocol::{ErrorCode, RoomId, UserId};

    let server = Server::start().await;
    let room = server.room("alice", "public").await;
    let id = RoomId::parse(room.rsplit('/').next().unwrap()).unwrap();
    let (alice, bob) = (
        UserId::parse("alice").unwrap(),
        UserId::parse("bob").unwrap(),
    );
    let fresh = RoomId::parse("fresh").unwrap();
    let closed = chat_service::rooms::Rooms::new(server.backends.clone(), false);
    assert_eq!(
        closed.enter(&bob, &id).await.unwrap_err(),
        rest::Refusal::no_room()
    );
    assert_eq!(
        closed.enter(&bob, &fresh).await.unwrap_err(),
        rest::Refusal::no_room()
    );
    assert_eq!(closed.enter(&alice, &id).await.unwrap().0.id, id);

    let open = chat_service::rooms::Rooms::new(server.backends.clone(), true);
    assert_eq!(
        open.member(&bob, &id).await.unwrap_err().code,
        ErrorCode::NotFound
    );
    let (known, member) = open.enter(&bob, &id).await.unwrap();
    assert_eq!((known.members, member.role), (2, protocol::Role::Member));
    let (made, member) = open.enter(&bob, &fresh).await.unwrap();
    assert_eq!((made.members, member.role), (1, protocol::Role::Owner));
    let unknown = RoomId::generate();
    assert_eq!(
        open.enter(&bob, &unknown).await.unwrap_err(),
        rest::Refusal::no_room()
    );
    open.delete(&bob, &fresh).await.unwrap();
    assert_eq!(
        open.enter(&bob, &fresh).await.unwrap_err(),
        rest::Refusal::no_room()
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_from_many_places_at_once_makes_one_room() {
    use protocol::{Role, RoomId, UserId};

    let server = Server::start().await;
    let rooms = chat_service::rooms::Rooms::new(server.backends.clone(), true);
    for n in 0..20 {
        let id = RoomId::parse(&format!("fresh-{n}")).unwrap();
        let enter = |user: &str| {
            let (rooms, id, user) = (rooms.clone(), id.clone(), UserId::parse(user).unwrap());
            tokio::spawn(async move { rooms.enter(&user, &id).await })
        };
        let entered = ["alice", "alice", "bob", "alice", "bob"].map(enter);
        let mut owners = Vec::new();
        for entered in entered {
            let (_, member) = entered.await.unwrap().unwrap();
            if member.role == Role::Owner {
                owners.push(member.user);
            }
        }
        owners.dedup();
        assert_eq!(owners.len(), 1, "{owners:?}");
        let log = server.log(id.as_str()).await;
        assert_eq!(
            log.iter().filter(|line| **line == "room created").count(),
            1
        );
    }
    server.stop().await;
}
