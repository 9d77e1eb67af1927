//! Promises of the log, and of the relay as far as it follows the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::{EventBody, MemberChange, MessageId, Role, RoomChange, Seq, Timestamp};

use super::{
    Recorder, act, answered, append, assert_chain, assert_conflict, assert_not_found,
    assert_refused, eventually, room, seq, seqs, text, user,
};
use crate::Backends;
use crate::log::Append;

/// Seqs rise by one, each event names the one before, every body comes back as it was.
pub async fn order_and_chain(family: &Backends) {
    let before = Timestamp::now();
    let bodies = [
        EventBody::Message {
            text: "hi 👍".to_owned(),
            reply_to: None,
            meta: Some([("k".to_owned(), "v".to_owned())].into()),
        },
        EventBody::Message {
            text: "answer".to_owned(),
            reply_to: Some(seq(1)),
            meta: None,
        },
        EventBody::Edit {
            target: seq(1),
            text: "hello".to_owned(),
        },
        EventBody::Reaction {
            target: seq(1),
            emoji: "👍".to_owned(),
            on: true,
        },
        EventBody::Reaction {
            target: seq(1),
            emoji: "👍".to_owned(),
            on: false,
        },
        EventBody::Delete { target: seq(2) },
        EventBody::Member {
            user: user("bob"),
            change: MemberChange::Joined,
            role: Some(Role::Admin),
        },
        EventBody::Room {
            change: RoomChange::Topic,
            name: None,
            topic: Some("weather".to_owned()),
        },
    ];
    let mut stored = Vec::new();
    for body in &bodies {
        stored.push(append(family, "general", "alice", body.clone()).await);
    }
    assert_eq!(stored[0].prev, Some(Seq::ZERO));
    assert_chain(&stored);
    assert!(stored[0].at >= before, "the time is that of the append");
    for (event, body) in stored.iter().zip(&bodies) {
        assert_eq!(event.body, *body);
        assert_eq!(event.from, Some(user("alice")));
        assert_eq!(event.room, room("general"));
    }
    let page = family.log.read(&room("general"), Seq::ZERO, 100).await;
    assert_eq!(page.expect("a page").events, stored);
    let other = append(family, "random", "alice", text("first")).await;
    assert_eq!(
        other.prev,
        Some(Seq::ZERO),
        "rooms have chains of their own"
    );
}

/// The same act is stored once; other content is a conflict; another sender or room is another act.
pub async fn idempotence(family: &Backends) {
    let first = act("general", "alice", text("hi"));
    let stored = answered(&family.log, first.clone())
        .await
        .expect("an append");
    append(family, "general", "bob", text("between")).await;
    let again = answered(&family.log, first.clone())
        .await
        .expect("a repeat");
    assert!(again.duplicate);
    assert_eq!(again.event, stored.event);

    let other = Append {
        body: text("other"),
        ..first.clone()
    };
    assert_conflict(family.log.append(other).await);
    let other = Append {
        body: EventBody::Delete { target: seq(1) },
        ..first.clone()
    };
    assert_conflict(family.log.append(other).await);
    for other in [
        Append {
            from: user("bob"),
            ..first.clone()
        },
        Append {
            room: room("random"),
            ..first.clone()
        },
    ] {
        let appended = answered(&family.log, other).await.expect("another act");
        assert!(!appended.duplicate);
    }

    let racing = act("general", "carol", text("once"));
    let racers: Vec<_> = (0..20)
        .map(|_| {
            let (log, racing) = (Arc::clone(&family.log), racing.clone());
            tokio::spawn(async move { log.append(racing).await })
        })
        .collect();
    let mut first_times = 0;
    let mut places = Vec::new();
    for racer in racers {
        let appended = racer.await.expect("a task").expect("an append");
        first_times += usize::from(!appended.duplicate);
        places.push(appended.event.seq);
    }
    places.dedup();
    assert_eq!((first_times, places.len()), (1, 1), "stored once");
}

/// Pages after a place are ascending and whole.
pub async fn pages_without_holes(family: &Backends) {
    for number in 0..25 {
        append(family, "general", "alice", text(&number.to_string())).await;
    }
    let log = &family.log;
    let general = room("general");
    let mut after = Seq::ZERO;
    let mut all = Vec::new();
    loop {
        let page = log.read(&general, after, 10).await.expect("a page");
        assert_eq!(page.head, seq(25));
        let Some(last) = page.events.last() else {
            break;
        };
        assert!(page.events.len() <= 10);
        assert_eq!(page.events[0].prev, Some(after));
        after = last.seq;
        all.extend(page.events);
    }
    assert_eq!(seqs(&all), (1..=25).collect::<Vec<_>>());
    let none = log.read(&general, Seq::ZERO, 0).await.expect("a page");
    assert!(none.events.is_empty());
    let none = log.read(&room("empty"), Seq::ZERO, 10).await;
    assert_eq!(none.expect("a page"), crate::log::Page::default());
}

