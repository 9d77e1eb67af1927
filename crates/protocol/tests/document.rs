//! `docs/protocol.md` is true: its examples are frames, and nothing of the protocol is missing from it.

use std::collections::BTreeSet;

use protocol::*;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

const CLIENT_FRAMES: [&str; 11] = [
    "hello",
    "subscribe",
    "unsubscribe",
    "send",
    "edit",
    "delete",
    "react",
    "received",
    "read",
    "typing",
    "fetch",
];

/// Stops compiling when a frame is added, so that it is added to the list above and to the document.
fn client_frame_name(frame: &ClientFrame) -> &'static str {
    match frame {
        ClientFrame::Hello(_) => "hello",
        ClientFrame::Subscribe(_) => "subscribe",
        ClientFrame::Unsubscribe(_) => "unsubscribe",
        ClientFrame::Send(_) => "send",
        ClientFrame::Edit(_) => "edit",
        ClientFrame::Delete(_) => "delete",
        ClientFrame::React(_) => "react",
        ClientFrame::Received(_) => "received",
        ClientFrame::Read(_) => "read",
        ClientFrame::Typing(_) => "typing",
        ClientFrame::Fetch(_) => "fetch",
    }
}

const SERVER_FRAMES: [&str; 13] = [
    "welcome",
    "subscribed",
    "unsubscribed",
    "event",
    "events",
    "ack",
    "error",
    "receipt",
    "typing",
    "presence",
    "notice",
    "heads",
    "goaway",
];

fn server_frame_name(frame: &ServerFrame) -> &'static str {
    match frame {
        ServerFrame::Welcome(_) => "welcome",
        ServerFrame::Subscribed(_) => "subscribed",
        ServerFrame::Unsubscribed { .. } => "unsubscribed",
        ServerFrame::Event(_) => "event",
        ServerFrame::Events { .. } => "events",
        ServerFrame::Ack { .. } => "ack",
        ServerFrame::Error(_) => "error",
        ServerFrame::Receipt { .. } => "receipt",
        ServerFrame::Typing { .. } => "typing",
        ServerFrame::Presence { .. } => "presence",
        ServerFrame::Notice { .. } => "notice",
        ServerFrame::Heads { .. } => "heads",
        ServerFrame::Goaway { .. } => "goaway",
    }
}

const EVENTS: [&str; 14] = [
    "message",
    "edit",
    "delete",
    "reaction",
    "member joined",
    "member left",
    "member removed",
    "member role",
    "room created",
    "room renamed",
    "room topic",
    "room deleted",
    "fence",
    "void",
];

fn event_name(body: &EventBody) -> String {
    let change = match body {
        EventBody::Member { change, .. } => match change {
            MemberChange::Joined => " joined",
            MemberChange::Left => " left",
            MemberChange::Removed => " removed",
            MemberChange::Role => " role",
        },
        EventBody::Room { change, .. } => match change {
            RoomChange::Created => " created",
            RoomChange::Renamed => " renamed",
            RoomChange::Topic => " topic",
            RoomChange::Deleted => " deleted",
        },
        _ => "",
    };
    format!("{}{change}", body.kind())
}

const CLOSE_CODES: [CloseCode; 8] = [
    CloseCode::Normal,
    CloseCode::Protocol,
    CloseCode::InvalidPayload,
    CloseCode::Policy,
    CloseCode::TooLarge,
    CloseCode::Restart,
    CloseCode::Unauthenticated,
    CloseCode::Timeout,
];

/// As for the frames: the place in the list above.
fn close_code_place(code: CloseCode) -> usize {
    match code {
        CloseCode::Normal => 0,
        CloseCode::Protocol => 1,
        CloseCode::InvalidPayload => 2,
        CloseCode::Policy => 3,
        CloseCode::TooLarge => 4,
        CloseCode::Restart => 5,
        CloseCode::Unauthenticated => 6,
        CloseCode::Timeout => 7,
    }
}

/// The text under a heading of the second level.
fn section(title: &str) -> &'static str {
    let start = DOCUMENT
        .find(&format!("\n## {title}\n"))
        .unwrap_or_else(|| panic!("no {title}"));
    let text = &DOCUMENT[start + 1..];
    &text[..text.find("\n## ").unwrap_or(text.len())]
}

fn examples(text: &'static str) -> Vec<(&'static str, Value)> {
    text.split("```json\n")
        .skip(1)
        .map(|rest| {
            let block = rest.split("```").next().unwrap();
            let value =
                serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"));
            (block, value)
        })
        .collect()
}

