//! What no client should do: every error code and close code of the protocol, and that nobody else is harmed.

use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use crate::chat::{Chat, new_id, send};
use crate::raw::{BINARY, CLOSE, FIN, Got, PING, Raw, TEXT, frame, header};
use crate::server::{Server, Setup};

const CONTINUATION: u8 = 0x0;

/// A well-behaved client in the same process, who must not notice.
struct Witness(Chat);

impl Witness {
    async fn of(server: &Server) -> Self {
        let mut chat = Chat::open(server, "witness").await;
        chat.subscribe("calm", None).await;
        Self(chat)
    }

    async fn is_served(&mut self) {
        let seq = self.0.send("calm", "still here").await;
        assert_eq!(
            self.0
                .until(|f| f["type"] == "event" && f["text"].is_string())
                .await["seq"],
            seq
        );
    }
}

#[tokio::test]
async fn a_bad_frame_is_refused_with_its_reason_and_the_connection_goes_on() {
    let server = Server::start().await;
    let mut witness = Witness::of(&server).await;
    let mut raw = Raw::open_as(&server, "mallory").await;
    let id = new_id();
    let deep = format!(
        r#"{{"type":"send","id":"{id}","room":"r","text":"x","meta":{}{}}}"#,
        "[".repeat(30_000),
        "]".repeat(30_000)
    );
    let sent = |rest: &str| format!(r#"{{"type":"send","id":"{id}",{rest}}}"#);
    let cases: Vec<(String, &str)> = vec![
        ("".into(), "one JSON object"),
        ("{".into(), "not valid JSON"),
        ("[]".into(), "one JSON object"),
        ("null".into(), "one JSON object"),
        (r#"{"type":"send""#.into(), "not valid JSON"),
        (r#"{"type":"send"} {}"#.into(), "not valid JSON"),
        ("{}".into(), "type: is missing"),
        (r#"{"type":7}"#.into(), "type: must be a string"),
        (r#"{"type":{"$ne":1}}"#.into(), "type: must be a string"),
        (r#"{"type":"dance"}"#.into(), "'dance' is unknown"),
        (r#"{"type":"welcome"}"#.into(), "'welcome' is unknown"),
        (
            r#"{"type":"hello","user":"again"}"#.into(),
            "already signed in",
        ),
        (deep, "meta: "),
        (sent(r#""room":"r","text":"\ud800""#), "text: "),
        (sent(r#""room":"r","text":"\udc00 x""#), "text: "),
        (sent(r#""room":{"$ne":1},"text":"x""#), "room: "),
        (sent(r#""room":"r","text":{"$ne":1}"#), "text: "),
        (sent(r#""room":"r","text":["x"]"#), "text: "),
        (sent(r#""room":"r","text":7"#), "text: "),
        (sent(r#""room":"r""#), "text"),
        (sent(r#""text":"x""#), "room: "),
        (sent(r#""room":"r","to":"bob","text":"x""#), "room: "),
        (sent(r#""to":"mallory","text":"x""#), ""),
        (sent(r#""to":{"$gt":""},"text":"x""#), "to: "),
        (
            sent(r#""room":"r","text":"x","meta":{"$where":{"a":1}}"#),
            "meta",
        ),
        (sent(r#""room":"r","text":"x","meta":{"a":1}"#), "meta"),
        (
            sent(r#""room":"r","text":"x","reply_to":9007199254740992"#),
            "reply_to: ",
        ),
        (sent(r#""room":"r","text":"x","reply_to":-1"#), "reply_to: "),
        (
            sent(r#""room":"r","text":"x","reply_to":1.5"#),
            "reply_to: ",
        ),
        (
            sent(r#""room":"r","text":"x","reply_to":1e99"#),
            "reply_to: ",
        ),
        (
            sent(r#""room":"r","text":"x","reply_to":"1""#),
            "reply_to: ",
        ),
        (sent(r#""room":"R","text":"x""#), "room: "),
        (sent(r#""room":"../etc","text":"x""#), "room: "),
        (sent(r#""room":"","text":"x""#), "room: "),
        (sent(r#""room":"r","text":"""#), "text: "),
        (sent(r#""room":"r","text":" \n\t""#), "text: "),
        (
            r#"{"type":"send","id":"1","room":"r","text":"x"}"#.into(),
            "id: ",
        ),
        (
            r#"{"type":"send","id":{"$ne":1},"room":"r","text":"x"}"#.into(),
            "id: ",
        ),
        (r#"{"type":"send","room":"r","text":"x"}"#.into(), "id"),
        (r#"{"type":"subscribe","rooms":"r"}"#.into(), "rooms: "),
        (
            r#"{"type":"subscribe","rooms":[{"room":"r","after":-1}]}"#.into(),
            "rooms[0].after: ",
        ),
        (
            r#"{"type":"subscribe","rooms":[{"room":"r","after":{"$gt":0}}]}"#.into(),
            "rooms[0].after: ",
        ),
        (
            r#"{"type":"subscribe","rooms":[{"room":"r","after":9007199254740992}]}"#.into(),
            "rooms[0].after: ",
        ),
        (r#"{"type":"subscribe","ref":7,"rooms":[]}"#.into(), "ref: "),
        (
            format!(
                r#"{{"type":"subscribe","ref":"{}","rooms":[]}}"#,
                "r".repeat(65)
            ),
            "ref: ",
        ),
        (
            r#"{"type":"unsubscribe","rooms":[{"$ne":1}]}"#.into(),
            "rooms[0]: ",
        ),
        (
            r#"{"type":"fetch","room":"r","after":0,"limit":"200"}"#.into(),
            "limit: ",
        ),
        (
            r#"{"type":"fetch","room":"r","after":0,"limit":-5}"#.into(),
            "limit: ",
        ),
        (
            r#"{"type":"fetch","room":"r","after":0.5,"limit":5}"#.into(),
            "after: ",
        ),
        (r#"{"type":"typing","room":"r","on":"yes"}"#.into(), "on: "),
        (r#"{"type":"read","room":"r","seq":null}"#.into(), "seq: "),
        (
            r#"{"type":"received","room":"r","seq":9007199254740992}"#.into(),
            "seq: ",
        ),
        (
            format!(r#"{{"type":"react","id":"{id}","room":"r","seq":1,"emoji":"a b","on":true}}"#),
            "emoji: ",
        ),
    ];
    for (text, reason) in cases {
        raw.text(&text).await;
        let (code, message) = raw.refusal().await;
        let text: String = text.chars().take(200).collect();
        assert_eq!(code, "bad_request", "{text} -> {message}");
        assert!(message.contains(reason), "{text} -> {message}");
        // A good frame, so that the bad ones are not in a row.
        raw.text(r#"{"type":"unsubscribe","rooms":[]}"#).await;
        assert!(matches!(raw.next().await, Got::Frame(frame) if frame["type"] == "unsubscribed"));
    }
    raw.frame(FIN | BINARY, b"\x08\x01").await;
    let (code, message) = raw.refusal().await;
    assert_eq!(code, "bad_request");
    assert!(message.contains("text, not binary"), "{message}");
    witness.is_served().await;
}

#[tokio::test]
async fn a_refusal_repeats_what_it_refuses() {
    let server = Server::start().await;
    let mut chat = Chat::open(&server, "mallory").await;
    let id = new_id();
    let refusal = chat
        .refusal(json!({"type": "send", "id": id, "room": 7, "text": "x"}))
        .await;
    assert_eq!(
        (&refusal["id"], &refusal["code"]),
        (&json!(id), &json!("bad_request"))
    );
    let refusal = chat
        .refusal(json!({"type": "fetch", "ref": "9", "room": "r", "after": "0", "limit": 1}))
        .await;
    assert_eq!(refusal["ref"], "9");
}

#[tokio::test]
async fn sizes_and_numbers_have_limits() {
    let server = Setup::new()
        .with("DARDA_LIMIT_SUBSCRIPTIONS", 3)
        .start()
        .await;
    let mut witness = Witness::of(&server).await;
    let mut chat = Chat::open(&server, "mallory").await;

    let longest = "é".repeat(8 * 1024);
    chat.send("r", &longest).await;
    let answer = chat.try_send("r", &format!("{longest}x")).await;
    assert_eq!(answer["code"], "too_large", "{answer}");
    let mut heavy = send(&new_id(), "r", "x");
    heavy["meta"] = json!({"k": "v".repeat(2048)});
    assert_eq!(chat.answer(heavy).await["code"], "too_large");

    let rooms: Vec<_> = (0..201).map(|n| json!({"room": format!("r{n}")})).collect();
    let refusal = chat
        .refusal(json!({"type": "subscribe", "ref": "many", "rooms": rooms}))
        .await;
    assert_eq!(
        (&refusal["code"], &refusal["ref"]),
        (&json!("too_large"), &json!("many"))
    );

    for limit in [0, 201, u32::MAX] {
        let ask = json!({"type": "fetch", "ref": "f", "room": "r", "after": 0, "limit": limit});
        let refusal = chat.refusal(ask).await;
        assert_eq!(
            (&refusal["code"], &refusal["ref"]),
            (&json!("bad_request"), &json!("f"))
        );
    }

    for room in ["r", "one", "two"] {
        chat.subscribe(room, None).await;
    }
    let fourth = json!({"type": "subscribe", "ref": "4", "rooms": [{"room": "three"}]});
    let refusal = chat.refusal(fourth).await;
    assert_eq!(
        (&refusal["code"], &refusal["room"]),
        (&json!("too_large"), &json!("three"))
    );
    chat.subscribe("r", 0).await;
    chat.say(json!({"type": "unsubscribe", "rooms": ["one"]}))
        .await;
    chat.subscribe("three", None).await;

    let head = chat.send("two", "x").await;
    for kind in ["read", "received"] {
        for seq in [head + 1, (1 << 53) - 1] {
            let refusal = chat
                .refusal(json!({"type": kind, "room": "two", "seq": seq}))
                .await;
            assert_eq!(
                (&refusal["code"], &refusal["room"]),
                (&json!("bad_request"), &json!("two"))
            );
        }
        chat.say(json!({"type": kind, "room": "two", "seq": head}))
            .await;
        let refusal = chat
            .refusal(json!({"type": kind, "room": "elsewhere", "seq": 1}))
            .await;
        assert_eq!(refusal["code"], "not_found");
    }
    // A reply to what is not there, or is no message.
    for reply_to in [0, 1, head + 1] {
        let mut reply = send(&new_id(), "two", "x");
        reply["reply_to"] = json!(reply_to);
        let answer = chat.answer(reply).await;
        assert_eq!(answer["code"], "not_found", "{reply_to}: {answer}");
    }
    let more = chat.everything().await;
    assert!(
        more.iter().all(|frame| frame["type"] != "error"),
        "{more:?}"
    );
    witness.is_served().await;
}

#[tokio::test]
async fn too_many_sends_are_refused_with_the_time_to_wait() {
    let server = Setup::new()
        .with("DARDA_LIMIT_SENDS_PER_SEC", 4)
        .with("DARDA_LIMIT_SENDS_BURST", 3)
        .start()
        .await;
    let mut witness = Witness::of(&server).await;
    let mut chat = Chat::open(&server, "mallory").await;
    chat.subscribe("r", None).await;
    let frames: Vec<_> = (0..20).map(|_| send(&new_id(), "r", "spam")).collect();
    chat.say_all(frames.clone()).await;
    let mut refused = None;
    for frame in frames {
        let id = &frame["id"];
        let answer = chat.until(|f| f["id"] == *id && f["type"] != "event").await;
        if answer["type"] == "error" {
            assert_eq!(answer["code"], "rate_limited", "{answer}");
            refused = Some((frame, answer["retry_after_ms"].as_u64().unwrap()));
        }
    }
    let (frame, wait) = refused.expect("20 sends at once are too many");
    assert!((1..=250).contains(&wait), "{wait}");
    // Another connection of the same user does not help, and another user is not concerned.
    let answer = server
        .ask(
            "POST",
            "/v1/rooms/r/messages",
            "mallory",
            json!({"id": new_id(), "text": "x"}),
        )
        .await;
    assert!(matches!(answer.status, 429 | 201), "{answer:?}");
    witness.is_served().await;
    sleep(Duration::from_millis(wait + 300)).await;
    assert_eq!(chat.answer(frame).await["type"], "ack");
}

#[tokio::test]
async fn one_user_has_a_limited_number_of_connections() {
    let server = Setup::new()
        .with("DARDA_LIMIT_CONNECTIONS_PER_USER", 2)
        .start()
        .await;
    let mut witness = Witness::of(&server).await;
    let first = Chat::open(&server, "mallory").await;
    let mut second = Chat::open(&server, "mallory").await;
    for _ in 0..3 {
        let mut third = Raw::upgrade(&server, "/v1/ws?id=mallory", "").await;
        assert_eq!(third.refusal().await.0, "rate_limited");
        assert_eq!(third.end().await, Some(1008));
    }
    second.send("r", "not disturbed").await;
    drop(first);
    server
        .metric_becomes("chat_connections", |n| n == 2.0)
        .await;
    let mut again = Raw::upgrade(&server, "/v1/ws?id=mallory", "").await;
    let welcome = again.next().await;
    assert!(
        matches!(&welcome, Got::Frame(f) if f["type"] == "welcome"),
        "{welcome:?}"
    );
    witness.is_served().await;
}

#[tokio::test]
async fn broken_frames_close_the_connection_with_the_right_code() {
    let server = Server::start().await;
    let mut witness = Witness::of(&server).await;
    let unmasked = b"\x81\x02{}".to_vec();
    let fragmented = |parts: &[(u8, &[u8])]| -> Vec<u8> {
        parts
            .iter()
            .flat_map(|(first, payload)| frame(*first, payload))
            .collect()
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", unmasked, 1002),
        ("RSV1", frame(FIN | 0x40 | TEXT, b"{}"), 1002),
        ("RSV2", frame(FIN | 0x20 | TEXT, b"{}"), 1002),
        ("RSV3", frame(FIN | 0x10 | TEXT, b"{}"), 1002),
        ("opcode 3", frame(FIN | 0x3, b""), 1002),
        ("opcode 7", frame(FIN | 0x7, b""), 1002),
        ("opcode 11", frame(FIN | 0xb, b""), 1002),
        ("opcode 15", frame(FIN | 0xf, b""), 1002),
        (
            "a continuation of nothing",
            frame(FIN | CONTINUATION, b"{}"),
            1002,
        ),
        (
            "a message in a message",
            fragmented(&[(TEXT, b"{"), (FIN | TEXT, b"}")]),
            1002,
        ),
        ("a ping in pieces", frame(PING, b"x"), 1002),
        ("a long ping", frame(FIN | PING, &[b'x'; 126]), 1002),
        ("a huge ping", header(FIN | PING, 1 << 40), 1002),
        ("half a close code", frame(FIN | CLOSE, b"\x03"), 1002),
        (
            "a reserved close code",
            frame(FIN | CLOSE, &1005_u16.to_be_bytes()),
            1002,
        ),
        (
            "a close reason that is not UTF-8",
            frame(FIN | CLOSE, b"\x03\xe8\xff"),
            1007,
        ),
        ("not UTF-8", frame(FIN | TEXT, b"{\"type\":\"\xff\"}"), 1007),
        ("half a character", frame(FIN | TEXT, b"\xe2\x82"), 1007),
        (
            "a surrogate in UTF-8",
            frame(FIN | TEXT, b"\xed\xa0\x80"),
            1007,
        ),
        ("one byte too many", header(FIN | TEXT, 65_537), 1009),
        ("4 GiB", header(FIN | BINARY, 4 << 30), 1009),
        ("2^63 bytes", header(FIN | TEXT, 1 << 63), 1009),
        ("all lengths", header(FIN | TEXT, u64::MAX), 1009),
    ];
    for (name, bytes, code) in cases {
        for signed_in in [false, true] {
            let mut raw = if signed_in {
                Raw::open_as(&server, "mallory").await
            } else {
                Raw::open(&server).await
            };
            let _ = raw.bytes(&bytes).await;
            assert_eq!(raw.end().await, Some(code), "{name}");
        }
        witness.is_served().await;
    }
    server
        .metric_becomes("chat_connections", |n| n == 1.0)
        .await;
}

#[tokio::test]
async fn frames_arrive_in_any_pieces() {
    let server = Server::start().await;
    let mut raw = Raw::open(&server).await;
    let hello = r#"{"type":"hello","user":"jürgen-ist-nicht-erlaubt"}"#.as_bytes();
    // A character cut in two, a ping between the fragments, and every byte in a packet of its own.
    let cut = hello.iter().position(|b| *b >= 0x80).unwrap() + 1;
    let mut bytes = frame(TEXT, &hello[..cut]);
    bytes.extend(frame(FIN | PING, b"between"));
    bytes.extend(frame(CONTINUATION, b""));
    bytes.extend(frame(FIN | CONTINUATION, &hello[cut..]));
    for byte in bytes {
        raw.bytes(&[byte]).await.unwrap();
    }
    assert_eq!(raw.next().await, Got::Pong(b"between".to_vec()));
    let (code, message) = raw.refusal().await;
    assert_eq!(code, "bad_request");
    assert!(message.starts_with("user: "), "{message}");
    raw.frame(FIN | PING, &[b'p'; 125]).await;
    assert_eq!(raw.next().await, Got::Pong(vec![b'p'; 125]));
    raw.frame(FIN | CLOSE, &1000_u16.to_be_bytes()).await;
    assert_eq!(raw.next().await, Got::Close(1000));
    assert_eq!(raw.next().await, Got::End);
}

#[tokio::test]
async fn what_is_announced_is_not_buffered() {
    let server = Server::start().await;
    let mut witness = Witness::of(&server).await;
    // Whatever is made on first use is made before it is measured.
    let mut warm = Raw::open_as(&server, "mallory").await;
    warm.frame(FIN | TEXT, &[b' '; 65_536]).await;
    warm.refusal().await;
    let before = server.memory_kib();
    for _ in 0..8 {
        let mut raw = Raw::open(&server).await;
        let _ = raw.bytes(&header(FIN | TEXT, 4 << 30)).await;
        let chunk = [b'x'; 64 * 1024];
        for _ in 0..64 {
            // The server closes and, after a while, no longer listens.
            if raw.bytes(&chunk).await.is_err() {
                break;
            }
        }
        let now = server.memory_kib();
        assert!(now < before + 4096, "{before} KiB before, {now} KiB now");
        witness.is_served().await;
    }
}

#[tokio::test]
async fn a_message_without_an_end_is_cut_off() {
    let server = Server::start().await;
    let mut witness = Witness::of(&server).await;
    for (what, piece) in [("bytes", vec![b'x'; 1000]), ("nothing at all", vec![])] {
        let mut raw = Raw::open_as(&server, "mallory").await;
        let _ = raw.bytes(&frame(TEXT, &piece)).await;
        for _ in 0..1000 {
            if raw.bytes(&frame(CONTINUATION, &piece)).await.is_err() {
                break;
            }
        }
        assert_eq!(raw.end().await, Some(1009), "{what}");
        witness.is_served().await;
    }
}

#[tokio::test]
async fn ten_bad_frames_in_a_row_close_and_a_good_one_starts_the_count_anew() {
    let server = Server::start().await;
    let mut witness = Witness::of(&server).await;
    let mut raw = Raw::open_as(&server, "mallory").await;
    for _ in 0..3 {
        for _ in 0..9 {
            raw.text("nonsense").await;
            assert_eq!(raw.refusal().await.0, "bad_request");
        }
        raw.text(r#"{"type":"unsubscribe","rooms":[]}"#).await;
        assert!(matches!(raw.next().await, Got::Frame(_)));
    }
    for _ in 0..10 {
        raw.text("nonsense").await;
        assert_eq!(raw.refusal().await.0, "bad_request");
    }
    assert_eq!(raw.next().await, Got::Close(1008));
    witness.is_served().await;
}

#[tokio::test]
async fn nothing_is_done_for_strangers_and_they_do_not_stay() {
    let server = Setup::new()
        .with("DARDA_LIMIT_HELLO_SECS", 0.3)
        .start()
        .await;
    let mut witness = Witness::of(&server).await;
    let mut raw = Raw::open(&server).await;
    raw.text(&send(&new_id(), "r", "x").to_string()).await;
    assert_eq!(raw.refusal().await.0, "unauthenticated");
    raw.text(r#"{"type":"hello","token":"t"}"#).await;
    assert_eq!(raw.refusal().await.0, "unauthenticated");
    raw.text(r#"{"type":"hello","user":"mallory","token":"t"}"#)
        .await;
    assert_eq!(raw.refusal().await.0, "unauthenticated");
    raw.text(r#"{"type":"hello"}"#).await;
    assert_eq!(raw.refusal().await.0, "unauthenticated");
    raw.frame(FIN | PING, b"").await;
    assert_eq!(raw.end().await, Some(4401));
    let mut silent = Raw::open(&server).await;
    assert_eq!(silent.end().await, Some(4401));
    // Those who have said hello stay.
    witness.is_served().await;
}

#[tokio::test]
async fn upgrades_are_checked() {
    let server = Setup::new()
        .with("DARDA_HTTP_ADDR", "127.0.0.1:0")
        .with("DARDA_ALLOWED_ORIGINS", "https://chat.example.org")
        .start()
        .await;
    let mut witness = Witness::of(&server).await;
    let own = format!("origin: http://{}\r\n", server.http);
    let cases = [
        ("/v1/ws", own.as_str(), 101, ""),
        ("/v1/ws", "origin: https://chat.example.org\r\n", 101, ""),
        (
            "/v1/ws",
            "origin: https://evil.example\r\n",
            403,
            "forbidden",
        ),
        ("/v1/ws", "origin: null\r\n", 403, "forbidden"),
        ("/v1/ws", "origin: http://localhost:1\r\n", 403, "forbidden"),
        ("/v1/ws", "origin: \r\n", 403, "forbidden"),
        ("/v1/elsewhere", "", 404, "not_found"),
        ("/", "", 404, "not_found"),
        ("/v1/ws?id=Not%20A%20Name", "", 400, "bad_request"),
        ("/v1/ws?id=", "", 400, "bad_request"),
        (
            "/v1/ws",
            "authorization: Bearer abc\r\n",
            401,
            "unauthenticated",
        ),
        (
            "/v1/ws?id=mallory",
            "authorization: bearer abc\r\n",
            401,
            "unauthenticated",
        ),
    ];
    for (path, headers, status, code) in cases {
        let mut raw = Raw::upgrade(&server, path, headers).await;
        assert_eq!(raw.status, status, "{path} {headers}: {}", raw.head);
        if status == 101 {
            assert!(
                raw.head
                    .contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
                "{}",
                raw.head
            );
        } else {
            assert!(
                raw.head.contains("application/problem+json"),
                "{}",
                raw.head
            );
            let problem: Value = serde_json::from_str(&raw.body().await).unwrap();
            assert_eq!(
                (&problem["code"], &problem["status"]),
                (&json!(code), &json!(status))
            );
        }
        witness.is_served().await;
    }
}

#[tokio::test]
async fn what_is_not_yours_looks_as_if_it_did_not_exist() {
    let server = Server::start().await;
    let room = |body: Value| server.done("POST", "/v1/rooms", "alice", body);
    let private = room(json!({"kind": "private", "name": "plans"})).await;
    let gone = room(json!({"kind": "private", "name": "old plans"})).await;
    let direct = server
        .done("PUT", "/v1/direct/bob", "alice", Value::Null)
        .await;
    let id = |room: &Value| room["id"].as_str().unwrap().to_owned();
    let mut alice = Chat::open(&server, "alice").await;
    for room in [&private, &gone, &direct] {
        alice.send(&id(room), "a secret").await;
    }
    let mut slug = Chat::open(&server, "alice").await;
    slug.send("once-here", "x").await;
    for room in [&id(&gone), "once-here"] {
        server
            .done("DELETE", &format!("/v1/rooms/{room}"), "alice", Value::Null)
            .await;
    }

    let rooms = [
        id(&private),
        id(&gone),
        id(&direct),
        "once-here".to_owned(),
        new_id(),
    ];
    let mut mallory = Chat::open(&server, "mallory").await;
    let mut words = Vec::new();
    for room in &rooms {
        let acts = [
            json!({"type": "subscribe", "ref": "s", "rooms": [{"room": room, "after": 0}]}),
            json!({"type": "fetch", "ref": "f", "room": room, "after": 0, "limit": 10}),
            json!({"type": "typing", "room": room, "on": true}),
            json!({"type": "read", "room": room, "seq": 1}),
            json!({"type": "received", "room": room, "seq": 1}),
            send(&new_id(), room, "x"),
            json!({"type": "edit", "id": new_id(), "room": room, "seq": 2, "text": "x"}),
            json!({"type": "delete", "id": new_id(), "room": room, "seq": 2}),
            json!({"type": "react", "id": new_id(), "room": room, "seq": 2, "emoji": "x", "on": true}),
        ];
        let mut told = Vec::new();
        for act in acts {
            let refusal = mallory.refusal(act.clone()).await;
            assert_eq!(refusal["code"], "not_found", "{act}: {refusal}");
            told.push(refusal["message"].to_string());
        }
        let new_message = json!({"id": new_id(), "text": "x"});
        let asked = [
            ("GET", "", Value::Null),
            ("PATCH", "", json!({"topic": "x"})),
            ("DELETE", "", Value::Null),
            ("GET", "/members", Value::Null),
            ("PUT", "/members/me", Value::Null),
            ("PUT", "/members/mallory", Value::Null),
            ("DELETE", "/members/alice", Value::Null),
            ("POST", "/invites", json!({})),
            ("POST", "/messages", new_message),
            ("GET", "/messages", Value::Null),
            ("GET", "/events?after=0", Value::Null),
            ("GET", "/export", Value::Null),
        ];
        for (method, path, body) in asked {
            let path = format!("/v1/rooms/{room}{path}");
            let answer = server.ask(method, &path, "mallory", body).await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
            let mut problem = answer.json();
            problem.as_object_mut().unwrap().remove("instance");
            told.push(problem.to_string());
        }
        words.push(told);
    }
    assert!(words.iter().all(|told| *told == words[0]), "{words:#?}");

    for path in ["/v1/rooms", "/v1/inbox"] {
        let found = server.done("GET", path, "mallory", Value::Null).await;
        assert_eq!(found["items"], json!([]), "{path}");
    }
    let left = mallory.everything().await;
    assert!(
        left.iter().all(|frame| frame["type"] != "event"),
        "{left:?}"
    );
}

#[tokio::test]
async fn what_one_can_see_but_may_not_do_is_forbidden() {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let seq = alice.send("general", "mine").await;
    let mut bob = Chat::open(&server, "bob").await;
    bob.subscribe("general", None).await;
    for act in [
        json!({"type": "edit", "id": new_id(), "room": "general", "seq": seq, "text": "yours"}),
        json!({"type": "delete", "id": new_id(), "room": "general", "seq": seq}),
    ] {
        let answer = bob.answer(act.clone()).await;
        assert_eq!(answer["code"], "forbidden", "{act}: {answer}");
    }
    // Not even the owner of the room puts words into another's mouth.
    let bobs = bob.send("general", "bob's").await;
    let edit = json!({"type": "edit", "id": new_id(), "room": "general", "seq": bobs, "text": "x"});
    assert_eq!(alice.answer(edit).await["code"], "forbidden");
    let delete = json!({"type": "delete", "id": new_id(), "room": "general", "seq": bobs});
    assert_eq!(alice.answer(delete).await["type"], "ack");
    for (method, path, body) in [
        ("PATCH", "/v1/rooms/general", json!({"topic": "x"})),
        ("DELETE", "/v1/rooms/general", Value::Null),
        ("DELETE", "/v1/rooms/general/members/alice", Value::Null),
        (
            "PATCH",
            "/v1/rooms/general/members/bob",
            json!({"role": "owner"}),
        ),
    ] {
        let answer = server.ask(method, path, "bob", body).await;
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
    }
}
