//! A server whose disk goes back to an earlier state between two starts, as after a restore from a backup: what it had
//! acknowledged and shown since then is gone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use e2e::judge::{Kind, judge};
use e2e::system::System;
use e2e::workload::{Plan, Workload};

use crate::programs::programs;

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_back_in_time_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let mut system = System::standalone(&programs(), folder.path())
        .await
        .unwrap();
    let (data, backup) = (folder.path().join("data"), folder.path().join("backup"));
    let mut plan = Plan::new(3, "amnesia");
    plan.patience = Duration::from_secs(20);
    let workload = Workload::start(&plan, system.pods()).unwrap();
    workload.recovered(0).await.unwrap();

    system.processes[0].kill().await.unwrap();
    copy(&data, &backup);
    system.processes[0].start().await.unwrap();
    workload.recovered(workload.clock().now()).await.unwrap();
    // Another second's worth of acks, all of which will be lost.
    let later = workload.clock().now() + 1_000_000;
    workload.recovered(later).await.unwrap();
    system.processes[0].kill().await.unwrap();
    copy(&backup, &data);
    system.processes[0].start().await.unwrap();
    workload.recovered(workload.clock().now()).await.unwrap();

    let (history, ended) = workload.finish(Vec::new()).await;
    ended.unwrap();
    let verdict = judge(&history);
    for kind in [Kind::Lost, Kind::TakenBack] {
        assert!(verdict.count(kind) > 0, "{kind}: {:?}", verdict.counts);
    }
    system.end().await.unwrap();
}
