//! Promises of search.

use protocol::{EventBody, Seq, Timestamp};

use super::{append, eventually, room, seq, text, user};
use crate::Backends;
use crate::search::{Cursor, Hit, Query};

fn query(words: &str, rooms: &[&str]) -> Query {
    Query {
        text: words.to_owned(),
        rooms: rooms.iter().map(|id| room(id)).collect(),
        from: None,
        since: None,
        until: None,
        cursor: None,
        limit: 100,
    }
}

async fn search(family: &Backends, query: &Query) -> Vec<Hit> {
    family.search.search(query).await.expect("an answer")
}

/// The seqs of what is found in `general`, newest first.
async fn found(family: &Backends, words: &str) -> Vec<u64> {
    let hits = search(family, &query(words, &["general"])).await;
    hits.iter().map(|hit| hit.seq.get()).collect()
}

/// All words must occur, whatever their case, accents and order; a search right after the append finds it.
pub async fn words_are_found(family: &Backends) {
    let first = append(family, "general", "alice", text("The quick brown fox")).await;
    append(family, "general", "bob", text("Crème brûlée, quickly!")).await;
    append(family, "general", "bob", text("東京都に行く")).await;
    append(family, "random", "bob", text("quick elsewhere")).await;
    assert_eq!(found(family, "FOX quick").await, [1]);
    assert_eq!(found(family, "creme Brulee").await, [2]);
    assert_eq!(found(family, "crème").await, [2]);
    assert_eq!(found(family, "東京").await, [3]);
    assert_eq!(found(family, "京東").await, [0_u64; 0]);
    assert_eq!(found(family, "quick cat").await, [0_u64; 0]);
    assert_eq!(found(family, "").await, [0_u64; 0]);
    assert_eq!(found(family, "fo").await, [1]);
    let hit = &search(family, &query("fox", &["general"])).await[0];
    let expected = Hit {
        room: room("general"),
        seq: first.seq,
        id: first.id.expect("an id"),
        from: user("alice"),
        at: first.at,
        text: "The quick brown fox".to_owned(),
    };
    assert_eq!(*hit, expected);
}

/// All words must occur, however many there are.
pub async fn long_queries_use_every_word(family: &Backends) {
    let words: Vec<String> = (0..60).map(|number| format!("w{number}")).collect();
    append(family, "general", "alice", text(&words.join(" "))).await;
    // Each of these lacks one word.
    for lacking in 0..60 {
        let mut words = words.clone();
        words.remove(lacking);
        append(family, "general", "alice", text(&words.join(" "))).await;
    }
    assert_eq!(found(family, &words.join(" ")).await, [1]);
    let twice = [words.clone(), words].concat();
    assert_eq!(found(family, &twice.join(" ")).await, [1]);

    // As many words as a query of 256 characters can have.
    let letters: Vec<char> = ('\u{4E00}'..).take(256).collect();
    let all: String = letters.iter().collect();
    append(family, "general", "alice", text(&all)).await;
    let other: String = letters.iter().rev().collect();
    append(family, "general", "alice", text(&other)).await;
    assert_eq!(found(family, &all).await, [62]);
    let but_one: String = letters[..255].iter().collect();
    append(family, "general", "alice", text(&but_one)).await;
    assert_eq!(found(family, &all).await, [62]);
}

/// The present text is found, the former not; what was deleted is not found.
pub async fn edits_and_deletes_count(family: &Backends) {
    for words in ["apple pie", "apple juice", "apple tree"] {
        append(family, "general", "alice", text(words)).await;
    }
    assert_eq!(found(family, "apple").await, [3, 2, 1]);
    let edit = |target, text: &str| EventBody::Edit {
        target: seq(target),
        text: text.to_owned(),
    };
    append(family, "general", "alice", edit(1, "plum pie")).await;
    append(family, "general", "alice", edit(1, "cherry pie")).await;
    append(
        family,
        "general",
        "alice",
        EventBody::Delete { target: seq(2) },
    )
    .await;
    assert_eq!(found(family, "apple").await, [3]);
    assert_eq!(found(family, "plum").await, [0_u64; 0]);
    assert_eq!(found(family, "pie").await, [1]);
    let hits = search(family, &query("cherry", &["general"])).await;
    assert_eq!(hits[0].text, "cherry pie");
    append(family, "general", "alice", edit(3, "fig")).await;
    append(
        family,
        "general",
        "alice",
        EventBody::Delete { target: seq(3) },
    )
    .await;
    assert_eq!(found(family, "fig").await, [0_u64; 0]);
}

/// The last word may be unfinished, from two letters on; the others are whole.
pub async fn beginnings_are_found(family: &Backends) {
    for words in ["international news", "internet", "intern", "in", "x ray"] {
        append(family, "general", "alice", text(words)).await;
    }
    assert_eq!(found(family, "in").await, [4, 3, 2, 1]);
    assert_eq!(found(family, "int").await, [3, 2, 1]);
    assert_eq!(found(family, "intern").await, [3, 2, 1]);
    assert_eq!(found(family, "interne").await, [2]);
    assert_eq!(found(family, "news inter").await, [1]);
    assert_eq!(found(family, "inter news").await, [0_u64; 0]);
    assert_eq!(found(family, "i").await, [0_u64; 0]);
    assert_eq!(found(family, "r x").await, [0_u64; 0]);
    for number in 0..200 {
        append(family, "general", "alice", text(&format!("wordy{number}"))).await;
    }
    // So many at once may take an index longer than a search waits for it.
    eventually("all of them", async || {
        (found(family, "wordy").await.len() == 100).then_some(())
    })
    .await;
}