fn server_frames() -> Vec<ServerFrame> {
    [section("What the server says"), section("Events")]
        .into_iter()
        .flat_map(examples)
        .map(|(block, value)| {
            let frame = ServerFrame::decode(block.as_bytes())
                .unwrap_or_else(|error| panic!("{error}: {block}"));
            let again: Value = serde_json::from_str(&frame.encode()).unwrap();
            assert_eq!(again, value, "the example has more or less than the frame");
            frame
        })
        .collect()
}

#[test]
fn every_frame_of_the_client_has_an_example() {
    let mut shown = BTreeSet::new();
    for (block, value) in examples(section("What the client says")) {
        let frame = ClientFrame::decode(block.as_bytes())
            .unwrap_or_else(|bad| panic!("{}: {block}", bad.message));
        let again: Value = serde_json::from_str(&frame.encode()).unwrap();
        assert_eq!(again, value, "the example has more or less than the frame");
        shown.insert(client_frame_name(&frame));
    }
    assert_eq!(shown, BTreeSet::from(CLIENT_FRAMES));
}

#[test]
fn every_frame_of_the_server_has_an_example() {
    let frames = server_frames();
    let shown: BTreeSet<_> = frames.iter().map(server_frame_name).collect();
    assert_eq!(shown, BTreeSet::from(SERVER_FRAMES));
}

#[test]
fn every_kind_of_event_has_an_example() {
    let mut shown = BTreeSet::new();
    for frame in server_frames() {
        match frame {
            ServerFrame::Event(event) => drop(shown.insert(event_name(&event.body))),
            ServerFrame::Events { events, .. } => {
                shown.extend(events.iter().map(|event| event_name(&event.body)));
            }
            _ => {}
        }
    }
    assert_eq!(shown, EVENTS.map(String::from).into());
}

#[test]
fn all_examples_are_looked_at() {
    let sections = ["What the client says", "What the server says", "Events"];
    let looked_at: usize = sections
        .map(|title| examples(section(title)).len())
        .iter()
        .sum();
    assert_eq!(examples(DOCUMENT).len(), looked_at);
}

#[test]
fn every_error_code_is_explained() {
    let table = section("Error codes");
    for code in ErrorCode::ALL {
        let row = format!("| `{code}` | {} |", code.http_status());
        let line = table.lines().find(|line| line.starts_with(&row));
        let line = line.unwrap_or_else(|| panic!("no row {row}"));
        let says_retry = line.ends_with("| yes, after `retry_after_ms` |")
            || line.ends_with("| yes, a few times |");
        assert_eq!(says_retry, code.is_retryable(), "{line}");
    }
    assert_eq!(rows(table), ErrorCode::ALL.len());
}

#[test]
fn every_close_code_is_explained() {
    let table = section("Close codes");
    for (place, code) in CLOSE_CODES.into_iter().enumerate() {
        assert_eq!(close_code_place(code), place);
        let row = format!("\n| {} |", code.as_u16());
        assert!(table.contains(&row), "no row {row}");
    }
    assert_eq!(rows(table), CLOSE_CODES.len());
}

#[test]
fn the_limits_are_those_of_the_code() {
    let defaults = serde_json::to_value(Limits::default()).unwrap();
    let welcome = server_frames().into_iter().find_map(|frame| match frame {
        ServerFrame::Welcome(welcome) => Some(serde_json::to_value(welcome.limits).unwrap()),
        _ => None,
    });
    assert_eq!(welcome.unwrap(), defaults);
    let table = section("Limits");
    let defaults = defaults.as_object().unwrap();
    for (name, value) in defaults {
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}`:")));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        assert!(row.contains(&format!("| {value} |")), "{row}: {value}");
    }
    assert_eq!(rows(table), defaults.len());
}

#[test]
fn every_word_of_a_closed_set_is_mentioned() {
    use {GoawayReason as G, NoticeKind as N, Role as R, Status as S};
    fn words<T: serde::Serialize>(set: &[T]) -> impl Iterator<Item = String> {
        set.iter().map(|word| {
            serde_json::to_value(word)
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        })
    }
    let words = words(&[S::Online, S::Away, S::Offline, S::Unknown])
        .chain(words(&[
            N::RoomAdded,
            N::RoomRemoved,
            N::RoomDeleted,
            N::SessionRevoked,
        ]))
        .chain(words(&[G::Rollout, G::Overload, G::TokenExpired]))
        .chain(words(&[R::Member, R::Admin, R::Owner]));
    for word in words {
        assert!(DOCUMENT.contains(&format!("`{word}`")), "{word} is missing");
    }
}

/// The rows of the first table of a section, without its head.
fn rows(text: &str) -> usize {
    text.lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .count()
        - 2
}
