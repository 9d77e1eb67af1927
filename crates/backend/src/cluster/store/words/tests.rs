//! What is stored is found: whoever dies, and whatever becomes of the index.

use std::collections::BTreeMap;

use driver::bson::{DateTime, Document as Fields};
use protocol::{MessageId, Timestamp};

use super::*;
use crate::cluster::{Mongo, Redis, migrations, mongo};
use crate::search::{Query, Search as _};

struct Stage {
    mongo: Mongo,
    store: Store,
    search: crate::cluster::search::MongoSearch,
}

/// Opens a database of its own, and drops it afterwards.
async fn with_stage(test: impl AsyncFnOnce(&Stage)) {
    let Some(mongo) = mongo::tests::open().await else {
        return;
    };
    migrations::migrate(&mongo).await.expect("a migration");
    let settings = mongo::tests::settings().await;
    let redis = Redis::new(&settings).expect("a handle");
    let stage = Stage {
        store: Store::new(mongo.clone()),
        search: crate::cluster::search::MongoSearch::new(mongo.clone(), redis),
        mongo,
    };
    test(&stage).await;
    stage.mongo.database().drop().await.expect("a drop");
}

impl Stage {
    async fn insert(&self, events: &[Event]) {
        let inserted = self.store.insert(events).await.expect("an insert");
        assert!(inserted.violations.is_empty(), "{:?}", inserted.violations);
    }

    /// The seqs of messages with these words in rooms `a` and `b`, newest first.
    async fn found(&self, words: &str) -> Vec<u64> {
        let query = Query {
            text: words.to_owned(),
            rooms: vec![room("a"), room("b")],
            from: None,
            since: None,
            until: None,
            cursor: None,
            limit: 5000,
        };
        let hits = self.search.search(&query).await.expect("an answer");
        hits.iter().map(|hit| hit.seq.get()).collect()
    }

    async fn lose(&self) {
        for collection in ["search_segments", "search_blocks"] {
            let segments = self.fields(collection);
            segments.delete_many(doc! {}).await.unwrap();
        }
    }

    /// Walks to the end; answers how many events were walked.
    async fn cover(&self) -> usize {
        let mut walked = 0;
        loop {
            match self.store.cover().await.expect("a step") {
                Cover::Complete => return walked,
                Cover::Walked(more) => walked += more,
                Cover::Elsewhere => panic!("nobody else is here"),
            }
        }
    }

    async fn merge(&self) -> bool {
        let indexed = self.store.look_at_index().await.unwrap();
        self.store.merge_index(indexed).await.unwrap()
    }

    /// As if the time had come at which a rebuild begins.
    async fn wait_no_longer(&self) {
        let segments = self.fields("search_segments");
        let now = doc! { "$set": { "begun": DateTime::now() } };
        let begins = segments.update_one(doc! { "_id": "coverage" }, now);
        assert_eq!(begins.await.unwrap().modified_count, 1);
    }

    /// How many segments go with the next rebuild.
    async fn old(&self) -> u64 {
        let segments = self.fields("search_segments");
        segments
            .count_documents(doc! { "state": "old" })
            .await
            .unwrap()
    }

    /// As if all segments of now had been written long ago.
    async fn age(&self) {
        let long_ago = doc! { "$set": { "made": DateTime::from_millis(0) } };
        let segments = self.fields("search_segments");
        let written = doc! { "state": { "$exists": true } };
        segments.update_many(written, long_ago).await.unwrap();
    }

    /// Makes MongoDB refuse everything that is put into a collection, or not any more.
    async fn refuse(&self, collection: &str, is_refused: bool) {
        let validator = if is_refused {
            doc! { "impossible": true }
        } else {
            doc! {}
        };
        let change = doc! { "collMod": collection, "validator": validator };
        self.mongo.database().run_command(change).await.unwrap();
    }

    fn fields(&self, collection: &str) -> Collection<Fields> {
        self.mongo.collection(collection)
    }
}

fn room(id: &str) -> RoomId {
    RoomId::parse(id).unwrap()
}

