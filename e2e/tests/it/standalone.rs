//! The matrix over one process, with the command as people use it.

use std::process::Command;

use e2e::fault::Family;
use e2e::matrix::{self, Options};
use serde_json::Value;
use std::time::Duration;

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
