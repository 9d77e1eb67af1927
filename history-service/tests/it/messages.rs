//! Messages as they stand.

use backend::directory::RoomKind;
use protocol::{EventBody, Seq, Timestamp};
use serde_json::json;

use crate::harness::{Service, room, seq, seqs, text};

fn react(target: Seq, on: bool) -> EventBody {
    EventBody::Reaction {
        target,
        emoji: "👍".to_owned(),
        on,
    }
}

#[actix_web::test]
async fn edits_deletes_and_reactions_are_applied() {
    let service = Service::start().await;
    service.room("general", RoomKind::Public, "alice").await;
    let first = service.append("general", "alice", text("one")).await;
    let second = service.append("general", "alice", text("two")).await;
    service.append("general", "bob", react(first, true)).await;
    let edit = |target, words: &str| EventBody::Edit {
        target,
        text: words.to_owned(),
    };
    service.append("general", "alice", edit(first, "uno")).await;
    let gone = EventBody::Delete { target: second };
    service.append("general", "alice", gone).await;
    service.append("general", "carol", react(first, true)).await;
    service.append("general", "bob", react(first, false)).await;

    let page = service.page("bob", "/v1/rooms/general/messages").await;
    assert_eq!(seqs(&page), [1, 2]);
    assert_eq!(page["next"], json!(null));
    let [one, two] = &page["items"].as_array().unwrap()[..] else {
        panic!("{page}");
    };
    assert_eq!(
        (&one["text"], &one["deleted"]),
        (&json!("uno"), &json!(false))
    );
    assert!(one["edited_at"].is_string());
    assert_eq!(
        one["reactions"],
        json!([{"emoji": "👍", "users": ["carol"]}])
    );
    assert_eq!(
        (&two["text"], &two["deleted"]),
        (&json!(null), &json!(true))
    );
    assert_eq!(two["reactions"], json!([]));
    assert_eq!(two["from"], "alice");
}

#[actix_web::test]
async fn the_newest_page_comes_first_and_next_goes_down() {
    let service = Service::start().await;
    service.room("general", RoomKind::Public, "alice").await;
    // Messages at 1, 4, 7, 10, 13, each followed by two reactions.
    for _ in 0..5 {
        let message = service.append("general", "alice", text("hi")).await;
        service.append("general", "bob", react(message, true)).await;
        service
            .append("general", "bob", react(message, false))
            .await;
    }
    let base = "/v1/rooms/general/messages?limit=2";
    let mut path = base.to_owned();
    for expected in [vec![10, 13], vec![4, 7], vec![1]] {
        let page = service.page("bob", &path).await;
        assert_eq!(seqs(&page), expected);
        path = match page["next"].as_str() {
            Some(next) => format!("{base}&cursor={next}"),
            None => String::new(),
        };
    }
    assert_eq!(path, "");
    for (query, expected) in [
        ("after=4&limit=2", vec![7, 10]),
        ("before=10&limit=2", vec![4, 7]),
        ("around=7&limit=3", vec![4, 7, 10]),
        ("after=1&before=13", vec![4, 7, 10]),
    ] {
        let path = format!("/v1/rooms/general/messages?{query}");
        assert_eq!(seqs(&service.page("bob", &path).await), expected, "{query}");
    }
}

#[actix_web::test]
async fn a_part_can_be_named_by_times() {
    let service = Service::start().await;
    service.room("general", RoomKind::Public, "alice").await;
    let id = room("general");
    let mut times: Vec<Timestamp> = Vec::new();
    for number in 1..=4 {
        // Times have milliseconds; each message shall have its own.
        while times.last() == Some(&Timestamp::now()) {
            tokio::task::yield_now().await;
        }
        service.append("general", "alice", text("hi")).await;
        let page = service.backends.log.read(&id, seq(number - 1), 1).await;
        times.push(page.unwrap().events[0].at);
    }
    for (query, expected) in [
        (format!("since={}", times[2]), vec![3, 4]),
        (format!("until={}", times[2]), vec![1, 2]),
        (format!("since={}&until={}", times[1], times[3]), vec![2, 3]),
        ("since=2999-01-01T00:00:00Z".to_owned(), vec![]),
        ("until=1999-01-01T00:00:00%2B02:00".to_owned(), vec![]),
    ] {
        let path = format!("/v1/rooms/general/messages?{query}");
        assert_eq!(seqs(&service.page("bob", &path).await), expected, "{query}");
    }
}

#[actix_web::test]
async fn a_long_stretch_without_messages_is_crossed_in_pieces() {
    let service = Service::start().await;
    service.room("general", RoomKind::Public, "alice").await;
    let message = service.append("general", "alice", text("hi")).await;
    let reactions = (0..5000).map(|number| react(message, number % 2 == 0));
    service.append_all("general", "bob", reactions).await;
    let first = service.page("bob", "/v1/rooms/general/messages").await;
    assert_eq!(seqs(&first), Vec::<u64>::new());
    let next = first["next"].as_str().unwrap();
    let path = format!("/v1/rooms/general/messages?cursor={next}");
    let second = service.page("bob", &path).await;
    assert_eq!(seqs(&second), [1]);
    assert_eq!(second["next"], json!(null));
}