/// Pages before a place hold the last events there, ascending.
pub async fn pages_before(family: &Backends) {
    for number in 0..25 {
        append(family, "general", "alice", text(&number.to_string())).await;
    }
    let general = room("general");
    let page = async |before: u64, limit| {
        let page = family.log.read_before(&general, seq(before), limit).await;
        let page = page.expect("a page");
        assert_eq!(page.head, seq(25));
        seqs(&page.events)
    };
    assert_eq!(page(21, 3).await, [18, 19, 20]);
    assert_eq!(page(3, 10).await, [1, 2]);
    assert_eq!(page(1, 10).await, [0_u64; 0]);
    assert_eq!(page(Seq::MAX.get(), 2).await, [24, 25]);
}

/// The head is the last seq that was appended.
pub async fn heads(family: &Backends) {
    let head = async |id: &str| family.log.head(&room(id)).await.expect("a head").get();
    assert_eq!(head("general").await, 0);
    for number in 1..=5 {
        append(family, "general", "alice", text("x")).await;
        assert_eq!(head("general").await, number);
    }
    assert_eq!(head("random").await, 0);
}

/// Edits, deletes and reactions are found by the message they are about.
pub async fn related_events(family: &Backends) {
    for number in 1..=3 {
        append(family, "general", "alice", text(&number.to_string())).await;
    }
    let about = |target| {
        [
            EventBody::Edit {
                target,
                text: "new".to_owned(),
            },
            EventBody::Reaction {
                target,
                emoji: "👍".to_owned(),
                on: true,
            },
            EventBody::Delete { target },
        ]
    };
    for target in [seq(1), seq(3)] {
        for body in about(target) {
            append(family, "general", "alice", body).await;
        }
    }
    let related = async |targets: &[Seq]| {
        let found = family.log.related(&room("general"), targets).await;
        seqs(&found.expect("related events"))
    };
    assert_eq!(related(&[seq(1)]).await, [4, 5, 6]);
    assert_eq!(related(&[seq(3), seq(1), seq(2)]).await, [4, 5, 6, 7, 8, 9]);
    assert_eq!(related(&[seq(2)]).await, [0_u64; 0]);
    assert_eq!(related(&[]).await, [0_u64; 0]);
    let elsewhere = family.log.related(&room("random"), &[seq(1)]).await;
    assert!(elsewhere.expect("related events").is_empty());
}