fn at(id: &str, number: u64, body: EventBody) -> Event {
    Event {
        room: room(id),
        seq: Seq::new(number).unwrap(),
        prev: Some(Seq::new(number - 1).unwrap()),
        at: Timestamp::from_millis(1_795_000_000_000 + number.cast_signed() * 10),
        from: Some(UserId::parse("alice").unwrap()),
        id: Some(MessageId::generate()),
        body,
    }
}

fn message(id: &str, number: u64, text: &str) -> Event {
    let body = EventBody::Message {
        text: text.to_owned(),
        reply_to: None,
        meta: None,
    };
    at(id, number, body)
}

fn edit(id: &str, number: u64, target: u64, text: &str) -> Event {
    let body = EventBody::Edit {
        target: Seq::new(target).unwrap(),
        text: text.to_owned(),
    };
    at(id, number, body)
}

fn delete(id: &str, number: u64, target: u64) -> Event {
    let target = Seq::new(target).unwrap();
    at(id, number, EventBody::Delete { target })
}

fn apples(id: &str, numbers: std::ops::Range<u64>) -> Vec<Event> {
    numbers
        .map(|number| message(id, number, &format!("apple w{number}")))
        .collect()
}

/// What is in `a` and `b`, and what of it is found by `apple`.
async fn some_history(stage: &Stage) -> Vec<u64> {
    for numbers in [1..600, 600..601, 601..1200] {
        stage.insert(&apples("a", numbers)).await;
    }
    stage.insert(&apples("b", 2001..2010)).await;
    let changes = [
        edit("a", 1200, 7, "plum"),
        edit("a", 1201, 8, "apple again"),
        delete("a", 1202, 9),
        edit("a", 1203, 7, "cherry"),
    ];
    stage.insert(&changes).await;
    let left = (1..1200).filter(|number| ![7, 9].contains(number));
    left.chain(2001..2010).rev().collect()
}