/// By room, author and time.
pub async fn filters(family: &Backends) {
    let mut events = Vec::new();
    for (id, from) in [
        ("general", "alice"),
        ("general", "bob"),
        ("random", "alice"),
        ("secret", "alice"),
    ] {
        let event = append(family, id, from, text("apple")).await;
        eventually("a new millisecond", async || {
            (Timestamp::now() > event.at).then_some(())
        })
        .await;
        events.push(event);
    }
    let places = async |query: Query| -> Vec<(String, Seq)> {
        let hits = search(family, &query).await;
        hits.into_iter()
            .map(|hit| (hit.room.to_string(), hit.seq))
            .collect()
    };
    let two = query("apple", &["general", "random"]);
    let general = |number| ("general".to_owned(), seq(number));
    let random = ("random".to_owned(), seq(1));
    assert_eq!(
        places(two.clone()).await,
        [random.clone(), general(2), general(1)]
    );
    assert_eq!(places(query("apple", &[])).await, []);
    assert_eq!(places(query("apple", &["nowhere"])).await, []);
    let from = Query {
        from: Some(user("alice")),
        ..two.clone()
    };
    assert_eq!(places(from).await, [random.clone(), general(1)]);
    let from = Query {
        from: Some(user("nobody")),
        ..two.clone()
    };
    assert_eq!(places(from).await, []);
    let since = Query {
        since: Some(events[1].at),
        ..two.clone()
    };
    assert_eq!(places(since).await, [random, general(2)]);
    let until = Query {
        until: Some(events[1].at),
        ..two.clone()
    };
    assert_eq!(places(until).await, [general(1)]);
    let many: Vec<_> = (0..400)
        .map(|number| room(&format!("room-{number}")))
        .collect();
    let many = Query {
        rooms: [many, vec![room("secret")]].concat(),
        ..two
    };
    assert_eq!(places(many).await, [("secret".to_owned(), seq(1))]);
}

/// Pages are newest first; going on from a place neither repeats nor leaves out.
pub async fn results_are_paged(family: &Backends) {
    for number in 0..30 {
        let id = ["general", "random", "third"][number % 3];
        append(family, id, "alice", text(&format!("apple {number}"))).await;
    }
    let mut query = query("apple", &["general", "random", "third"]);
    // So many at once may take an index longer than a search waits for it.
    let all = eventually("all of them", async || {
        let all = search(family, &query).await;
        (all.len() == 30).then_some(all)
    })
    .await;
    assert!(all.windows(2).all(|pair| pair[0].at >= pair[1].at));
    assert_eq!(all[0].text, "apple 29");
    query.limit = 7;
    let mut paged = Vec::new();
    loop {
        let hits = search(family, &query).await;
        let Some(last) = hits.last() else { break };
        query.cursor = Some(Cursor {
            at: last.at,
            room: last.room.clone(),
            seq: last.seq,
        });
        paged.extend(hits);
        // What comes meanwhile belongs to no later page.
        append(family, "general", "alice", text("apple new")).await;
    }
    assert_eq!(paged, all);
    query.limit = 0;
    assert_eq!(search(family, &query).await, []);
}

/// Signs of query languages are no more than signs.
pub async fn operators_are_words(family: &Backends) {
    append(
        family,
        "general",
        "alice",
        text("rock AND roll, near not or"),
    )
    .await;
    append(family, "general", "alice", text("_r1 _u1")).await;
    assert_eq!(found(family, "roll AND rock").await, [1]);
    assert_eq!(found(family, "rock AND \"").await, [1]);
    assert_eq!(found(family, "rock OR jazz").await, [0_u64; 0]);
    assert_eq!(found(family, "NOT rock").await, [1]);
    assert_eq!(found(family, "NEAR(rock roll)").await, [1]);
    for signs in [
        "*", "\"", "\" \"", "'; --", "(", "^", ":", "-", "{}", "+", "\u{0}",
    ] {
        assert_eq!(found(family, signs).await, [0_u64; 0], "{signs}");
    }
    assert_eq!(found(family, "ro*").await, [1]);
    assert_eq!(found(family, "words:rock").await, [0_u64; 0]);
    assert_eq!(
        found(family, "_r1").await,
        [2],
        "no word of the index's own"
    );
}

/// Nothing of a forgotten room is found.
pub async fn forgotten_rooms_are_not_found(family: &Backends) {
    append(family, "general", "alice", text("apple")).await;
    append(family, "random", "alice", text("apple")).await;
    let both = query("apple", &["general", "random"]);
    assert_eq!(search(family, &both).await.len(), 2);
    family.log.forget(&room("general")).await.expect("a forget");
    let left = search(family, &both).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].room, room("random"));
    append(family, "random", "alice", text("apple again")).await;
    assert_eq!(search(family, &both).await.len(), 2);
}
