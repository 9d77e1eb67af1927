//! Every query goes along an index and looks at little more than it answers.

use backend::Directory;
use backend::directory::{Cursor, Invite, RoomFilter, RoomKind, RoomPatch};
use mongodb::bson::{Document, doc};
use protocol::{Role, Seq, Timestamp};

use super::stage::{Stage, new, room, user};

#[tokio::test(flavor = "multi_thread")]
async fn every_query_goes_along_an_index() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let directory = stage.directory().await;
    for number in 0..300 {
        let (kind, by) = match number % 3 {
            0 => (RoomKind::Public, "alice"),
            1 => (RoomKind::Private, "alice"),
            _ => (RoomKind::Public, "bob"),
        };
        let new = new(&format!("room-{number:03}"), kind, by);
        directory.create_room(new, None).await.unwrap();
    }
    let mongo = stage.mongo().await;
    let database = mongo.database();
    let profile = |level| database.run_command(doc! { "profile": level });
    profile(2).await.unwrap();
    use_all_of_it(&directory).await;
    profile(0).await.unwrap();

    let mut seen = 0;
    let mut cursor = database
        .collection::<Document>("system.profile")
        .find(doc! { "planSummary": { "$exists": true } })
        .await
        .unwrap();
    while cursor.advance().await.unwrap() {
        let entry = cursor.deserialize_current().unwrap();
        if entry.get_str("ns").unwrap().ends_with("system.profile") {
            continue;
        }
        seen += 1;
        let plan = entry.get_str("planSummary").unwrap();
        assert!(!plan.contains("COLLSCAN"), "{entry}");
        assert!(!entry.get_bool("hasSortStage").unwrap_or(false), "{entry}");
        let number = |name: &str| {
            let number = entry
                .get(name)
                .and_then(|number| number.as_i64().or_else(|| number.as_i32().map(i64::from)));
            number.unwrap_or(0)
        };
        let answered = number("nreturned") + number("ndeleted") + number("nMatched");
        assert!(number("keysExamined") <= 2 * answered + 20, "{entry}");
        assert!(number("docsExamined") <= answered + 5, "{entry}");
    }
    assert!(seen > 50, "{seen} queries were seen");
}

async fn use_all_of_it(directory: &dyn Directory) {
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let here = room("room-000");
    directory
        .create_room(new("direct", RoomKind::Direct, "alice"), Some(&bob))
        .await
        .unwrap();
    let list = async |filter: RoomFilter, expected: usize| {
        let rooms = directory.rooms(&alice, &filter).await.unwrap();
        assert_eq!(rooms.len(), expected, "{filter:?}");
    };
    let all = RoomFilter {
        limit: 50,
        ..RoomFilter::default()
    };
    let text = |text: &str| Some(text.to_owned());
    list(all.clone(), 50).await;
    let mine = RoomFilter {
        mine: true,
        after: Some(room("room-100")),
        ..all.clone()
    };
    list(mine.clone(), 50).await;
    for (part, expected) in [
        ("room-12", 10),
        ("the room-17", 10),
        ("7", 50),
        ("$where", 0),
    ] {
        let filter = RoomFilter {
            text: text(part),
            ..all.clone()
        };
        list(filter, expected).await;
    }
    let kind = RoomFilter {
        kind: Some(RoomKind::Public),
        ..all.clone()
    };
    list(kind, 50).await;

    for name in ["bob", "carol", "dora"] {
        let who = user(name);
        let joined = directory.put_member(&here, &who, Role::Member, &who);
        joined.await.unwrap();
    }
    directory.members(&here, Some(&alice), 2).await.unwrap();
    directory.member(&here, &bob).await.unwrap();
    directory.room(&here).await.unwrap();
    let cursor = Cursor {
        room: here.clone(),
        user: bob.clone(),
        received: Seq::new(7).unwrap(),
        read: Seq::ZERO,
    };
    directory.advance(vec![cursor]).await.unwrap();
    let patch = RoomPatch {
        name: text("Another"),
        topic: text("About"),
    };
    directory.patch_room(&here, patch, &alice).await.unwrap();
    let now = Timestamp::now();
    let invite = Invite {
        code: "code".to_owned(),
        room: here.clone(),
        by: alice.clone(),
        uses_left: 2,
        expires_at: Timestamp::from_millis(now.as_millis() + 60_000),
    };
    directory.put_invite(invite, now).await.unwrap();
    for name in ["emil", "fritz"] {
        let who = user(name);
        let inside = directory.redeem_invite("code", &who, now);
        inside.await.unwrap();
    }
    let promoted = directory.set_role(&here, &bob, Role::Admin, &alice);
    promoted.await.unwrap();
    directory
        .set_role(&here, &bob, Role::Member, &alice)
        .await
        .unwrap();
    directory
        .remove_member(&here, &carol, &alice)
        .await
        .unwrap();
    let waiting = directory.unannounced(100).await.unwrap();
    assert_eq!(waiting.len(), 100);
    directory.announced(&waiting).await.unwrap();
    directory.delete_room(&here, &user("alice")).await.unwrap();
}
