//! A rolling restart of two chat-services behind a balancer, with 1,000 clients connected and others who write all the time.

#[path = "drain/balancer.rs"]
mod balancer;
#[path = "it/programs.rs"]
mod programs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use balancer::Balancer;
use client::{Incoming, Socket};
use e2e::crowd::Row;
use e2e::system::{MongoPath, Servers, System};
use e2e::watch::{self, Options};
use e2e::workload::Plan;
use protocol::UserId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use testbed::Generation;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

const CLIENTS: usize = 1000;
/// Clients that a leaving process may move or close per second.
const PER_SEC: usize = 200;
/// Until it is gone, and how much of that the balancer has to notice.
const DRAIN: Duration = Duration::from_secs(25);
const NOTICED: Duration = Duration::from_secs(3);
/// No single thing that is waited for takes longer, on any machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Each connection is two here, and two more of the balancer.
fn many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    assert!(
        limit.maximum.is_none_or(|most| most >= 8192),
        "8,192 open files are needed, and {:?} are allowed",
        limit.maximum
    );
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(
            begun.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_that_nobody_notices() {
    if let Some(missing) = Servers::missing(Generation::default()) {
        testbed::skipped(&missing);
        return;
    }
    many_files();
    let folder = tempfile::tempdir().unwrap();
    let servers = Arc::new(Servers::start(Generation::default()).await.unwrap());
    let programs = programs::programs();
    let system = System::cluster(
        &programs,
        folder.path(),
        servers,
        "drain",
        MongoPath::ReplicaSet,
    );
    let mut system = system.await.unwrap();
    for pod in system.of_kind("pod-") {
        pod.terminate().await.unwrap();
        for (name, value) in [
            ("DARDA_DRAIN_SECS", DRAIN.as_secs()),
            ("DARDA_DRAIN_WAIT_SECS", NOTICED.as_secs()),
            ("DARDA_DRAIN_PER_SEC", PER_SEC as u64),
            ("DARDA_HEARTBEAT_SECS", 5),
        ] {
            pod.set(name, &value.to_string());
        }
        // Two are enough.
        if pod.name != "pod-2" {
            pod.start().await.unwrap();
        }
    }
    let addresses: Vec<_> = system
        .pods()
        .into_iter()
        .take(2)
        .map(|pod| pod.address)
        .collect();
    let balancer = Balancer::start(&addresses).await;
    until("both are ready", || {
        balancer.is_ready(0) && balancer.is_ready(1)
    })
    .await;

    let options = Options {
        plan: Plan {
            per_sec: 50.0,
            patience: PATIENCE,
            ..Plan::new(rand::random(), "roll")
        },
        crowd: CLIENTS,
        // It is the clients who look at the clock, and what a busy machine held up for a moment comes with the next.
        leaves_per_sec_max: Some(PER_SEC + PER_SEC / 2),
        time: Duration::from_secs(600),
    };
    let ((tell, told), (begins, begun)) = (mpsc::channel(16), oneshot::channel());
    let clients = [balancer.address()];
    let watching = tokio::spawn(async move {
        let begins = || begins.send(()).unwrap();
        watch::run(&options, &clients, Some(told), begins).await
    });
    begun.await.expect("every room takes messages");
    let (first, second) = (balancer.given(0).0, balancer.given(1).0);
    assert!(
        first > CLIENTS / 3 && second > CLIENTS / 3,
        "{first} and {second}"
    );

    // Each in turn, and the second has everybody by then.
    for (n, address) in addresses.iter().enumerate() {
        let pod = system.of_kind(&format!("pod-{n}")).remove(0);
        // Who is connected and does not read holds nobody up.
        let user = UserId::parse("stuck").unwrap();
        let mut stuck = Socket::open(&address.socket_as(&user)).await.unwrap();
        assert!(matches!(stuck.next().await, Incoming::Frame(_)));
        tell.send(format!("pod-{n} leaves")).await.unwrap();
        let leaving = Instant::now();
        let noticed = async {
            until("it is known to leave", || !balancer.is_ready(n)).await;
            (leaving.elapsed(), balancer.given(n))
        };
        let (left, (noticed, given)) = tokio::join!(pod.terminate(), noticed);
        left.unwrap();
        let took = leaving.elapsed();
        println!("pod-{n}: known to leave after {noticed:?}, gone after {took:?}");
        assert!(noticed < NOTICED, "{noticed:?}");
        assert!(took < DRAIN, "{took:?}");
        // Nobody was sent to it any more, and whoever was before was served.
        assert_eq!(balancer.given(n), given);
        assert_eq!(given.1, 0);
        drop(stuck);
        pod.start().await.unwrap();
        until("it is back", || balancer.is_ready(n)).await;
        tell.send(String::new()).await.unwrap();
    }

    // One that dies while it leaves.
    tell.send("pod-0 is killed while it leaves".to_owned())
        .await
        .unwrap();
    let pod = system.of_kind("pod-0").remove(0);
    pod.begin_to_end();
    until("it is known to leave", || !balancer.is_ready(0)).await;
    // In the middle of it.
    let before = balancer.given(1).0;
    until("its clients move", || {
        balancer.given(1).0 >= before + CLIENTS / 10
    })
    .await;
    pod.kill().await.unwrap();
    pod.start().await.unwrap();
    until("it is back", || balancer.is_ready(0)).await;
    tell.send(String::new()).await.unwrap();
    drop(tell);

    let (summary, histories) = watching.await.unwrap().unwrap();
    println!("{}", summary.markdown());
    if !summary.is_clean {
        for (name, history) in histories {
            let path = folder.path().join(format!("{name}.json"));
            std::fs::write(path, serde_json::to_vec(&history).unwrap()).unwrap();
        }
        // Kept for whoever looks into it.
        panic!("a promise was broken; see {}", folder.keep().display());
    }
    let crowd = summary.crowd.expect("there was one");
    let left = |row: &Row| row.moved + row.closed + row.broken;
    for row in &crowd.events[..2] {
        assert_eq!(row.broken, 0, "{row:?}");
        assert_eq!(row.moved_late, 0, "{row:?}");
        // Three of four listen when they are asked to move, and one waits until it is closed.
        assert!(
            row.moved > 2 * row.closed && row.closed > left(row) / 8,
            "{row:?}"
        );
        assert!(left(row) > CLIENTS / 3, "{row:?}");
        // As fast as they may, more or less: nobody waits without need.
        assert!(row.most_per_sec > PER_SEC / 2, "{row:?}");
    }
    assert!(
        left(&crowd.events[1]) >= CLIENTS * 9 / 10,
        "{:?}",
        crowd.events[1]
    );
    system.end().await.unwrap();
}
