//! The commands that end by themselves.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::console::{darda, output, run};
use crate::server::Server;

fn world() -> (TempDir, Server) {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    (folder, server)
}

fn texts(json_lines: &str) -> Vec<String> {
    let text = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        value["text"].as_str().map(str::to_owned)
    };
    json_lines.lines().filter_map(text).collect()
}

#[test]
fn what_is_sent_is_in_the_history() {
    let (folder, server) = world();
    let darda = |user: &str| darda(&server.url(), user, folder.path());
    let ack = output(darda("alice").args(["send", "general", "hello", "world", "--json"]));
    let ack: Value = serde_json::from_str(&ack).unwrap();
    output(darda("bob").args(["send", "general", "hi"]));

    let history = output(darda("alice").args(["history", "general"]));
    let lines: Vec<&str> = history.lines().collect();
    assert_eq!(lines.len(), 2, "{history}");
    assert!(
        lines[0].starts_with(&format!("{} ", ack["seq"])),
        "{history}"
    );
    assert!(lines[0].ends_with("Z alice: hello world"), "{history}");
    assert!(lines[1].ends_with("Z bob: hi"), "{history}");

    let before = format!("--before={}", ack["seq"].as_u64().unwrap() + 1);
    let older = output(darda("alice").args(["history", "general", "--json", &before]));
    assert_eq!(texts(&older), ["hello world"]);
}

#[test]
fn a_message_is_traced_by_its_id() {
    let (folder, server) = world();
    let darda = |user: &str| darda(&server.url(), user, folder.path());
    let ack = output(darda("alice").args(["send", "general", "hello", "--json"]));
    let ack: Value = serde_json::from_str(&ack).unwrap();
    let id = ack["id"].as_str().unwrap();
    output(darda("bob").args(["send", "general", "hi"]));

    let shown = output(darda("bob").args(["trace", id]));
    let lines: Vec<&str> = shown.lines().collect();
    let head = format!("message {} in general of alice", ack["seq"]);
    assert_eq!(lines[0], head, "{shown}");
    let names: Vec<&str> = lines[1..]
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names, ["appended", "persisted", "received", "read"]);
    assert!(lines[1].ends_with('Z'), "{shown}");
    assert!(lines[2].ends_with("yes"), "{shown}");
    assert!(lines[3].contains("of 1"), "{shown}");

    let one = output(darda("bob").args(["trace", id, "--room", "general", "--json"]));
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!((&one["id"], &one["seq"]), (&ack["id"], &ack["seq"]));

    let complaint = |command: &mut std::process::Command, code: i32| {
        let output = run(command, "");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let unknown = "0193f7c2-6b1e-7d3a-8f10-2b9c1d4e5f60";
    let nothing = complaint(darda("bob").args(["trace", unknown]), 1);
    assert_eq!(nothing, "darda: no such message (not_found)\n");
    let stranger = complaint(darda("mallory").args(["trace", id]), 1);
    assert_eq!(stranger, nothing);
    let room = complaint(darda("mallory").args(["trace", id, "--room", "general"]), 1);
    assert_eq!(room, "darda: no such room (not_found)\n");
    complaint(darda("bob").args(["trace", "hello"]), 2);
}

#[test]
fn lines_of_a_pipe_arrive_in_order_also_above_the_rate_limit() {
    let (folder, server) = world();
    let darda = || darda(&server.url(), "ci", folder.path());
    let lines: Vec<String> = (1..=130).map(|number| format!("line {number}")).collect();
    let sent = run(
        darda().args(["send", "builds"]),
        &(lines.join("\n\n") + "\n"),
    );
    assert!(sent.status.success(), "{sent:?}");
    let history = output(darda().args(["history", "builds", "--limit", "1000", "--json"]));
    assert_eq!(texts(&history), lines);
    let last = output(darda().args(["history", "builds", "--limit", "3", "--json"]));
    assert_eq!(texts(&last), lines[127..]);
}

