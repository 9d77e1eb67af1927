//! The embedded family: what only it promises.

use backend::log::Append;
use backend::{Backends, Config, open};
use protocol::{EventBody, MessageId, RoomId, Seq, UserId};

async fn family(dir: &std::path::Path) -> Backends {
    open(Config::Embedded {
        data_dir: dir.to_owned(),
    })
    .await
    .unwrap()
}

fn message(room: &str, from: &str, text: &str) -> Append {
    Append {
        room: RoomId::parse(room).unwrap(),
        from: UserId::parse(from).unwrap(),
        id: MessageId::generate(),
        body: EventBody::Message {
            text: text.to_owned(),
            reply_to: None,
            meta: None,
        },
    }
}

#[tokio::test]
async fn reopening_keeps_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let room = RoomId::parse("general").unwrap();
    let first = family(dir.path()).await;
    let append = message("general", "alice", "hi");
    let stored = first.log.append(append.clone()).await.unwrap();
    assert!(!stored.duplicate);
    first.health.close().await;
    assert!(first.log.head(&room).await.is_err());

    let second = family(dir.path()).await;
    assert_eq!(second.log.head(&room).await.unwrap().get(), 1);
    let page = second.log.read(&room, Seq::ZERO, 10).await.unwrap();
    assert_eq!(page.events, [stored.event.clone()]);
    let again = second.log.append(append).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.event, stored.event);
    assert_eq!(second.health.check().await[0].trouble, None);
    second.health.close().await;
}
