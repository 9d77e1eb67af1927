//! A process that was killed in the middle of a change.

use std::time::Duration;

use backend::directory::{NewRoom, RoomKind};
use backend::{Directory, Error};
use mongodb::bson::{Document, doc};
use protocol::{Role, RoomId, Timestamp, UserId};
use tokio::time::{Instant, sleep};

use super::stage::Stage;

/// MongoDB itself ends what nobody ends after a minute at the earliest.
const PATIENCE: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn the_change_that_a_dead_process_left_open_holds_nobody_up() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let directory = stage.directory().await;
    let room = RoomId::parse("left-open").unwrap();
    let [alice, bob] = ["alice", "bob"].map(|name| UserId::parse(name).unwrap());
    let new = NewRoom {
        id: room.clone(),
        kind: RoomKind::Public,
        name: "Left open".to_owned(),
        topic: String::new(),
        by: alice,
        at: Timestamp::now(),
    };
    directory.create_room(new, None).await.unwrap();

    let dead = stage.mongo().await;
    let mut session = dead.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    dead.collection::<Document>("rooms")
        .update_one(
            doc! { "_id": room.as_str() },
            doc! { "$set": { "topic": "never told" } },
        )
        .session(&mut session)
        .await
        .unwrap();

    let begun = Instant::now();
    loop {
        match directory.put_member(&room, &bob, Role::Member, &bob).await {
            Ok(_) => break,
            Err(Error::Unavailable { .. }) if begun.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("after {:?}: {error}", begun.elapsed()),
        }
    }
    assert_eq!(directory.room(&room).await.unwrap().unwrap().topic, "");
    assert!(session.commit_transaction().await.is_err());
}
