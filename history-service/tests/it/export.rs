//! A whole log.

use backend::directory::RoomKind;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Service, room, text, user};

async fn filled(events: u64, words: &str) -> Service {
    let service = Service::start().await;
    service.room("general", RoomKind::Private, "alice").await;
    let bodies = (0..events).map(|_| text(words));
    service.append_all("general", "alice", bodies).await;
    service
}

#[actix_web::test]
async fn an_export_is_the_whole_log_in_order() {
    let service = filled(700, "hi").await;
    let answer = service.get("alice", "/v1/rooms/general/export").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(
        answer.header("content-disposition"),
        Some("attachment; filename=\"general.ndjson\"")
    );
    let events = answer.text().lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        (
            event["prev"].as_u64().unwrap(),
            event["seq"].as_u64().unwrap(),
        )
    });
    assert!(events.eq((0..700).map(|prev| (prev, prev + 1))));
}

#[actix_web::test]
async fn a_room_without_events_exports_nothing() {
    let service = filled(0, "").await;
    let answer = service.get("alice", "/v1/rooms/general/export").await;
    assert_eq!((answer.status, answer.text()), (200, ""));
}

#[actix_web::test]
async fn a_reader_who_is_removed_gets_no_more() {
    // More than all buffers on the way hold together.
    let service = filled(2000, &"x".repeat(8000)).await;
    service.join("general", "bob").await;
    let mut stream = TcpStream::connect(service.addr).await.unwrap();
    let request =
        "GET /v1/rooms/general/export HTTP/1.1\r\nhost: darda\r\nx-darda-user: bob\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 1000];
    stream.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200 "));

    let directory = &service.backends.directory;
    let (id, bob) = (room("general"), user("bob"));
    directory.remove_member(&id, &bob, &bob).await.unwrap();
    let mut rest = Vec::new();
    // It ends, by an error or by the end of the stream, long before the end of the log.
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < 15_000_000, "{}", rest.len());
    assert!(!rest.ends_with(b"0\r\n\r\n"), "looks complete");
}
