//! What is stored is found, while workers are killed and MongoDB has elections; and the command about the index.

use std::collections::BTreeSet;

use backend::Search as _;
use backend::cluster::Mongo as Database;
use backend::cluster::search::MongoSearch;
use backend::search::Query;
use protocol::RoomId;
use testbed::{Mongo, Servers, shared};

use super::bench::{Bench, messages, room, until, with_bench};

/// The seqs of what is found of a room's messages.
async fn found(bench: &Bench, room: &RoomId) -> BTreeSet<u64> {
    let mongo = Database::new(&bench.settings).await.unwrap();
    let search = MongoSearch::new(mongo, bench.redis.clone());
    let query = Query {
        text: "number".to_owned(),
        rooms: vec![room.clone()],
        from: None,
        since: None,
        until: None,
        cursor: None,
        limit: 100_000,
    };
    let hits = search.search(&query).await.unwrap();
    let seqs: BTreeSet<u64> = hits.iter().map(|hit| hit.seq.get()).collect();
    assert_eq!(hits.len(), seqs.len(), "each once");
    seqs
}

/// Everything that was stored before the question is in the answer.
async fn all_stored_is_found(bench: &Bench, room: &RoomId) {
    let stored = bench.stored(room).await;
    let found = found(bench, room).await;
    let missing: Vec<u64> = stored
        .iter()
        .map(|event| event.seq.get())
        .filter(|seq| !found.contains(seq))
        .collect();
    assert_eq!(missing, [0_u64; 0]);
}

/// Two workers, of which one is always about to die.
#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_leave_nothing_that_is_not_found() {
    with_bench(async |bench: Bench| {
        let url = bench.settings.rabbitmq.url.clone();
        let (general, random) = (room("general"), room("random"));
        let mut survivor = bench.program(&url).await;
        for round in 0..6_u64 {
            let next = bench.program(&url).await;
            let numbers = round * 500 + 1..=round * 500 + 500;
            for room in [&general, &random] {
                for events in messages(room, numbers.clone()).chunks(7) {
                    bench.publish(room, events).await;
                }
            }
            let some = (round as usize) * 500 + 100;
            bench.stored_count(&general, some).await;
            survivor.kill();
            all_stored_is_found(&bench, &general).await;
            all_stored_is_found(&bench, &random).await;
            survivor = next;
        }
        for room in [&general, &random] {
            bench.stored_count(room, 3000).await;
            assert_eq!(found(&bench, room).await, (1..=3000).collect());
        }
        until("the index is known to be complete", async || {
            survivor.metric("chat_search_complete").await == 1.0
        })
        .await;
        until("few segments", async || {
            let segments = survivor.metric("chat_search_segments").await;
            segments > 0.0 && segments < 40.0
        })
        .await;
        assert_eq!(found(&bench, &general).await, (1..=3000).collect());
    })
    .await;
}

/// MongoDB has another primary while batches are stored and segments are merged.
#[tokio::test(flavor = "multi_thread")]
async fn an_election_loses_nothing_from_the_index() {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    let mongo = Mongo::start(3).await.unwrap();
    let servers = Servers {
        mongodb_uri: mongo.url(),
        ..shared().await.clone()
    };
    let bench = Bench::new(servers).await;
    let general = room("general");
    let url = bench.settings.rabbitmq.url.clone();
    let (worker, _other) = (bench.program(&url).await, bench.program(&url).await);
    let events = messages(&general, 1..=4000);
    for (number, events) in events.chunks(5).enumerate() {
        bench.publish(&general, events).await;
        if number == 300 || number == 600 {
            mongo.step_down(5).await.unwrap();
        }
    }
    bench.stored_count(&general, 4000).await;
    until("an answer from the new primary", async || {
        worker.metric("chat_search_complete").await == 1.0
    })
    .await;
    assert_eq!(found(&bench, &general).await, (1..=4000).collect());
    let (ok, text) = bench.index(&["status"]).await;
    assert!(ok && text.starts_with("complete; "), "{text}");
}

/// An index that is lost is made again without being asked for, and one that is there when somebody asks.
#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_rebuilt_beside_what_goes_on() {
    with_bench(async |bench: Bench| {
        let general = room("general");
        let worker = bench.worker().await.ready().await;
        let events = messages(&general, 1..=2000);
        for events in events[..1000].chunks(100) {
            bench.publish(&general, events).await;
        }
        bench.stored_count(&general, 1000).await;
        let database = Database::new(&bench.settings).await.unwrap();
        let segments = database.collection::<mongodb::bson::Document>("search_segments");
        segments.delete_many(mongodb::bson::doc! {}).await.unwrap();
        until("it is found again", async || {
            found(&bench, &general).await.len() == 1000
        })
        .await;

        let asking = async {
            let (ok, text) = bench.index(&["rebuild"]).await;
            assert!(ok, "{text}");
            assert!(
                text.lines().last().unwrap().starts_with("complete; "),
                "{text}"
            );
        };
        let going_on = async {
            for events in events[1000..].chunks(20) {
                bench.publish(&general, events).await;
                assert!(found(&bench, &general).await.len() >= 1000);
            }
        };
        tokio::join!(asking, going_on);
        bench.stored_count(&general, 2000).await;
        assert_eq!(found(&bench, &general).await, (1..=2000).collect());
        assert!(worker.metric("chat_search_messages").await > 0.0);
        worker.stop().await;

        // Without a worker the command does it all.
        segments.delete_many(mongodb::bson::doc! {}).await.unwrap();
        let (ok, text) = bench.index(&["status"]).await;
        assert!(
            ok && text.starts_with("being made, 0 events walked; 0 segments"),
            "{text}"
        );
        until("the lock of the worker is over", async || {
            let (ok, text) = bench.index(&["rebuild"]).await;
            ok && text.contains("complete; ")
        })
        .await;
        assert_eq!(found(&bench, &general).await, (1..=2000).collect());
        let (ok, text) = bench.index(&["explode"]).await;
        assert!(!ok && text.contains("Usage:"), "{text}");
        let (ok, text) = bench.index(&[]).await;
        assert!(ok && text.contains("Usage:"), "{text}");
    })
    .await;
}
