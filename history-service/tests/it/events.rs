//! The log itself.

use backend::directory::RoomKind;
use serde_json::json;

use crate::harness::{Service, seqs, text};

async fn ten_events() -> Service {
    let service = Service::start().await;
    service.room("general", RoomKind::Public, "alice").await;
    for number in 1..=10 {
        let words = format!("number {number}");
        assert_eq!(
            service.append("general", "alice", text(&words)).await.get(),
            number
        );
    }
    service
}

#[actix_web::test]
async fn a_part_is_named_by_its_ends() {
    let service = ten_events().await;
    for (query, expected, has_next) in [
        ("", 1..=10, false),
        ("?limit=3", 1..=3, true),
        ("?after=7", 8..=10, false),
        ("?after=7&limit=2", 8..=9, true),
        ("?before=4", 1..=3, false),
        ("?before=4&limit=2", 2..=3, true),
        ("?after=2&before=6", 3..=5, false),
        ("?around=5&limit=4", 3..=6, false),
        ("?around=1&limit=4", 1..=4, false),
        ("?around=10&limit=4", 8..=10, false),
        ("?around=5&limit=1", 5..=5, false),
    ] {
        let path = format!("/v1/rooms/general/events{query}");
        let page = service.page("alice", &path).await;
        assert_eq!(seqs(&page), expected.collect::<Vec<_>>(), "{query}");
        assert_eq!(page["next"].is_string(), has_next, "{query}");
        assert_eq!(page["head"], 10);
    }
    let page = service
        .page("alice", "/v1/rooms/general/events?after=10")
        .await;
    assert_eq!(page, json!({"items": [], "next": null, "head": 10}));
}

#[actix_web::test]
async fn next_goes_on_in_the_same_direction() {
    let service = ten_events().await;
    for (query, pages) in [
        (
            "after=1&limit=4",
            vec![vec![2, 3, 4, 5], vec![6, 7, 8, 9], vec![10]],
        ),
        ("after=2&before=8&limit=3", vec![vec![3, 4, 5], vec![6, 7]]),
        (
            "before=8&limit=3",
            vec![vec![5, 6, 7], vec![2, 3, 4], vec![1]],
        ),
    ] {
        let base = format!("/v1/rooms/general/events?{query}");
        let mut path = base.clone();
        for expected in &pages {
            let page = service.page("alice", &path).await;
            assert_eq!(&seqs(&page), expected, "{path}");
            path = match page["next"].as_str() {
                Some(next) => format!("{base}&cursor={next}"),
                None => String::new(),
            };
        }
        assert_eq!(path, "", "{query} goes on too long");
    }
}

#[actix_web::test]
async fn an_event_is_shown_as_it_travels() {
    let service = ten_events().await;
    let page = service
        .page("alice", "/v1/rooms/general/events?limit=1")
        .await;
    let event = &page["items"][0];
    assert_eq!(event["prev"], 0);
    assert_eq!(event["kind"], "message");
    assert_eq!(event["from"], "alice");
    assert_eq!(event["text"], "number 1");
    assert!(event["at"].as_str().unwrap().ends_with('Z'));
}
