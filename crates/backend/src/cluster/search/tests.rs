//! The index over a real MongoDB: many small segments, few large ones, and what goes wrong between them.

use driver::bson::{Bson, DateTime, Uuid};

use super::*;
use crate::cluster::migrations::migrate;
use crate::cluster::mongo::tests::open;
use index::{Key, SEGMENTS};
use segment::Term;

/// Messages of ten rooms: every one has the word `all`, its own number, and one of a hundred others.
fn messages(numbers: std::ops::Range<u64>) -> Vec<(Entry, Vec<Term>)> {
    let message = |number: u64| {
        let entry = Entry {
            at: 1_795_000_000_000 + number.cast_signed() / 2,
            room: segment::digest(&format!("room-{}", number % 10)),
            seq: number + 1,
        };
        let words = [
            "all".to_owned(),
            format!("n{number}"),
            format!("w{}", number % 100),
        ];
        (entry, words.map(String::into_bytes).to_vec())
    };
    numbers.map(message).collect()
}

/// The seqs of what has all these words, newest first, with a cache that is empty.
async fn found(index: &Index, terms: &[Terms]) -> Vec<u64> {
    let wanted = Wanted {
        terms: terms.to_vec(),
        since: i64::MIN,
        until: i64::MAX,
    };
    let (cache, heads) = (Cache::default(), index.heads().await.unwrap());
    let mut candidates = Candidates::new(index, &cache, &wanted, &heads);
    let mut found = Vec::new();
    loop {
        let Ok(next) = candidates.next().await.unwrap() else {
            panic!("nobody merges");
        };
        match next {
            Some(entry) => found.push(entry.seq),
            None => return found,
        }
    }
}

fn one(word: &str) -> Terms {
    Terms::One(word.as_bytes().to_vec())
}

async fn index() -> Option<(Mongo, Index)> {
    let mongo = open().await?;
    migrate(&mongo).await.expect("a migration");
    Some((mongo.clone(), Index::new(mongo)))
}

/// Adds messages, ten in each segment.
async fn add_tens(index: &Index, tens: std::ops::Range<u64>) {
    for ten in tens {
        index.add(messages(ten * 10..ten * 10 + 10)).await.unwrap();
    }
}

async fn merge(index: &Index) -> bool {
    let heads = index.heads().await.unwrap();
    index.merge(heads).await.unwrap()
}

