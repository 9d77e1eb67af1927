//! What became of a message.

use backend::directory::{Cursor, RoomKind};
use backend::log::Append;
use protocol::MessageId;
use serde_json::{Value, json};

use crate::harness::{Service, room, text, user};

async fn send(service: &Service, id: &str, from: &str) -> (MessageId, u64) {
    let append = Append {
        room: room(id),
        from: user(from),
        id: MessageId::generate(),
        body: text("hello"),
    };
    let message = append.id;
    let appended = service.backends.log.append(append).await.unwrap();
    (message, appended.event.seq.get())
}

fn names(item: &Value) -> Vec<&str> {
    let steps = item["steps"].as_array().unwrap().iter();
    steps.map(|step| step["step"].as_str().unwrap()).collect()
}

#[actix_web::test]
async fn a_message_is_followed_to_its_readers() {
    let service = Service::start().await;
    service.room("a", RoomKind::Private, "alice").await;
    service.room("b", RoomKind::Public, "alice").await;
    for who in ["bob", "carol"] {
        service.join("a", who).await;
    }
    send(&service, "a", "bob").await;
    let (id, seq) = send(&service, "a", "alice").await;
    let cursor = |who: &str, received: u64, read: u64| Cursor {
        room: room("a"),
        user: user(who),
        received: crate::harness::seq(received),
        read: crate::harness::seq(read),
    };
    let cursors = vec![cursor("bob", seq, seq - 1), cursor("carol", seq - 1, 0)];
    service.backends.directory.advance(cursors).await.unwrap();

    for path in [format!("/v1/trace/{id}"), format!("/v1/trace/{id}?room=a")] {
        let way = service.page("carol", &path).await;
        let [item] = &way["items"].as_array().unwrap()[..] else {
            panic!("{way}");
        };
        assert_eq!(
            (
                &item["id"],
                &item["room"],
                &item["seq"],
                &item["from"],
                &item["kind"]
            ),
            (
                &json!(id.to_string()),
                &json!("a"),
                &json!(seq),
                &json!("alice"),
                &json!("message")
            )
        );
        assert_eq!(names(item), ["appended", "persisted", "received", "read"]);
        let steps = &item["steps"];
        assert!(steps[0]["at"].is_string(), "{way}");
        assert_eq!(steps[1], json!({"step": "persisted", "done": true}));
        let received =
            json!({"step": "received", "done": false, "count": 1, "of": 2, "users": ["bob"]});
        assert_eq!(steps[2], received);
        let read = json!({"step": "read", "done": false, "count": 0, "of": 2, "users": []});
        assert_eq!(steps[3], read);
    }
}

#[actix_web::test]
async fn members_alone_may_ask() {
    let service = Service::start().await;
    service.room("mine", RoomKind::Private, "alice").await;
    service.room("open", RoomKind::Public, "alice").await;
    let (private, _) = send(&service, "mine", "alice").await;
    let (public, _) = send(&service, "open", "alice").await;
    let refused = async |path: String| {
        let answer = service.get("mallory", &path).await;
        assert_eq!(answer.status, 404, "{path}");
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        problem["detail"].clone()
    };
    let unknown = MessageId::generate();
    let nothing = refused(format!("/v1/trace/{unknown}")).await;
    assert_eq!(refused(format!("/v1/trace/{private}")).await, nothing);
    assert_eq!(refused(format!("/v1/trace/{public}")).await, nothing);
    let no_room = refused(format!("/v1/trace/{unknown}?room=nowhere")).await;
    assert_eq!(
        refused(format!("/v1/trace/{private}?room=mine")).await,
        no_room
    );
    assert_eq!(
        refused(format!("/v1/trace/{public}?room=open")).await,
        no_room
    );
    let answer = service.get("alice", "/v1/trace/no-uuid").await;
    assert_eq!(answer.status, 400);
    let answer = service
        .get("alice", &format!("/v1/trace/{public}?room=mine"))
        .await;
    assert_eq!(answer.status, 404, "it is in another room");
}

#[actix_web::test]
async fn the_same_id_of_two_senders_has_two_ways() {
    let service = Service::start().await;
    service.room("a", RoomKind::Public, "alice").await;
    service.join("a", "bob").await;
    let (id, _) = send(&service, "a", "alice").await;
    let again = Append {
        room: room("a"),
        from: user("bob"),
        id,
        body: text("mine"),
    };
    service.backends.log.append(again).await.unwrap();
    let way = service.page("alice", &format!("/v1/trace/{id}")).await;
    let items = way["items"].as_array().unwrap();
    let senders: Vec<&str> = items
        .iter()
        .map(|item| item["from"].as_str().unwrap())
        .collect();
    assert_eq!(senders, ["alice", "bob"]);
}