#[test]
fn a_refusal_is_one_clear_line_and_an_exit_code() {
    let (folder, server) = world();
    let darda = || darda(&server.url(), "alice", folder.path());
    let complaint = |output: std::process::Output, code: i32| {
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let long = "x".repeat(20_000);
    let text = complaint(run(darda().args(["send", "general", &long]), ""), 1);
    assert!(
        text.starts_with("darda: refused: text: is 20000 bytes"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);

    let mixed = run(
        darda().args(["send", "general"]),
        &format!("one\n{long}\ntwo\n"),
    );
    let text = complaint(mixed, 1);
    assert!(text.contains("message 2 was refused"), "{text}");
    assert!(text.contains("1 of 3 messages were refused"), "{text}");
    let history = output(darda().args(["history", "general", "--json"]));
    assert_eq!(texts(&history), ["one", "two"]);

    let text = complaint(run(darda().args(["history", "nowhere"]), ""), 1);
    assert!(text.contains("not_found"), "{text}");
    let text = complaint(run(darda().args(["send", "Not a room", "x"]), ""), 2);
    assert!(text.contains("a room id is 1 to 64 characters"), "{text}");
    let text = complaint(run(darda().env_remove("DARDA_USER").arg("rooms"), ""), 2);
    assert!(text.contains("--user NAME or set DARDA_USER"), "{text}");
    let text = complaint(
        run(darda().args(["--url", "https://chat.test", "rooms"]), ""),
        2,
    );
    assert!(text.contains("TLS is not spoken"), "{text}");
    let text = complaint(
        run(darda().args(["--url", "http://127.0.0.1:1", "rooms"]), ""),
        1,
    );
    assert!(text.contains("cannot reach http://127.0.0.1:1"), "{text}");
    let away = [
        "--url",
        "http://127.0.0.1:1",
        "send",
        "general",
        "x",
        "--timeout",
        "1",
    ];
    let text = complaint(run(darda().args(away), ""), 1);
    assert!(
        text.contains("no answer from http://127.0.0.1:1 within 1 s"),
        "{text}"
    );
}

#[test]
fn rooms_are_listed() {
    let (folder, server) = world();
    let darda = |user: &str| darda(&server.url(), user, folder.path());
    output(darda("alice").args(["send", "general", "x"]));
    output(darda("bob").args(["send", "random", "x"]));
    let all = output(darda("alice").arg("rooms"));
    assert!(all.contains("general  public"), "{all}");
    assert!(all.contains("random"), "{all}");
    let mine = output(darda("alice").args(["rooms", "--mine", "--json"]));
    let mine: Vec<Value> = mine
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(mine.len(), 1);
    assert_eq!(mine[0]["id"], "general");
    assert_eq!(mine[0]["role"], "owner");
}

#[test]
fn a_direct_room_is_named_by_its_other_user() {
    let (folder, server) = world();
    let darda = |user: &str| darda(&server.url(), user, folder.path());
    output(darda("alice").args(["send", "@bob", "between us"]));
    let seen = output(darda("bob").args(["history", "@alice", "--json"]));
    assert_eq!(texts(&seen), ["between us"]);
    let seen = output(darda("carol").args(["history", "@alice"]));
    assert_eq!(seen, "");
}

#[test]
fn a_room_is_followed_from_anywhere() {
    let (folder, server) = world();
    let darda = |user: &str| darda(&server.url(), user, folder.path());
    output(darda("alice").args(["send", "general", "one"]));
    output(darda("alice").args(["send", "general", "two"]));
    // The room was created and joined before.
    let all =
        output(darda("bob").args(["tail", "general", "--after", "0", "--limit", "4", "--json"]));
    let all: Vec<Value> = all
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&str> = all
        .iter()
        .filter_map(|event| event["kind"].as_str())
        .collect();
    assert_eq!(kinds, ["room", "member", "message", "message"]);
    let rest = output(darda("bob").args(["tail", "general", "--after", "3", "--limit", "1"]));
    assert!(rest.ends_with("Z alice: two\n"), "{rest}");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let (folder, server) = world();
    let darda = || darda(&server.url(), "alice", folder.path());
    output(darda().args(["send", "general", "one"]));
    let mut tail = darda()
        .args(["tail", "general", "--after", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(tail.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.starts_with("1 "), "{first}");
    output(darda().args(["send", "general", "two"]));
    let end = tail.wait_with_output().unwrap();
    assert!(end.status.success(), "{end:?}");
    assert!(end.stderr.is_empty(), "{end:?}");
}

#[test]
fn no_message_commands_the_terminal() {
    let (folder, server) = world();
    let darda = |user: &str| darda(&server.url(), user, folder.path());
    let attack = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}txt\nforged";
    output(darda("mallory").args(["send", "general", attack]));
    let dangerous = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    for command in [
        vec!["history", "general"],
        vec!["history", "general", "--json"],
        vec!["tail", "general", "--after", "0", "--limit", "3"],
        vec!["tail", "general", "--after", "0", "--limit", "3", "--json"],
    ] {
        let shown = output(darda("alice").args(&command));
        assert!(shown.contains("owned"), "{command:?}: {shown}");
        assert!(!shown.contains(dangerous), "{command:?}: {shown:?}");
        assert!(
            !shown.lines().any(|line| line.starts_with("forged")),
            "{shown}"
        );
    }
    let kept = output(darda("alice").args(["history", "general", "--json"]));
    assert_eq!(texts(&kept), [attack]);
}

/// Answers one request after the other with these bodies, and returns the paths that were asked for.
fn answers(bodies: Vec<Value>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answered = std::thread::spawn(move || {
        let answer = |body: Value| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while let Some(Ok(line)) = lines
                .next()
                .filter(|line| !matches!(line, Ok(end) if end.is_empty()))
            {
                request.push_str(&line);
                request.push(' ');
            }
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}",
                body.len()
            );
            write!(stream, "{head}\r\n\r\n{body}").unwrap();
            request.split(' ').nth(1).unwrap().to_owned()
        };
        bodies.into_iter().map(answer).collect()
    });
    (url, answered)
}

