//! The stored log on a real replica set.

use std::collections::BTreeSet;

use driver::bson::{Bson, Document as Fields, doc};
use futures_util::TryStreamExt as _;
use protocol::{Event, EventBody, MessageId, RoomId, Seq, Timestamp, UserId};

use super::{Inserted, Last, Store, driver};
use crate::cluster::{Mongo, migrations, mongo};

/// Opens a database of its own with everything in it, and drops it afterwards.
async fn with_store(test: impl AsyncFnOnce(&Store)) {
    let Some(mongo) = mongo::tests::open().await else {
        return;
    };
    migrations::migrate(&mongo).await.expect("a migration");
    test(&Store::new(mongo.clone())).await;
    mongo.database().drop().await.expect("a drop");
}

fn room() -> RoomId {
    RoomId::parse("general").expect("a room id")
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

fn seq(number: u64) -> Seq {
    Seq::new(number).expect("a seq")
}

fn text(text: &str) -> EventBody {
    EventBody::Message {
        text: text.to_owned(),
        reply_to: None,
        meta: None,
    }
}

/// An event of `general` by alice, `number` seconds after 1970.
fn event(number: u64, body: EventBody) -> Event {
    Event {
        room: room(),
        seq: seq(number),
        prev: Some(seq(number - 1)),
        at: Timestamp::from_millis(number.cast_signed() * 1000),
        from: Some(user("alice")),
        id: Some(MessageId::generate()),
        body,
    }
}

fn fence(number: u64) -> Event {
    Event {
        prev: None,
        from: None,
        id: None,
        ..event(number, EventBody::Fence {})
    }
}

fn messages(numbers: impl IntoIterator<Item = u64>) -> Vec<Event> {
    numbers
        .into_iter()
        .map(|number| event(number, text(&format!("number {number}"))))
        .collect()
}

async fn insert(store: &Store, events: &[Event]) {
    let Inserted { violations, .. } = store.insert(events).await.expect("an insert");
    assert!(violations.is_empty(), "{violations:?}");
}

fn seqs(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.seq.get()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_inserted_is_read() {
    with_store(async |store| {
        let events = messages(1..=25);
        insert(store, &events).await;
        let other = Event {
            room: RoomId::parse("general-2").unwrap(),
            ..event(1, text("x"))
        };
        insert(store, &[other]).await;
        let read = store.after(&room(), Seq::ZERO, 100).await.unwrap();
        assert_eq!(read, events);
        let read = store.after(&room(), seq(10), 3).await.unwrap();
        assert_eq!(seqs(&read), [11, 12, 13]);
        let read = store.before(&room(), seq(10), 3).await.unwrap();
        assert_eq!(seqs(&read), [7, 8, 9]);
        let read = store.before(&room(), Seq::MAX, 1).await.unwrap();
        assert_eq!(seqs(&read), [25]);
        assert_eq!(store.after(&room(), Seq::ZERO, 0).await.unwrap(), []);
        assert_eq!(store.before(&room(), Seq::MAX, 0).await.unwrap(), []);
        let last = Last {
            seq: seq(25),
            at: events[24].at,
        };
        assert_eq!(store.last(&room()).await.unwrap(), Some(last));
        let empty = RoomId::parse("genera").unwrap();
        assert_eq!(store.last(&empty).await.unwrap(), None);
        assert_eq!(store.after(&empty, Seq::ZERO, 9).await.unwrap(), []);
        assert!(store.is_stored(&room(), seq(25)).await.unwrap());
        assert!(!store.is_stored(&room(), seq(26)).await.unwrap());
        let by_id = |from: &str, event: &Event| {
            let (from, id) = (user(from), event.id.unwrap());
            async move { store.by_id(&room(), &from, id).await.unwrap() }
        };
        assert_eq!(by_id("alice", &events[3]).await, Some(events[3].clone()));
        assert_eq!(by_id("bob", &events[3]).await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_is_fine() {
    with_store(async |store| {
        let mut events = messages(1..=200);
        events.insert(50, fence(300));
        insert(store, &events[..100]).await;
        insert(store, &events).await;
        insert(store, &events).await;
        // Old and new mixed, in any order, some of them twice.
        let more = messages(201..=250);
        let mixed: Vec<_> = [&more[25..], &events[10..20], &more[..25], &more[20..30]].concat();
        insert(store, &mixed).await;
        let read = store.after(&room(), Seq::ZERO, 1000).await.unwrap();
        assert_eq!(read.len(), 251);
        assert!(read.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        insert(store, &[]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_reported_and_the_rest_goes_on() {
    with_store(async |store| {
        let events = messages(1..=10);
        insert(store, &events[..5]).await;
        let other_content = event(3, text("other"));
        let other_place = Event {
            seq: seq(8),
            ..events[1].clone()
        };
        let same_place = event(9, text("second of its place"));
        let batch = [
            events[5].clone(),
            other_content.clone(),
            events[6].clone(),
            other_place.clone(),
            events[8].clone(),
            same_place.clone(),
            Event {
                seq: seq(11),
                ..events[8].clone()
            },
            events[9].clone(),
        ];
        let Inserted { violations, .. } = store.insert(&batch).await.expect("an insert");
        let mut found: Vec<_> = violations
            .iter()
            .map(|(event, why)| (event.seq.get(), why.as_str()))
            .collect();
        found.sort_unstable();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(
            found[0]
                .1
                .starts_with("its place holds another event: message 3 of general")
        );
        assert!(
            found[1]
                .1
                .starts_with("its act has another place: message 2 of general")
        );
        assert!(found[2].1.contains("in the same batch"));
        assert!(
            found[3]
                .1
                .starts_with("its act has another place: message 9 of general")
        );
        let read = store.after(&room(), Seq::ZERO, 100).await.unwrap();
        assert_eq!(seqs(&read), [1, 2, 3, 4, 5, 6, 7, 9, 10]);
        assert_eq!(read[2], events[2]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_insert_the_same_at_once() {
    with_store(async |store| {
        let events = messages(1..=500);
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (store, events) = (store.clone(), events.clone());
                tokio::spawn(async move { store.insert(&events).await })
            })
            .collect();
        for task in tasks {
            let inserted = task.await.unwrap().expect("an insert");
            assert!(inserted.violations.is_empty());
        }
        let read = store.after(&room(), Seq::ZERO, 1000).await.unwrap();
        assert_eq!(read, events);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_is_walked_to_the_first_hole() {
    with_store(async |store| {
        let walked = async |from, limit| {
            let end = store.contiguous(&room(), seq(from), limit).await;
            end.expect("a seq").get()
        };
        assert_eq!(walked(0, 100).await, 0);
        insert(store, &messages((1..=10).chain(12..=20))).await;
        assert_eq!(walked(0, 100).await, 10);
        assert_eq!(walked(4, 3).await, 7);
        assert_eq!(walked(10, 100).await, 10);
        insert(store, &messages([11])).await;
        assert_eq!(walked(0, 100).await, 20);
        // A fence closes what is before it, holes included.
        let far = (1 << 32) + 1;
        insert(store, &messages([25])).await;
        insert(store, &[fence(far)]).await;
        insert(store, &messages([far + 1, far + 2, far + 4])).await;
        assert_eq!(walked(0, 100).await, far + 2);
        assert_eq!(walked(20, 0).await, far);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_found_by_time() {
    with_store(async |store| {
        let far = (7 << 32) + 1;
        let first = async |millis| {
            let at = Timestamp::from_millis(millis);
            let found = store.first_at(&room(), at).await.expect("an answer");
            found.map(Seq::get)
        };
        assert_eq!(first(0).await, None);
        let mut events = messages(1..=100);
        for (number, event) in events.iter_mut().enumerate() {
            // Three of each time.
            event.at = Timestamp::from_millis(number as i64 / 3 * 1000);
        }
        events.push(fence(far));
        events.extend(messages(far + 1..=far + 20));
        for event in &mut events[100..] {
            event.at = Timestamp::from_millis(100_000 + (event.seq.get() - far).cast_signed());
        }
        insert(store, &events).await;
        for millis in [-5, 0, 1, 999, 1000, 1001, 17_000, 33_000, 33_001, 99_999] {
            let expected = events.iter().find(|event| event.at.as_millis() >= millis);
            assert_eq!(
                first(millis).await,
                expected.map(|e| e.seq.get()),
                "{millis}"
            );
        }
        for millis in 100_000..=100_021 {
            let expected = events.iter().find(|event| event.at.as_millis() >= millis);
            assert_eq!(
                first(millis).await,
                expected.map(|e| e.seq.get()),
                "{millis}"
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_and_deleted() {
    with_store(async |store| {
        let mut events = messages(1..=6);
        for (event, from) in events
            .iter_mut()
            .zip(["alice", "bob", "bob", "alice", "bob"])
        {
            event.from = Some(user(from));
        }
        events[5].body = EventBody::Delete { target: seq(2) };
        insert(store, &events).await;
        let unread = async |name: &str, after, most| {
            let count = store
                .unread(&room(), &user(name), seq(after), Seq::MAX, most)
                .await;
            count.expect("a count")
        };
        assert_eq!(unread("alice", 0, 100).await, 3);
        assert_eq!(unread("alice", 2, 100).await, 2);
        assert_eq!(unread("alice", 0, 2).await, 2);
        assert_eq!(unread("alice", 0, 0).await, 0);
        assert_eq!(unread("stranger", 0, 100).await, 5);
        assert!(store.is_deleted(&room(), seq(2)).await.unwrap());
        assert!(!store.is_deleted(&room(), seq(1)).await.unwrap());
    })
    .await;
}

fn edit(target: u64) -> EventBody {
    EventBody::Edit {
        target: seq(target),
        text: "new".to_owned(),
    }
}

fn reaction(target: u64) -> EventBody {
    EventBody::Reaction {
        target: seq(target),
        emoji: "👍".to_owned(),
        on: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn related_events_are_bounded() {
    with_store(async |store| {
        let mut events = messages(1..=3);
        events.push(event(4, edit(1)));
        events.push(event(5, edit(1)));
        events.push(event(6, reaction(1)));
        events.push(event(7, EventBody::Delete { target: seq(1) }));
        events.push(event(8, reaction(3)));
        insert(store, &events).await;
        let related = async |targets: &[u64]| {
            let targets: Vec<_> = targets.iter().copied().map(seq).collect();
            let found = store.related(&room(), &targets).await;
            found.expect("related events")
        };
        assert_eq!(seqs(&related(&[1]).await), [5, 6, 7]);
        assert_eq!(seqs(&related(&[3, 1, 2]).await), [5, 6, 7, 8]);
        assert_eq!(seqs(&related(&[2]).await), [0_u64; 0]);
        assert_eq!(seqs(&related(&[]).await), [0_u64; 0]);

        // More than are read at once.
        for chunk in (9..=1400).collect::<Vec<u64>>().chunks(500) {
            let reactions: Vec<_> = chunk
                .iter()
                .map(|number| event(*number, reaction(1 + 2 * (number % 2))))
                .collect();
            insert(store, &reactions).await;
        }
        let found = related(&[1, 2, 3]).await;
        assert!(found.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        let reactions = found.iter().filter(|e| e.body.kind() == "reaction");
        assert_eq!(reactions.count(), 1394);
        assert_eq!(seqs(&found)[..3], [5, 6, 7]);
        let found = related(&[1]).await;
        assert_eq!(found.len(), 699);
        // Beyond the bound of one message the newest stay.
        for chunk in (1401..=2001).collect::<Vec<u64>>().chunks(500) {
            let reactions: Vec<_> = chunk.iter().map(|n| event(*n, reaction(3))).collect();
            insert(store, &reactions).await;
        }
        let found = related(&[3]).await;
        assert_eq!(found.len(), 1000);
        assert_eq!(found[999].seq, seq(2001));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_logs_stay_empty() {
    with_store(async |store| {
        insert(store, &messages(1..=2500)).await;
        let other = Event {
            room: RoomId::parse("random").unwrap(),
            ..event(1, text("stays"))
        };
        insert(store, std::slice::from_ref(&other)).await;
        assert!(!store.is_forgotten(&room()).await.unwrap());
        store.forget(&room()).await.expect("a forget");
        store.forget(&room()).await.expect("a second forget");
        assert!(store.is_forgotten(&room()).await.unwrap());
        assert_eq!(store.last(&room()).await.unwrap(), None);
        // What was on its way is removed.
        insert(store, &messages(2501..=2510)).await;
        assert_eq!(store.last(&room()).await.unwrap(), None);
        assert_eq!(
            store.after(&other.room, Seq::ZERO, 9).await.unwrap(),
            [other]
        );

        // A broken-off forget is finished.
        let random = RoomId::parse("random").unwrap();
        let mark = doc! { "$set": { "purged": false } };
        let forgotten = store.mongo.collection::<Fields>("forgotten");
        let marking = forgotten.update_one(doc! { "_id": "random" }, mark);
        marking.upsert(true).await.unwrap();
        assert_eq!(store.purge(10).await.unwrap(), 1);
        assert_eq!(store.purge(10).await.unwrap(), 0);
        assert_eq!(store.last(&random).await.unwrap(), None);
    })
    .await;
}

/// Every query, as the server saw it, went by an index and sorted nothing.
#[tokio::test(flavor = "multi_thread")]
async fn queries_use_indexes() {
    with_store(async |store| {
        let mut events = messages(1..=3000);
        for (number, event) in events.iter_mut().enumerate().skip(100) {
            match number % 10 {
                1 => event.body = edit(number as u64 % 50 + 1),
                2..5 => event.body = reaction(number as u64 % 50 + 1),
                5 => event.body = EventBody::Delete { target: seq(7) },
                6 if number % 100 == 6 => *event = fence(number as u64 + 1),
                _ => {}
            }
        }
        for room in ["a", "general", "z"] {
            for events in events.chunks(1000) {
                let events: Vec<_> = events
                    .iter()
                    .map(|event| Event {
                        room: RoomId::parse(room).unwrap(),
                        id: event.id.map(|_| MessageId::generate()),
                        ..event.clone()
                    })
                    .collect();
                insert(store, &events).await;
            }
        }
        profile(&store.mongo, 2).await;
        let room = room();
        store.last(&room).await.unwrap();
        let (from, id) = (user("alice"), MessageId::generate());
        store.by_id(&room, &from, id).await.unwrap();
        store.after(&room, seq(1000), 100).await.unwrap();
        store.before(&room, seq(1000), 100).await.unwrap();
        store.is_stored(&room, seq(1000)).await.unwrap();
        store.contiguous(&room, seq(500), 100).await.unwrap();
        store
            .first_at(&room, Timestamp::from_millis(777_000))
            .await
            .unwrap();
        store
            .unread(&room, &user("bob"), seq(2900), Seq::MAX, 50)
            .await
            .unwrap();
        store.is_deleted(&room, seq(7)).await.unwrap();
        store.related(&room, &[seq(3)]).await.unwrap();
        let all: Vec<_> = (1..=100).map(seq).collect();
        store.related(&room, &all).await.unwrap();
        store.is_forgotten(&room).await.unwrap();
        store.insert(&events[10..60]).await.unwrap();
        store.forget(&RoomId::parse("a").unwrap()).await.unwrap();
        store.purge(10).await.unwrap();
        profile(&store.mongo, 0).await;
        let checked = check_plans(&store.mongo).await;
        let kinds: BTreeSet<_> = checked.iter().map(String::as_str).collect();
        for kind in ["find", "distinct", "aggregate", "update", "remove"] {
            assert!(kinds.contains(kind), "no {kind} was looked at: {kinds:?}");
        }
        assert!(checked.len() > 30, "{checked:?}");
    })
    .await;
}

async fn profile(mongo: &Mongo, level: i32) {
    let command = doc! { "profile": level };
    mongo
        .database()
        .run_command(command)
        .await
        .expect("a profile");
}

/// Looks at what the profiler kept; answers the kinds of commands it saw.
async fn check_plans(mongo: &Mongo) -> Vec<String> {
    let profiled = mongo.collection::<Fields>("system.profile");
    let commands = profiled.find(doc! { "planSummary": { "$exists": true } });
    let commands: Vec<Fields> = commands.await.unwrap().try_collect().await.unwrap();
    let mut kinds = Vec::new();
    for command in commands {
        let plan = command.get_str("planSummary").unwrap();
        let good = ["IXSCAN", "IDHACK", "COUNT_SCAN", "DISTINCT_SCAN"];
        let is_good = plan
            .split(", ")
            .any(|part| good.iter().any(|g| part.starts_with(g)));
        assert!(is_good && !plan.contains("COLLSCAN"), "{plan}: {command}");
        let sorted = command.get("hasSortStage") == Some(&Bson::Boolean(true));
        assert!(!sorted, "sorts: {command}");
        kinds.push(match command.get_document("command") {
            Ok(sent) if command.get_str("op").is_ok_and(|op| op == "command") => {
                sent.keys().next().expect("a command").clone()
            }
            _ => command.get_str("op").unwrap().replace("query", "find"),
        });
        let number = |field| match command.get(field) {
            Some(Bson::Int32(n)) => i64::from(*n),
            Some(Bson::Int64(n)) => *n,
            _ => 0,
        };
        let (looked, found) = (number("docsExamined"), number("nreturned"));
        let writes = number("ndeleted") + number("nMatched");
        assert!(
            looked <= 1000.max(found).max(writes),
            "reads {looked}: {command}"
        );
    }
    kinds
}