async fn check(stage: &Stage, apples: &[u64]) {
    assert_eq!(stage.found("apple").await, apples);
    assert_eq!(stage.found("plum").await, [0_u64; 0]);
    assert_eq!(stage.found("cherry").await, [7]);
    assert_eq!(stage.found("apple again").await, [8]);
    assert!(!stage.found("w9").await.contains(&9));
    assert_eq!(stage.found("w1199").await, [1199]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_without_an_index_is_found_after_a_walk() {
    with_stage(async |stage: &Stage| {
        let apples = some_history(stage).await;
        check(stage, &apples).await;
        stage.lose().await;
        assert_eq!(stage.found("apple").await, [0_u64; 0]);
        assert!(!stage.store.look_at_index().await.unwrap().is_complete);
        assert_eq!(stage.cover().await, 1212);
        check(stage, &apples).await;
        let indexed = stage.store.look_at_index().await.unwrap();
        assert!(indexed.is_complete);
        assert_eq!(indexed.messages, 1207);
        assert_eq!(stage.cover().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_that_was_broken_off_is_gone_on_with() {
    with_stage(async |stage: &Stage| {
        let apples = some_history(stage).await;
        stage.lose().await;
        let Cover::Walked(first) = stage.store.cover().await.unwrap() else {
            panic!("there is something to walk");
        };
        // Another process has to wait as long as this one may be alive.
        let other = Store::new(stage.mongo.clone());
        assert_eq!(other.cover().await.unwrap(), Cover::Elsewhere);
        let locks = stage.fields("migrations");
        let over = doc! { "$set": { "until": DateTime::from_millis(0) } };
        let lock = doc! { "_id": "search coverage" };
        locks.update_one(lock, over).await.unwrap();
        let other = Stage {
            store: other,
            mongo: stage.mongo.clone(),
            search: crate::cluster::search::MongoSearch::new(
                stage.mongo.clone(),
                Redis::new(&mongo::tests::settings().await).unwrap(),
            ),
        };
        assert_eq!(first + other.cover().await, 1212);
        check(stage, &apples).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_replaces_what_was_there_and_keeps_what_comes_meanwhile() {
    with_stage(async |stage: &Stage| {
        stage.cover().await;
        let mut apples = some_history(stage).await;
        // Something that belongs to nothing, and something that is lacking.
        stage
            .store
            .index(&[&message("a", 3000, "apple of before")])
            .await
            .unwrap();
        stage.age().await;
        let segments = stage.fields("search_segments");
        let first = segments.delete_one(doc! { "count": 599 }).await.unwrap();
        assert_eq!(first.deleted_count, 1);
        assert!(stage.found("apple").await.len() < 700);

        stage.store.rebuild_index().await.unwrap();
        assert!(matches!(
            stage.store.cover().await.unwrap(),
            Cover::Walked(_)
        ));
        // Behind and ahead of the walk.
        stage.insert(&[message("a", 1204, "apple meanwhile")]).await;
        stage.insert(&[message("b", 2010, "apple meanwhile")]).await;
        stage
            .insert(&[edit("a", 1205, 10, "quince"), delete("b", 2011, 2001)])
            .await;
        apples.retain(|number| ![10, 2001].contains(number));
        apples.extend([1204, 2010]);
        apples.sort_unstable_by(|a, b| b.cmp(a));
        stage.cover().await;
        check(stage, &apples).await;
        assert_eq!(stage.found("meanwhile").await, [2010, 1204]);
        assert_eq!(stage.found("quince").await, [10]);
        while stage.merge().await {}
        stage.store.sweep_index(10).await.unwrap();
        let left = segments
            .count_documents(doc! { "made": DateTime::from_millis(0) })
            .await
            .unwrap();
        assert_eq!(left, 0);
        check(stage, &apples).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_segment_is_made_anew() {
    with_stage(async |stage: &Stage| {
        stage.cover().await;
        let apples = some_history(stage).await;
        for number in 4000..4016 {
            stage.insert(&[message("b", number, "pear")]).await;
        }
        let segments = stage.fields("search_segments");
        let break_it = doc! { "$set": { "blocks": [driver::bson::Binary {
            subtype: driver::bson::spec::BinarySubtype::Generic,
            bytes: vec![1, 200],
        }] } };
        let smallest = doc! { "count": 1 };
        let broken = segments.update_one(smallest, break_it).await.unwrap();
        assert_eq!(broken.modified_count, 1);
        assert!(stage.merge().await);
        assert!(!stage.store.look_at_index().await.unwrap().is_complete);
        // Only that one goes, and not before everything is stored of which it was made.
        assert_eq!(stage.old().await, 1);
        assert_eq!(stage.store.cover().await.unwrap(), Cover::Elsewhere);
        stage.wait_no_longer().await;
        assert!(stage.cover().await > 1212);
        assert_eq!(stage.old().await, 0);
        stage.store.sweep_index(10).await.unwrap();
        check(stage, &apples).await;
        assert_eq!(stage.found("pear").await.len(), 16);
        while stage.merge().await {}
        assert_eq!(stage.found("pear").await.len(), 16);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_segment_that_lacks_a_block_is_noticed() {
    with_stage(async |stage: &Stage| {
        stage.cover().await;
        let apples = some_history(stage).await;
        let large = (1..30_000).map(|number| {
            let entry = Entry {
                at: 1,
                room: digest("a"),
                seq: number,
            };
            (entry, vec![format!("word{number}").into_bytes()])
        });
        let large = crate::cluster::search::segment::build(large.collect());
        let id = stage.store.search.open_segment(&large.unwrap()).await;
        let segments = stage.fields("search_segments");
        let live = doc! { "$set": { "state": "live" } };
        segments
            .update_one(doc! { "_id": id.unwrap() }, live)
            .await
            .unwrap();
        stage.store.sweep_index(10).await.unwrap();
        assert!(stage.store.look_at_index().await.unwrap().is_complete);
        let blocks = stage.fields("search_blocks");
        let lost = blocks.delete_one(doc! { "_id.block": 2 }).await.unwrap();
        assert_eq!(lost.deleted_count, 1);
        stage.store.sweep_index(10).await.unwrap();
        assert!(!stage.store.look_at_index().await.unwrap().is_complete);
        stage.wait_no_longer().await;
        stage.cover().await;
        stage.store.sweep_index(10).await.unwrap();
        assert_eq!(blocks.count_documents(doc! {}).await.unwrap(), 0);
        check(stage, &apples).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_for_a_rebuild_that_nobody_began_goes_with_the_next() {
    with_stage(async |stage: &Stage| {
        stage.cover().await;
        let apples = some_history(stage).await;
        let segments = stage.fields("search_segments");
        let old = doc! { "$set": { "state": "old" } };
        segments
            .update_one(doc! { "state": "live" }, old)
            .await
            .unwrap();
        stage.store.sweep_index(10).await.unwrap();
        assert!(stage.cover().await > 1000);
        assert_eq!(stage.old().await, 0);
        check(stage, &apples).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_in_the_index_before_it_is_stored() {
    with_stage(async |stage: &Stage| {
        let events = apples("a", 1..100);
        stage.insert(&events[..1]).await;
        // Dead between the two: nothing is stored that is not found.
        stage.refuse("search_segments", true).await;
        assert!(stage.store.insert(&events).await.is_err());
        let stored = stage.store.after(&room("a"), Seq::ZERO, 1000).await;
        assert_eq!(stored.unwrap().len(), 1);
        stage.refuse("search_segments", false).await;
        // And the other way round, twice.
        for _ in 0..2 {
            let events: Vec<&Event> = events.iter().collect();
            stage.store.index(&events).await.unwrap();
            assert_eq!(stage.found("apple").await, [1]);
        }
        stage.insert(&events).await;
        let all: Vec<u64> = (1..100).rev().collect();
        assert_eq!(stage.found("apple").await, all);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_room_leaves_the_index() {
    with_stage(async |stage: &Stage| {
        for number in 1..20 {
            stage.insert(&apples("a", number..number + 1)).await;
            stage.insert(&apples("b", number..number + 1)).await;
        }
        stage.cover().await;
        while stage.merge().await {}
        let messages = async || stage.store.look_at_index().await.unwrap().messages;
        assert_eq!(messages().await, 38);
        stage.store.forget(&room("b")).await.unwrap();
        assert_eq!(stage.found("apple").await.len(), 19);
        stage.store.sweep_index(10).await.unwrap();
        assert_eq!(messages().await, 19);
        assert_eq!(stage.found("apple").await.len(), 19);
        // What comes too late goes as well.
        stage.insert(&apples("b", 30..33)).await;
        assert_eq!(messages().await, 22);
        stage.store.sweep_index(10).await.unwrap();
        assert_eq!(messages().await, 19);
        let left = stage.store.to_leave_out(10).await.unwrap();
        assert!(left.is_empty());
        // The last one leaves nothing at all.
        stage.store.forget(&room("a")).await.unwrap();
        stage.store.sweep_index(10).await.unwrap();
        assert_eq!(messages().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_message_that_comes_back_is_found_as_it_is_by_now() {
    with_stage(async |stage: &Stage| {
        let parked: Vec<Event> = apples("a", 1..4);
        for event in &parked {
            let now = Timestamp::now();
            let kept = stage
                .store
                .keep_place(&event.room, event.seq, event.prev, now);
            kept.await.unwrap();
        }
        let changes = [edit("a", 4, 2, "quince"), delete("a", 5, 3)];
        stage.insert(&changes).await;
        assert_eq!(stage.found("apple").await, [0_u64; 0]);
        for event in &parked {
            let inserted = stage.store.insert_again(event).await.unwrap();
            assert!(inserted.violations.is_empty());
        }
        assert_eq!(stage.found("apple").await, [1]);
        assert_eq!(stage.found("quince").await, [2]);
    })
    .await;
}

/// Whoever is in few rooms of many finds the words there, however frequent they are elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_words_among_those_of_many_other_rooms_are_found() {
    with_stage(async |stage: &Stage| {
        stage.insert(&[message("a", 1, "apple first")]).await;
        let mut others = BTreeMap::new();
        for number in 2..12_100_u64 {
            let id = format!("other-{}", number % 40);
            let event = message(&id, number, "apple");
            others.entry(id).or_insert_with(Vec::new).push(event);
        }
        for events in others.values() {
            stage.insert(events).await;
        }
        assert_eq!(stage.found("apple").await, [1]);
        while stage.merge().await {}
        assert_eq!(stage.found("apple").await, [1]);
        stage.insert(&[message("b", 20_000, "apple last")]).await;
        assert_eq!(stage.found("apple").await, [20_000, 1]);
        assert_eq!(stage.found("ap").await, [20_000, 1]);
    })
    .await;
}