/// However many reactions a message has, its newest edit and delete are found, beside the newest of the reactions.
pub async fn edits_and_deletes_are_not_hidden(family: &Backends) {
    for _ in 0..2 {
        append(family, "general", "alice", text("one")).await;
    }
    let react = |target, on| EventBody::Reaction {
        target,
        emoji: "👍".to_owned(),
        on,
    };
    for (number, target) in [(1, seq(1)), (2, seq(1)), (3, seq(2))] {
        let edit = EventBody::Edit {
            target,
            text: format!("edit {number}"),
        };
        append(family, "general", "alice", edit).await;
    }
    let reactions: Vec<_> = (0..1200)
        .map(|number| {
            let target = seq(1 + u64::from(number % 12 == 0));
            let append = act("general", "bob", react(target, number % 2 == 0));
            let log = Arc::clone(&family.log);
            tokio::spawn(async move { answered(&log, append).await })
        })
        .collect();
    for appended in reactions {
        appended.await.expect("a task").expect("an append");
    }
    let delete = EventBody::Delete { target: seq(1) };
    append(family, "general", "alice", delete).await;
    let delete = EventBody::Delete { target: seq(2) };
    let deleted = append(family, "general", "alice", delete).await.seq;

    let found = family
        .log
        .related(&room("general"), &[seq(1), seq(2)])
        .await;
    let found = found.expect("related events");
    assert!(found.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    let of = |target| {
        let of: Vec<_> = found
            .iter()
            .filter(|event| event.body.target() == Some(seq(target)))
            .collect();
        let reactions = of
            .iter()
            .filter(|event| matches!(event.body, EventBody::Reaction { .. }))
            .count();
        let others: Vec<_> = of
            .iter()
            .filter(|event| !matches!(event.body, EventBody::Reaction { .. }))
            .map(|event| event.seq.get())
            .collect();
        (reactions, others)
    };
    assert_eq!(of(1), (1000, vec![4, deleted.get() - 1]));
    assert_eq!(of(2), (100, vec![5, deleted.get()]));
}

/// Nothing is written about a deleted message any more; what was written before keeps its answer.
pub async fn deleted_messages_stay_deleted(family: &Backends) {
    for _ in 0..2 {
        append(family, "general", "alice", text("one")).await;
    }
    let edit = |target| EventBody::Edit {
        target,
        text: "other".to_owned(),
    };
    let react = |target| EventBody::Reaction {
        target,
        emoji: "👍".to_owned(),
        on: true,
    };
    let log = &family.log;
    let known = [edit(seq(1)), react(seq(1))].map(|body| act("general", "alice", body));
    let mut stored = Vec::new();
    for known in &known {
        let appended = answered(log, known.clone()).await.expect("an append");
        stored.push(appended.event);
    }
    let delete = act("general", "alice", EventBody::Delete { target: seq(1) });
    answered(log, delete.clone()).await.expect("an append");
    for body in [edit(seq(1)), react(seq(1))] {
        assert_not_found(log.append(act("general", "alice", body)).await);
    }
    for (known, stored) in known.iter().zip(&stored) {
        let again = answered(log, known.clone()).await.expect("a repeat");
        assert!(again.duplicate);
        assert_eq!(again.event, *stored);
        let other = Append {
            body: react(seq(2)),
            ..known.clone()
        };
        assert_conflict(log.append(other).await);
    }
    assert!(answered(log, delete).await.expect("a repeat").duplicate);
    append(family, "general", "alice", edit(seq(2))).await;
    append(family, "general", "bob", react(seq(2))).await;
}

/// The first seq at or after a time.
pub async fn places_by_time(family: &Backends) {
    let mut events = Vec::new();
    for _ in 0..5 {
        let event = append(family, "general", "alice", text("x")).await;
        // The next one gets a later time.
        eventually("a new millisecond", async || {
            (Timestamp::now() > event.at).then_some(())
        })
        .await;
        events.push(event);
    }
    let general = room("general");
    let first = async |at| family.log.first_at(&general, at).await.expect("a seq");
    for event in &events {
        assert_eq!(first(event.at).await, event.seq);
        let later = Timestamp::from_millis(event.at.as_millis() + 1);
        assert_eq!(first(later).await, event.seq.next());
    }
    assert_eq!(first(Timestamp::from_millis(0)).await, seq(1));
    let empty = family.log.first_at(&room("empty"), events[0].at).await;
    assert_eq!(empty.expect("a seq"), seq(1));
}

/// Messages of others after a place, counted up to a number.
pub async fn unread_messages(family: &Backends) {
    for from in ["alice", "bob", "bob", "alice", "bob"] {
        append(family, "general", from, text("x")).await;
    }
    append(
        family,
        "general",
        "bob",
        EventBody::Reaction {
            target: seq(1),
            emoji: "👍".to_owned(),
            on: true,
        },
    )
    .await;
    let unread = async |name: &str, after, most| {
        let count = family
            .log
            .unread(&room("general"), &user(name), seq(after), most)
            .await;
        count.expect("a count")
    };
    assert_eq!(unread("alice", 0, 100).await, 3);
    assert_eq!(unread("alice", 2, 100).await, 2);
    assert_eq!(unread("alice", 5, 100).await, 0);
    assert_eq!(unread("alice", 0, 2).await, 2);
    assert_eq!(unread("bob", 0, 100).await, 2);
    assert_eq!(unread("stranger", 0, 100).await, 5);
}

/// A forgotten room has no events and never gets any again.
pub async fn forgotten_rooms(family: &Backends) {
    let known = act("general", "alice", text("secret"));
    answered(&family.log, known.clone())
        .await
        .expect("an append");
    for _ in 0..500 {
        append(family, "general", "alice", text("x")).await;
    }
    append(family, "random", "alice", text("stays")).await;
    let general = room("general");
    family.log.forget(&general).await.expect("a forget");
    family.log.forget(&general).await.expect("a second forget");
    assert_eq!(family.log.head(&general).await.expect("a head"), Seq::ZERO);
    let page = family.log.read(&general, Seq::ZERO, 10).await;
    assert_eq!(page.expect("a page"), crate::log::Page::default());
    let page = family.log.read_before(&general, Seq::MAX, 10).await;
    assert!(page.expect("a page").events.is_empty());
    assert_not_found(family.log.append(known).await);
    assert_not_found(
        family
            .log
            .append(act("general", "bob", text("again")))
            .await,
    );
    let stays = family.log.read(&room("random"), Seq::ZERO, 10).await;
    assert_eq!(stays.expect("a page").events.len(), 1);
}

/// Whatever is appended meanwhile, a reader sees a whole beginning of the log, and one at least as long as before.
pub async fn readers_see_prefixes(family: &Backends) {
    const WRITERS: usize = 16;
    const EACH: usize = 50;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (log, done) = (Arc::clone(&family.log), Arc::clone(&done));
            tokio::spawn(async move {
                let general = room("general");
                let mut longest = 0;
                loop {
                    let last_round = done.load(Ordering::Acquire);
                    let head = log.head(&general).await.expect("a head").get();
                    let page = log.read(&general, Seq::ZERO, 10_000).await.expect("a page");
                    assert_chain(&page.events);
                    assert_eq!(page.events.len() as u64, page.head.get(), "no hole");
                    assert!(page.head.get() >= head, "what the head said can be read");
                    assert!(page.events.len() >= longest, "nothing goes away");
                    longest = page.events.len();
                    if last_round {
                        return longest;
                    }
                }
            })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let log = Arc::clone(&family.log);
            tokio::spawn(async move {
                let general = room("general");
                for number in 0..EACH {
                    let act = act(
                        "general",
                        &format!("user-{writer}"),
                        text(&number.to_string()),
                    );
                    let stored = answered(&log, act).await.expect("an append").event;
                    let before = stored.seq.before();
                    let page = log.read(&general, before, 1).await.expect("a page");
                    assert_eq!(page.events[0], stored, "what was appended can be read");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        assert_eq!(reader.await.expect("a reader"), WRITERS * EACH);
    }
}

/// The relay hands out each event of a watched room once, in the order of the chain, and only what can be read.
pub async fn relay_follows_the_chain(family: &Backends) {
    let recorder = Recorder::attach(family);
    let ids = ["room-0", "room-1"];
    let relayed = |id: &str| -> Vec<_> {
        let events = recorder.events().into_iter();
        events.filter(|event| event.room == room(id)).collect()
    };
    for id in ids {
        family.relay.watch(&room(id));
        // A family may need a moment to know who watches.
        eventually("a room is watched", async || {
            append(family, id, "alice", text("is anybody there")).await;
            (!relayed(id).is_empty()).then_some(())
        })
        .await;
    }
    let twice = act("room-0", "alice", text("twice"));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let log = Arc::clone(&family.log);
            tokio::spawn(async move {
                for number in 0..25 {
                    let room = format!("room-{}", writer % 2);
                    let act = act(&room, &format!("user-{writer}"), text(&number.to_string()));
                    answered(&log, act).await.expect("an append");
                }
            })
        })
        .collect();
    for _ in 0..2 {
        answered(&family.log, twice.clone())
            .await
            .expect("an append");
    }
    for writer in writers {
        writer.await.expect("a writer");
    }
    for id in ids {
        let page = family.log.read(&room(id), Seq::ZERO, 1000).await;
        let stored = page.expect("a page").events;
        eventually("the last event", async || {
            (relayed(id).last() == stored.last()).then_some(())
        })
        .await;
        let relayed = relayed(id);
        assert!(relayed.len() > 100, "all that was appended since");
        assert_eq!(relayed, stored[stored.len() - relayed.len()..], "each once");
    }
}

/// Fences and voids are the log's own.
pub async fn only_acts_are_appended(family: &Backends) {
    for body in [EventBody::Fence {}, EventBody::Void {}] {
        assert_refused(family.log.append(act("general", "alice", body)).await);
    }
    assert_eq!(
        family.log.head(&room("general")).await.expect("a head"),
        Seq::ZERO
    );
}

/// Appends of one task that are polled in order are stored in order.
pub async fn one_task_keeps_its_order(family: &Backends) {
    let ids: Vec<MessageId> = (0..100).map(|_| MessageId::generate()).collect();
    let mut waiting = Vec::new();
    for id in &ids {
        let append = Append {
            id: *id,
            ..act("general", "alice", text("x"))
        };
        let log = Arc::clone(&family.log);
        let mut call = Box::pin(async move { log.append(append).await });
        // One poll each, in order; whoever is ready at once is fine too.
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx))).await;
        if polled.is_pending() {
            waiting.push(call);
        }
    }
    for call in waiting {
        call.await.expect("an append");
    }
    let page = family.log.read(&room("general"), Seq::ZERO, 1000).await;
    let stored: Vec<_> = page
        .expect("a page")
        .events
        .iter()
        .filter_map(|event| event.id)
        .collect();
    assert_eq!(stored, ids);
}
