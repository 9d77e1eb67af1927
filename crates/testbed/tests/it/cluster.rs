//! `testbed cluster`: Darda's programs over servers of their own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use testbed::{Mongo, RabbitMq, Redis};

use crate::{runs, skipped};

const TESTBED: &str = env!("CARGO_BIN_EXE_testbed");

/// A cluster, and what it prints.
struct Cluster {
    child: Child,
    lines: Receiver<String>,
}

impl Cluster {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(TESTBED)
            .arg("cluster")
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (print, lines) = channel();
        thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| print.send(line))
        });
        Self { child, lines }
    }

    /// Waits for a line that contains this.
    fn prints(&self, part: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(120)) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => before.push(line),
                Err(error) => panic!("{error} instead of {part:?} after {before:#?}"),
            }
        }
    }

    fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Cluster {
    /// What it started ends with it.
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// The ids of the processes that the cluster has started of a program.
fn children(cluster: &Cluster, program: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let of_it = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let parent = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(1));
        exe.ends_with(program) && parent == Some(&cluster.child.id().to_string())
    };
    processes.filter(of_it).collect()
}

/// The programs that were built so far, and what has to be installed.
fn missing() -> Option<&'static str> {
    let beside = Path::new(TESTBED).parent().unwrap();
    let built = |name: &str| beside.join(name).is_file();
    let all = built("chat-service") && built("persistence-worker") && built("history-service");
    let programs = (!all).then_some("Darda's programs: cargo build --bins");
    programs
        .or_else(Redis::missing)
        .or_else(RabbitMq::missing)
        .or_else(Mongo::missing)
}

#[test]
fn a_cluster_gets_ready_and_starts_again_what_was_killed() {
    if skipped(missing()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(&folder.path().join("cluster"));
    cluster.prints("Darda is ready on http://127.0.0.1:");
    let chats = children(&cluster, "chat-service");
    let [chat, _] = chats[..] else {
        panic!("{chats:?}")
    };

    assert!(
        Command::new("kill")
            .args(["-9", &chat.to_string()])
            .status()
            .unwrap()
            .success()
    );
    cluster.prints("has ended with signal: 9");
    cluster.prints("Darda is listening on http://127.0.0.1:");
    let chats = children(&cluster, "chat-service");
    assert!(chats.len() == 2 && !chats.contains(&chat), "{chats:?}");

    let servers = children(&cluster, "mongod");
    assert_eq!(servers.len(), 1);
    cluster.end();
    assert!(!chats.into_iter().chain(servers).any(runs));
    assert!(folder.path().join("cluster/mongodb/db").is_dir());
}
