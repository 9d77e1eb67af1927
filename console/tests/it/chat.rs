//! `darda chat`, while servers and consoles are killed.

use std::path::Path;

use tempfile::tempdir;

use crate::console::{Chat, darda, output, run};
use crate::server::Server;

/// How often a message is in the history of the room.
fn count(url: &str, state: &Path, text: &str) -> usize {
    let history =
        output(darda(url, "reader", state).args(["history", "general", "--limit", "200"]));
    history.lines().filter(|line| line.ends_with(text)).count()
}

#[test]
fn two_people_talk_and_see_that_they_were_seen() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let darda = |user: &str| darda(&server.url(), user, folder.path());
    output(darda("carol").args(["send", "general", "earlier"]));
    let mut alice = Chat::start(darda("alice").args(["chat", "general"]));
    alice.hears("carol: earlier");
    let mut bob = Chat::start(darda("bob").args(["chat", "general", "--history", "1"]));
    let past = bob.hears("earlier");
    assert_eq!(past.len(), 1, "{past:?}");
    alice.hears("* bob joined");
    alice.type_line("lunch?");
    alice.hears("alice: lunch?  ✓");
    bob.hears("alice: lunch?");
    alice.notes("seen by bob");
    bob.type_line("//yes");
    alice.hears("bob: /yes");
    bob.type_line("/nope");
    bob.notes("there is no /nope; not sent");
    bob.type_line("/quit");
    bob.type_line("never said");
    let (status, rest) = bob.leave();
    assert!(status.success());
    assert!(
        rest.iter().all(|line| !line.contains("never said")),
        "{rest:?}"
    );
    let (status, _) = alice.leave();
    assert!(status.success());
}

#[test]
fn a_chat_survives_the_death_of_the_server() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data);
    let mut chat =
        Chat::start(darda(&server.url(), "alice", folder.path()).args(["chat", "general"]));
    chat.type_line("before");
    chat.hears("alice: before  ✓");
    let server = server.kill();
    chat.notes("no connection to");
    chat.type_line("meanwhile one");
    chat.type_line("meanwhile two");
    let server = server.start(&data);
    chat.notes("connected again");
    let heard = chat.hears("meanwhile two  ✓");
    assert!(
        heard.iter().any(|line| line.ends_with("meanwhile one  ✓")),
        "{heard:?}"
    );
    assert!(
        heard.iter().all(|line| !line.contains("before")),
        "{heard:?}"
    );
    output(darda(&server.url(), "bob", folder.path()).args(["send", "general", "welcome back"]));
    chat.hears("bob: welcome back");
    for text in ["before", "meanwhile one", "meanwhile two"] {
        assert_eq!(count(&server.url(), folder.path(), text), 1, "{text}");
    }
}

#[cfg(unix)]
#[test]
fn a_chat_survives_a_restart_of_the_server() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data);
    let mut chat =
        Chat::start(darda(&server.url(), "alice", folder.path()).args(["chat", "general"]));
    chat.type_line("before");
    chat.hears("alice: before  ✓");
    let server = server.terminate().start(&data);
    chat.type_line("after");
    let heard = chat.hears("alice: after  ✓");
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(count(&server.url(), folder.path(), "after"), 1);
}

#[test]
fn what_a_killed_console_did_not_send_is_sent_by_the_next() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data);
    output(darda(&server.url(), "bob", folder.path()).args(["send", "general", "hi"]));
    let server = server.kill();
    let mut first =
        Chat::start(darda(&server.url(), "alice", folder.path()).args(["chat", "general"]));
    first.notes("no connection to");
    first.type_line("do not lose me");
    first.notes("kept; it is sent as soon as there is a connection");
    first.kill();

    let server = server.start(&data);
    let second =
        Chat::start(darda(&server.url(), "alice", folder.path()).args(["chat", "general"]));
    second.notes("1 message of the last time will be sent first");
    second.hears("alice: do not lose me");
    let (status, _) = second.leave();
    assert!(status.success());
    let third = run(
        darda(&server.url(), "alice", folder.path()).args(["chat", "general"]),
        "",
    );
    assert!(third.status.success());
    assert!(third.stderr.is_empty(), "{third:?}");
    assert_eq!(count(&server.url(), folder.path(), "do not lose me"), 1);
}

#[test]
fn leaving_while_the_server_is_away_keeps_what_was_typed() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data).kill();
    let left = run(
        darda(&server.url(), "alice", folder.path()).args(["chat", "general"]),
        "later\n",
    );
    assert_eq!(left.status.code(), Some(1));
    let complaint = String::from_utf8(left.stderr).unwrap();
    assert!(
        complaint.contains("1 message not sent yet; kept for the next `darda chat general`"),
        "{complaint}"
    );
    let server = server.start(&data);
    let next = run(
        darda(&server.url(), "alice", folder.path()).args(["chat", "general"]),
        "now\n",
    );
    assert!(next.status.success(), "{next:?}");
    let history = output(darda(&server.url(), "bob", folder.path()).args(["history", "general"]));
    let said: Vec<&str> = history
        .lines()
        .filter_map(|line| line.rsplit(' ').next())
        .collect();
    assert_eq!(said, ["later", "now"], "{history}");
}

#[test]
fn one_room_is_chatted_in_by_one_console_of_a_user() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let darda = |user: &str| darda(&server.url(), user, folder.path());
    let mut first = Chat::start(darda("alice").args(["chat", "general"]));
    first.type_line("x");
    first.hears("alice: x");
    let second = run(darda("alice").args(["chat", "general"]), "doubled\n");
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert!(
        complaint.contains("alice is already chatting in general"),
        "{complaint}"
    );
    for (user, room) in [("bob", "general"), ("alice", "random")] {
        let other = run(darda(user).args(["chat", room]), "hi\n");
        assert!(other.status.success(), "{other:?}");
    }
    assert_eq!(count(&server.url(), folder.path(), "doubled"), 0);
}

#[cfg(unix)]
#[test]
fn a_terminated_chat_says_good_bye_and_keeps_what_is_left() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data")).kill();
    let mut chat =
        Chat::start(darda(&server.url(), "alice", folder.path()).args(["chat", "general"]));
    chat.notes("no connection to");
    chat.type_line("later");
    chat.notes("kept;");
    chat.terminate();
    chat.notes("1 message not sent yet");
}
