//! Messages by their words.

use std::time::Duration;

use backend::directory::RoomKind;
use serde_json::{Value, json};

use crate::harness::{Service, seqs, text};

/// Asks until there are so many hits; the index may lag a second behind the log.
async fn search(service: &Service, who: &str, query: &str, hits: usize) -> Value {
    let asked = async {
        loop {
            let page = service.page(who, &format!("/v1/search?{query}")).await;
            if page["items"].as_array().unwrap().len() == hits {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(5), asked).await;
    found.unwrap_or_else(|_| panic!("{query} does not find {hits} messages"))
}

#[actix_web::test]
async fn words_are_found_newest_first_page_by_page() {
    let service = Service::start().await;
    service.room("general", RoomKind::Public, "alice").await;
    service.room("cellar", RoomKind::Private, "eve").await;
    for number in 1..=5 {
        let words = format!("apple number {number}");
        service.append("general", "alice", text(&words)).await;
    }
    service.append("general", "bob", text("pear")).await;
    service
        .append("cellar", "eve", text("apple in the cellar"))
        .await;

    let all = search(&service, "alice", "q=apple", 5).await;
    assert_eq!(seqs(&all), [5, 4, 3, 2, 1]);
    assert_eq!(all["next"], json!(null));
    assert_eq!(all["items"][0]["text"], "apple number 5");

    let first = search(&service, "alice", "q=apple&limit=3", 3).await;
    let next = first["next"].as_str().unwrap();
    let second = search(
        &service,
        "alice",
        &format!("q=apple&limit=3&cursor={next}"),
        2,
    )
    .await;
    assert_eq!(seqs(&second), [2, 1]);
    assert_eq!(second["next"], json!(null));

    search(&service, "alice", "q=apple&from=bob", 0).await;
    search(&service, "alice", "q=pear&from=bob", 1).await;
    search(&service, "eve", "q=apple", 1).await;
    search(&service, "eve", "q=apple&room=general", 5).await;
    search(&service, "nobody", "q=apple", 0).await;
    search(&service, "alice", "q=%21%3F", 0).await;
}
