//! What was started ends with the process that started it, however that ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use testbed::{Redis, RedisOptions};

use crate::{folder, runs, skipped, until};

/// Makes this test binary start a server and wait to be killed.
const CHILD: &str = "TESTBED_ENDS_CHILD";

#[tokio::test]
async fn a_killed_test_leaves_no_server_and_no_folder() {
    if skipped(Redis::missing()) {
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        return stay().await;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "ends::a_killed_test_leaves_no_server_and_no_folder",
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pid = lines
        .find_map(|line| line.unwrap().strip_prefix("server ")?.parse().ok())
        .unwrap();
    let folder = folder(pid);
    assert!(runs(pid) && folder.exists());

    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    until("the server has ended", || async { !runs(pid) }).await;
    until("its folder is gone", || async { !folder.exists() }).await;
}

async fn stay() {
    let server = Redis::start(RedisOptions::default()).await.unwrap();
    println!("\nserver {}", server.pid());
    std::io::stdout().flush().unwrap();
    // Until the other process ends too, if it fails before it kills this one.
    let _ = std::io::stdin().read_line(&mut String::new());
}