#[test]
fn only_a_page_without_a_next_is_the_end_of_the_history() {
    let message = |seq: u64| json!({"seq": seq, "from": "bob", "at": "2026-11-21T11:00:00.000Z", "text": format!("m{seq}")});
    let (url, answered) = answers(vec![
        json!({"items": [message(9)], "next": "c 1"}),
        json!({"items": [], "next": "c2"}),
        json!({"items": [message(1)], "next": null}),
    ]);
    let folder = tempdir().unwrap();
    let history =
        output(darda(&url, "alice", folder.path()).args(["history", "general", "--json"]));
    assert_eq!(texts(&history), ["m1", "m9"]);
    assert_eq!(
        answered.join().unwrap(),
        [
            "/v1/rooms/general/messages?limit=50",
            "/v1/rooms/general/messages?limit=49&cursor=c%201",
            "/v1/rooms/general/messages?limit=49&cursor=c2",
        ]
    );
}

#[test]
fn messages_are_sent_although_nobody_reads_the_output() {
    let (folder, server) = world();
    let darda = || darda(&server.url(), "ci", folder.path());
    let mut send = darda()
        .args(["send", "builds", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(send.stdout.take());
    let lines: Vec<String> = (1..=90).map(|number| format!("line {number}")).collect();
    let mut input = send.stdin.take().unwrap();
    input.write_all(lines.join("\n").as_bytes()).unwrap();
    drop(input);
    let end = send.wait_with_output().unwrap();
    assert!(end.status.success(), "{end:?}");
    let history = output(darda().args(["history", "builds", "--limit", "200", "--json"]));
    assert_eq!(texts(&history), lines);
}

#[test]
fn bytes_that_are_no_text_do_not_stop_the_lines_behind_them() {
    let (folder, server) = world();
    let darda = || darda(&server.url(), "ci", folder.path());
    let mut send = darda()
        .args(["send", "builds"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = send.stdin.take().unwrap();
    input.write_all(b"one\r\n\xff\xfe two\nthree").unwrap();
    drop(input);
    assert!(send.wait().unwrap().success());
    let history = output(darda().args(["history", "builds", "--json"]));
    assert_eq!(texts(&history), ["one", "\u{fffd}\u{fffd} two", "three"]);
}
