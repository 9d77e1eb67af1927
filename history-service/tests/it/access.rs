//! Nobody else's messages.

use backend::directory::RoomKind;

use crate::harness::{Service, ask, text};

const READS: [&str; 5] = [
    "/v1/rooms/ROOM/events",
    "/v1/rooms/ROOM/messages",
    "/v1/rooms/ROOM/export",
    "/v1/rooms/ROOM/messages?around=1",
    "/v1/search?q=secret&room=ROOM",
];

#[actix_web::test]
async fn a_room_of_others_looks_like_no_room() {
    let service = Service::start().await;
    service.room("cellar", RoomKind::Private, "alice").await;
    service.append("cellar", "alice", text("secret")).await;
    for read in READS {
        let theirs = service.get("eve", &read.replace("ROOM", "cellar")).await;
        let nothing = service.get("eve", &read.replace("ROOM", "attic")).await;
        assert_eq!(theirs.status, 404, "{read}");
        assert_eq!(theirs.text(), nothing.text(), "{read}");
        assert_eq!(theirs.json()["detail"], "no such room");
    }
    let page = service.page("eve", "/v1/inbox").await;
    assert_eq!(page["items"], serde_json::json!([]));
}

#[actix_web::test]
async fn a_public_room_is_open_to_all_who_are_signed_in() {
    let service = Service::start().await;
    service.room("general", RoomKind::Public, "alice").await;
    service.append("general", "alice", text("secret")).await;
    for read in &READS[..4] {
        let read = read.replace("ROOM", "general");
        assert_eq!(service.get("eve", &read).await.status, 200, "{read}");
        let nobody = ask(service.addr, "GET", &read, &[]).await;
        assert_eq!(nobody.status, 401, "{read}");
        assert_eq!(nobody.json()["code"], "unauthenticated");
    }
}

#[actix_web::test]
async fn whoever_makes_a_room_is_never_outside_it() {
    let service = Service::start().await;
    let directory = &*service.backends.directory;
    let alice = crate::harness::user("alice");
    for number in 0..300 {
        let name = format!("room-{number}");
        let id = crate::harness::room(&name);
        let look = async {
            loop {
                let seen = rest::access::look(directory, &alice, &id).await.unwrap();
                if let Some((_, member)) = seen {
                    break assert!(member.is_some(), "{name} without its maker");
                }
                // What is known to be missing is answered at once.
                tokio::task::yield_now().await;
            }
        };
        let make = service.room(&name, RoomKind::Public, "alice");
        futures_util::future::join(make, look).await;
    }
}

#[actix_web::test]
async fn who_left_reads_no_more() {
    let service = Service::start().await;
    service.room("cellar", RoomKind::Private, "alice").await;
    service.join("cellar", "bob").await;
    let path = "/v1/rooms/cellar/messages";
    assert_eq!(service.get("bob", path).await.status, 200);
    let (id, bob) = (crate::harness::room("cellar"), crate::harness::user("bob"));
    let directory = &service.backends.directory;
    directory.remove_member(&id, &bob, &bob).await.unwrap();
    assert_eq!(service.get("bob", path).await.status, 404);
}

#[actix_web::test]
async fn what_is_wrong_with_a_request_is_named() {
    let service = Service::start().await;
    service.room("general", RoomKind::Public, "alice").await;
    for (path, field) in [
        ("/v1/rooms/General/events", "id"),
        ("/v1/rooms/general/events?after=x", "after"),
        ("/v1/rooms/general/events?limit=0", "limit"),
        ("/v1/rooms/general/events?cursor=x", "cursor"),
        ("/v1/rooms/general/messages?limit=201", "limit"),
        ("/v1/rooms/general/messages?since=yesterday", "since"),
        ("/v1/rooms/general/messages?before=1&before=2", "before"),
        ("/v1/search", "q"),
        ("/v1/search?q=", "q"),
        ("/v1/search?q=a&from=A", "from"),
        ("/v1/search?q=a&cursor=bm9uZQ", "cursor"),
        ("/v1/inbox?cursor=%F0", "cursor"),
    ] {
        let answer = service.get("alice", path).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert_eq!(answer.json()["errors"][0]["field"], field, "{path}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
    }
}

#[actix_web::test]
async fn other_methods_are_told_what_there_is() {
    let service = Service::start().await;
    for path in [
        "/v1/rooms/general/messages",
        "/v1/rooms/general/events",
        "/v1/rooms/general/export",
        "/v1/inbox",
        "/v1/search",
        "/openapi.json",
    ] {
        let answer = ask(service.addr, "PUT", path, &[("content-length", "0")]).await;
        assert_eq!(answer.status, 405, "{path}");
        assert_eq!(answer.header("allow"), Some("GET"), "{path}");
        assert_eq!(answer.json()["status"], 405);
    }
    assert_eq!(
        service.get("alice", "/v2").await.json()["code"],
        "not_found"
    );
}
