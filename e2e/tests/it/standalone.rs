//! The matrix over one process, with the command as people use it.

use std::process::{Command, Stdio};

use e2e::fault::Family;
use e2e::matrix::{self, Options};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::programs::programs;

fn options(folder: &tempfile::TempDir) -> Options {
    Options {
        programs: programs(),
        seed: rand::random::<u32>().into(),
        budget: Duration::from_secs(300),
        faults: Vec::new(),
        runs: 2,
        per_sec: 60.0,
        rabbitmq: testbed::Generation::default(),
        folder: folder.path().to_owned(),
        keep: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_keeps_its_promises_under_every_fault() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&folder);
    options.faults = Family::Standalone
        .faults()
        .into_iter()
        .map(|name| (Family::Standalone, name.to_owned()))
        .collect();
    let table = matrix::run(&options, &mut |line| println!("{line}"))
        .await
        .unwrap();
    println!("{}", table.markdown());
    if !table.is_clean() {
        // Kept for whoever looks into it.
        panic!("a promise was broken; see {}", folder.keep().display());
    }
    for row in &table.rows {
        assert_eq!(row.runs, 2, "{}", row.fault);
        assert!(row.messages > 100 && row.shown > row.messages, "{row:?}");
    }
}

#[test]
fn the_command_says_what_it_knows_and_what_it_does_not() {
    let checker = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_checker"))
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, faults, _) = checker(&["faults"]);
    assert_eq!(code, Some(0));
    assert!(
        faults.lines().any(|line| line == "standalone freeze"),
        "{faults}"
    );
    let (code, _, told) = checker(&["matrix", "--faults", "rain"]);
    assert_eq!(code, Some(2));
    assert!(told.contains("there is no fault 'rain'"), "{told}");
    let (code, ..) = checker(&["judge", "/dev/null"]);
    assert_eq!(code, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_judges_a_server_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut system = e2e::system::System::standalone(&programs(), folder.path())
        .await
        .unwrap();
    let address = system.processes[0].address().to_string();
    let watch = tokio::process::Command::new(env!("CARGO_BIN_EXE_checker"))
        .args(["watch", "--addr", &address, "--seconds", "3", "--folder"])
        .arg(folder.path())
        .output();
    let output = watch.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["is_clean"], true);
    assert!(
        summary["verdict"]["messages"]["acked"].as_u64().unwrap() > 50,
        "{summary}"
    );
    system.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_comes_back_from_a_restart_and_everybody_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut system = e2e::system::System::standalone(&programs(), folder.path())
        .await
        .unwrap();
    let server = &mut system.processes[0];
    let address = server.address().to_string();
    let mut watch = tokio::process::Command::new(env!("CARGO_BIN_EXE_checker"))
        .args(["watch", "--addr", &address, "--events", "--crowd", "40"])
        .args([
            "--seconds",
            "60",
            "--leaves-per-sec-max",
            "1000",
            "--folder",
        ])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut told = BufReader::new(watch.stderr.take().unwrap()).lines();
    let line = told.next_line().await.unwrap();
    assert_eq!(line.as_deref(), Some("every room takes messages"));
    let mut tell = watch.stdin.take().unwrap();
    tell.write_all(b"a restart\n").await.unwrap();
    server.terminate().await.unwrap();
    server.start().await.unwrap();
    tell.write_all(b"\n").await.unwrap();
    drop(tell);
    let output = watch.wait_with_output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let row = text
        .lines()
        .filter(|line| line.starts_with("| a restart |"))
        .nth(1)
        .unwrap_or_else(|| panic!("{text}"));
    let cells: Vec<_> = row.split('|').map(str::trim).collect();
    let left: usize = cells[2..5]
        .iter()
        .map(|n| n.parse::<usize>().unwrap())
        .sum();
    // The word may reach the checker a little later than the first of them are asked to leave.
    assert!((20..=40).contains(&left), "{text}");
    assert!(
        text.contains("40 clients: 0 not there in the end;"),
        "{text}"
    );
    system.end().await.unwrap();
}
