//! P7, honest outage, where the only thing that can be away is the disk: full, broken, hanging.
//!
//! Disks to be spoiled are made by root; for others these tests say that they were skipped, and pass.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::chat::{Chat, new_id, send};
use crate::http;
use crate::server::{Server, Setup, eventually};

/// A file system of its own. Unmounted when dropped, at the latest when the last process lets go of it.
struct Disk {
    folder: TempDir,
}

fn run(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).output();
    output.is_ok_and(|output| output.status.success())
}

impl Disk {
    /// A small one in memory.
    fn in_memory(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let size = format!("size={size}");
        if run("mount", &["-t", "tmpfs", "-o", &size, "darda-test", path]) {
            return Some(Self { folder });
        }
        testbed::skipped("root for a tmpfs");
        None
    }

    /// A real one in a file, which becomes read-only at the first error, as most are set up.
    fn in_file(image: &Path) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let options = "loop,errors=remount-ro";
        if run("mount", &["-o", options, image.to_str().unwrap(), path]) {
            return Some(Self { folder });
        }
        testbed::skipped("root for a loop device");
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    fn setup(&self) -> Setup {
        Setup::new().in_folder(&self.data())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["--lazy", self.path().to_str().unwrap()]);
    }
}

/// Sends until one is refused; what was acked, and the refused frame.
async fn send_until_refused(chat: &mut Chat, acked: &mut Vec<u64>) -> (Value, Value) {
    for _ in 0..2000 {
        let frame = send(&new_id(), "log", &"x".repeat(8000));
        let answer = chat.answer(frame.clone()).await;
        match answer["type"].as_str().unwrap() {
            "ack" => acked.push(answer["seq"].as_u64().unwrap()),
            _ => return (frame, answer),
        }
    }
    panic!("the disk takes everything");
}

/// What goes on without a disk that takes writes, and how the trouble is told.
async fn reading_goes_on(server: &Server, last: u64, word: &str) {
    let (status, state, checks) = server.readiness().await;
    assert_eq!((status, state.as_str()), (503, "unready"), "{checks}");
    let check = checks.as_array().unwrap().iter().find(|c| c["ok"] == false);
    let check = check.unwrap();
    assert_eq!(check["name"], "database");
    assert!(check["detail"].as_str().unwrap().contains(word), "{checks}");
    for addr in [server.http, server.admin] {
        let alive = http::request(addr, "GET", "/healthz", None, Value::Null).await;
        assert_eq!(alive.unwrap().status, 200);
    }
    // Who comes now gets everything from before.
    let mut reader = Chat::open(server, "bob").await;
    let subscribed = reader.subscribe("log", 0).await;
    assert_eq!(subscribed["head"], last);
    for seq in 1..=last {
        assert_eq!(reader.event().await["seq"], seq);
    }
    reader
        .say(json!({"type": "fetch", "ref": "f", "room": "log", "after": last - 1, "limit": 5}))
        .await;
    let page = reader.of_type("events").await;
    assert_eq!(
        (&page["events"][0]["seq"], &page["head"]),
        (&json!(last), &json!(last))
    );
    assert_eq!(server.log_of("log", "bob").await.len() as u64, last);
}

/// An `unavailable` with the time to wait.
fn assert_unavailable(answer: &Value) {
    assert_eq!(answer["code"], "unavailable", "{answer}");
    assert!(answer["retry_after_ms"].as_u64().unwrap() > 0, "{answer}");
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers_by_itself() {
    let Some(disk) = Disk::in_memory("40m") else {
        return;
    };
    let server = disk.setup().start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let mut acked = vec![alice.send("log", "first").await];
    let mut bob = Chat::open(&server, "bob").await;
    let joined = bob.subscribe("log", None).await["head"].as_u64().unwrap();

    let mut ballast = fs::File::create(disk.path().join("ballast")).unwrap();
    while ballast.write_all(&[0; 64 * 1024]).is_ok() {}
    let (frame, answer) = send_until_refused(&mut alice, &mut acked).await;
    assert_unavailable(&answer);
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        assert_unavailable(&alice.answer(frame.clone()).await);
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_secs(2), "{fastest:?}");
    let body = json!({"id": new_id(), "text": "x".repeat(8000)});
    let path = "/v1/rooms/log/messages";
    let answer = server.ask("POST", path, "alice", body).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_unavailable(&answer.json());
    let room = server
        .ask("POST", "/v1/rooms", "alice", json!({"kind": "private"}))
        .await;
    assert_eq!(room.status, 503, "{room:?}");

    // Nobody was shown what was refused; bob's second connection has joined nothing and seen all.
    let last = joined.max(*acked.last().unwrap());
    reading_goes_on(&server, last, "full").await;

    ballast.set_len(0).unwrap();
    eventually("the disk to be written again", async || {
        (server.readiness().await.0 == 200).then_some(())
    })
    .await;
    let mut alice = Chat::open(&server, "alice").await;
    let answer = alice.answer(frame.clone()).await;
    assert_eq!(answer["type"], "ack", "{answer}");
    acked.push(answer["seq"].as_u64().unwrap());
    let mut position = 0;
    while position < *acked.last().unwrap() {
        let event = bob.event().await;
        assert!(position == 0 || event["prev"] == position, "{event}");
        position = event["seq"].as_u64().unwrap();
    }

    let mut server = server;
    server.kill_and_start_again().await;
    let log = server.log_of("log", "alice").await;
    let stored: Vec<u64> = log
        .iter()
        .filter(|event| event["kind"] == "message")
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(stored, acked);
}

#[tokio::test]
async fn a_disk_that_turned_read_only_refuses_and_nothing_acked_is_lost() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(32 << 20).unwrap();
    let image = image.path();
    if !run("mkfs.ext4", &["-q", image.to_str().unwrap()]) {
        testbed::skipped("mkfs.ext4");
        return;
    }
    let Some(disk) = Disk::in_file(image) else {
        return;
    };
    let mut server = disk.setup().start().await;
    let mut alice = Chat::open(&server, "alice").await;
    // Joining is a write; bob is a member already.
    Chat::open(&server, "bob")
        .await
        .subscribe("log", None)
        .await;
    let mut acked = Vec::new();
    for n in 0..50 {
        acked.push(alice.send("log", &format!("message {n}")).await);
    }
    // Makes the kernel find an error in the file system.
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.contains(disk.path().to_str().unwrap()));
    let device = line
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .trim_start_matches("/dev/");
    let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
    if fs::write(trigger, "a test").is_err() {
        testbed::skipped("a kernel that breaks ext4 on demand");
        return;
    }
    let (_, answer) = send_until_refused(&mut alice, &mut acked).await;
    assert_unavailable(&answer);
    reading_goes_on(&server, *acked.last().unwrap(), "").await;
    server.kill().await;
    drop(disk);

    run("e2fsck", &["-fy", image.to_str().unwrap()]);
    let disk = Disk::in_file(image).expect("it was mounted before");
    let server = disk.setup().start().await;
    let log = server.log_of("log", "alice").await;
    for seq in acked {
        assert_eq!(log[seq as usize - 1]["from"], "alice", "{seq}");
    }
    drop(server);
}