async fn check(index: &Index, count: u64) {
    let all: Vec<u64> = (1..=count).rev().collect();
    assert_eq!(found(index, &[one("all")]).await, all);
    assert_eq!(found(index, &[one("n17")]).await, [18]);
    assert_eq!(found(index, &[one("n17"), one("w18")]).await, [0_u64; 0]);
    let some: Vec<u64> = all.into_iter().filter(|seq| seq % 100 == 8).collect();
    assert_eq!(found(index, &[one("w7"), one("all")]).await, some);
    let beginning = Terms::Beginning(b"n17".to_vec());
    assert_eq!(
        found(index, &[beginning, one("w17")]).await.last(),
        Some(&18)
    );
    assert_eq!(found(index, &[one("none")]).await, [0_u64; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_large_segments_find_what_many_small_ones_found() {
    let Some((mongo, index)) = index().await else {
        return;
    };
    const COUNT: u64 = 64_000;
    for begin in (0..COUNT).step_by(1000) {
        index.add(messages(begin..begin + 1000)).await.unwrap();
    }
    // A batch that was stored again.
    index.add(messages(0..1000)).await.unwrap();
    index.add(Vec::new()).await.unwrap();
    assert_eq!(index.heads().await.unwrap().len(), 65);
    check(&index, COUNT).await;
    while merge(&index).await {}
    let heads = index.heads().await.unwrap();
    assert!(heads.len() < 8, "{heads:?}");
    assert!(heads.iter().any(|head| !head.inline), "{heads:?}");
    check(&index, COUNT).await;
    index.sweep().await.unwrap();
    check(&index, COUNT).await;
    mongo.database().drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_meets_a_merge_begins_again() {
    let Some((mongo, index)) = index().await else {
        return;
    };
    add_tens(&index, 0..8).await;
    let wanted = Wanted {
        terms: vec![one("all")],
        since: i64::MIN,
        until: i64::MAX,
    };
    let heads = index.heads().await.unwrap();
    assert!(merge(&index).await);
    let cache = Cache::default();
    let mut candidates = Candidates::new(&index, &cache, &wanted, &heads);
    assert!(candidates.next().await.unwrap().is_err());
    check(&index, 80).await;
    mongo.database().drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_and_frequent_is_found_without_a_look_at_old_segments() {
    let Some((mongo, index)) = index().await else {
        return;
    };
    add_tens(&index, 0..7).await;
    let mut heads = index.heads().await.unwrap();
    heads.sort_by_key(|head| head.newest);
    let oldest = doc! { "_id": heads[0].id };
    let segments = mongo.collection::<Fields>(SEGMENTS);
    segments.delete_one(oldest).await.unwrap();
    let wanted = Wanted {
        terms: vec![one("all")],
        since: i64::MIN,
        until: i64::MAX,
    };
    let cache = Cache::default();
    let mut candidates = Candidates::new(&index, &cache, &wanted, &heads);
    let mut found = 0;
    let is_gone = loop {
        match candidates.next().await.unwrap() {
            Ok(Some(_)) => found += 1,
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(is_gone, "the end cannot be known");
    assert!(found >= 20, "{found}");
    mongo.database().drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_merge_the_same_one_does_it_in_vain() {
    let Some((mongo, index)) = index().await else {
        return;
    };
    add_tens(&index, 0..8).await;
    // Another process does not begin while one may be at it.
    assert!(merge(&index).await);
    add_tens(&index, 8..16).await;
    let other = Index::new(mongo.clone());
    assert!(!merge(&other).await);
    // And if it did all the same, nothing would come of it.
    let heads = index.heads().await.unwrap();
    let others: Vec<Uuid> = heads.iter().map(|head| head.id).collect();
    let (a, b) = tokio::join!(index.become_one(&heads, &[]), other.become_one(&heads, &[]));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let left = index.heads().await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(!others.contains(&left[0].id));
    check(&index, 160).await;
    mongo.database().drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_off_merge_left_is_removed() {
    let Some((mongo, index)) = index().await else {
        return;
    };
    index.add(messages(0..100)).await.unwrap();
    let half = segment::build(messages(0..30_000)).unwrap();
    index.open_segment(&half).await.unwrap();
    let segments: Collection<Fields> = mongo.collection("search_segments");
    let blocks: Collection<Fields> = mongo.collection("search_blocks");
    check(&index, 100).await;
    // It may still be at work.
    index.sweep().await.unwrap();
    assert!(blocks.count_documents(doc! {}).await.unwrap() > 1);
    let long_ago = DateTime::from_millis(0);
    segments
        .update_many(doc! {}, doc! { "$set": { "made": long_ago } })
        .await
        .unwrap();
    index.sweep().await.unwrap();
    assert_eq!(blocks.count_documents(doc! {}).await.unwrap(), 0);
    assert_eq!(segments.count_documents(doc! {}).await.unwrap(), 1);
    check(&index, 100).await;
    mongo.database().drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_question_uses_an_index() {
    let Some((mongo, index)) = index().await else {
        return;
    };
    index.add(messages(0..10)).await.unwrap();
    let id = index.heads().await.unwrap()[0].id;
    let large = segment::build(messages(0..30_000)).unwrap();
    let key: Key = (index.open_segment(&large).await.unwrap(), 3);
    let place = doc! { "room": "room-1", "seq": 2_i64 };
    let covered = doc! {
        "find": "search_segments", "filter": index::searched(), "projection": index::head_fields(),
    };
    let explain = doc! { "explain": covered, "verbosity": "executionStats" };
    let plan = mongo.database().run_command(explain).await.unwrap();
    let executed = plan.get_document("executionStats").unwrap();
    assert_eq!(executed.get_i32("nReturned").unwrap(), 1, "{plan}");
    assert_eq!(executed.get_i32("totalDocsExamined").unwrap(), 0, "{plan}");
    let events: Collection<Fields> = mongo.collection(EVENTS);
    events.insert_one(doc! { "_id": &place }).await.unwrap();
    let places = vec![place];
    for (collection, filter) in [
        ("search_segments", index::searched()),
        ("search_segments", index::inline_of(&[id])),
        ("search_segments", index::over()),
        ("search_blocks", index::blocks_at(&[key])),
        ("search_blocks", index::blocks_of(id)),
        ("events", messages_at(places)),
    ] {
        let find = doc! { "find": collection, "filter": filter.clone() };
        let explain = doc! { "explain": find, "verbosity": "queryPlanner" };
        let plan = mongo.database().run_command(explain).await.unwrap();
        let plan = plan.get_document("queryPlanner").unwrap();
        let plan = Bson::from(plan.get_document("winningPlan").unwrap()).to_string();
        let by_index = plan.contains("IXSCAN") || plan.contains("IDHACK");
        assert!(by_index && !plan.contains("COLLSCAN"), "{filter}: {plan}");
    }
    mongo.database().drop().await.unwrap();
}
