//! The caller's rooms.

use backend::directory::{Cursor, RoomKind};
use serde_json::json;

use crate::harness::{Service, room, seq, text, user};

#[actix_web::test]
async fn the_inbox_shows_what_is_new() {
    let service = Service::start().await;
    for id in ["a", "b", "c", "other"] {
        service.room(id, RoomKind::Public, "alice").await;
    }
    for id in ["a", "b", "c"] {
        service.join(id, "bob").await;
    }
    for words in ["one", "two", "three"] {
        service.append("a", "alice", text(words)).await;
    }
    service.append("a", "bob", text("mine")).await;
    service.append("other", "alice", text("not bob's")).await;
    let cursor = Cursor {
        room: room("a"),
        user: user("bob"),
        received: seq(3),
        read: seq(1),
    };
    service
        .backends
        .directory
        .advance(vec![cursor])
        .await
        .unwrap();

    let page = service.page("bob", "/v1/inbox?limit=2").await;
    let [a, b] = &page["items"].as_array().unwrap()[..] else {
        panic!("{page}");
    };
    assert_eq!(a["room"]["id"], "a");
    assert_eq!(a["room"]["name"], "a");
    assert_eq!(a["room"]["role"], "member");
    assert_eq!(a["room"]["members"], 2);
    assert_eq!(a["room"]["head"], 4);
    assert_eq!(a["last"]["text"], "mine");
    assert_eq!(
        (&a["unread"], &a["read"], &a["received"]),
        (&json!(2), &json!(1), &json!(3))
    );
    assert_eq!((&b["last"], &b["unread"]), (&json!(null), &json!(0)));

    let next = page["next"].as_str().unwrap();
    let page = service
        .page("bob", &format!("/v1/inbox?limit=2&cursor={next}"))
        .await;
    assert_eq!(page["items"][0]["room"]["id"], "c");
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert_eq!(page["next"], json!(null));
}

#[actix_web::test]
async fn a_direct_room_is_named_after_the_other() {
    let service = Service::start().await;
    let new = backend::directory::NewRoom {
        id: protocol::RoomId::generate(),
        kind: RoomKind::Direct,
        name: String::new(),
        topic: String::new(),
        by: user("alice"),
        at: protocol::Timestamp::now(),
    };
    let directory = &service.backends.directory;
    directory
        .create_room(new, Some(&user("bob")))
        .await
        .unwrap();
    for (who, other) in [("alice", "bob"), ("bob", "alice")] {
        let page = service.page(who, "/v1/inbox").await;
        assert_eq!(page["items"][0]["room"]["name"], other);
        assert_eq!(page["items"][0]["room"]["with"], other);
    }
}
