//! The matrix over a cluster of real processes and servers: some faults, each once. All of them, and many times, is
//! what `make check-faults` does.

#[path = "it/programs.rs"]
mod programs;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use client::{Incoming, Socket};
use e2e::fault::Family;
use e2e::matrix::{self, Options};
use e2e::system::{MongoPath, Server, Servers, System};
use protocol::{
    ClientFrame, MessageId, RoomId, Send, ServerFrame, Subscribe, SubscribeRoom, UserId,
};
use testbed::Generation;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Each test needs the machine for itself.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// One of each sort: a process of ours, the memory of Redis, a link, the way into the log.
const FAULTS: [&str; 4] = [
    "pod_crash",
    "redis_flush",
    "pod_rabbitmq_cut",
    "exchange_deleted",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_promises_under_some_faults() {
    if let Some(missing) = Servers::missing(Generation::default()) {
        testbed::skipped(&missing);
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        programs: programs::programs(),
        seed: rand::random::<u32>().into(),
        budget: Duration::from_secs(300),
        faults: FAULTS
            .map(|name| (Family::Cluster, name.to_owned()))
            .to_vec(),
        runs: 1,
        per_sec: 50.0,
        rabbitmq: Generation::default(),
        folder: folder.path().to_owned(),
        keep: false,
    };
    let table = matrix::run(&options, &mut |line| println!("{line}"))
        .await
        .unwrap();
    println!("{}", table.markdown());
    if !table.is_clean() {
        // Kept for whoever looks into it.
        panic!("a promise was broken; see {}", folder.keep().display());
    }
    for row in &table.rows {
        assert_eq!(row.runs, 1, "{}", row.fault);
        assert!(row.messages > 50 && row.shown > row.messages, "{row:?}");
    }
}

/// With 150 ms to Redis and as much back, one room after the other would take a second each, and so would one act after
/// the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_connection_asks_for_does_not_wait_for_each_other() {
    const ROOMS: usize = 40;
    if let Some(missing) = Servers::missing(Generation::default()) {
        testbed::skipped(&missing);
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let servers = Arc::new(Servers::start(Generation::default()).await.unwrap());
    let programs = programs::programs();
    let path = MongoPath::ReplicaSet;
    let system = System::cluster(&programs, folder.path(), servers, "rooms", path);
    let mut system = system.await.unwrap();
    let pod = system.pods().swap_remove(0);
    let user = UserId::parse("anna").unwrap();
    let rooms: Vec<RoomId> = (0..ROOMS)
        .map(|n| RoomId::parse(&format!("room-{n}")).unwrap())
        .collect();
    let mut socket = Socket::open(&pod.address.socket_as(&user)).await.unwrap();
    // The first time makes the rooms.
    for room in &rooms {
        while !subscribed(&mut socket, std::slice::from_ref(room)).await {}
    }

    let links = system.servers().unwrap();
    let link = links.one(&pod.name, Server::Redis).unwrap();
    link.delay(Duration::from_millis(150));
    let begun = Instant::now();
    assert!(subscribed(&mut socket, &rooms).await);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");

    // Into rooms that this connection has not subscribed to.
    let mut socket = Socket::open(&pod.address.socket_as(&user)).await.unwrap();
    let begun = Instant::now();
    let mut ids = HashSet::new();
    for room in &rooms {
        let send = Send {
            id: MessageId::generate(),
            room: Some(room.clone()),
            to: None,
            text: "hello".to_owned(),
            reply_to: None,
            meta: None,
        };
        ids.insert(send.id);
        socket.send(&ClientFrame::Send(send)).await.unwrap();
    }
    while !ids.is_empty() {
        match socket.next().await {
            Incoming::Frame(ServerFrame::Ack { id, .. }) => {
                ids.remove(&id);
            }
            Incoming::Frame(ServerFrame::Error(error)) => panic!("{error:?}"),
            Incoming::Closed { .. } => panic!("the connection was closed"),
            Incoming::Frame(_) | Incoming::Other => {}
        }
    }
    // Numbering and confirming one takes 600 ms.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}");
    system.end().await.unwrap();
}

/// Subscribes to rooms; the answers come in their order. False when one says to try again.
async fn subscribed(socket: &mut Socket, rooms: &[RoomId]) -> bool {
    let wanted = |room: &RoomId| SubscribeRoom {
        room: room.clone(),
        after: None,
    };
    let subscribe = ClientFrame::Subscribe(Subscribe {
        reference: None,
        rooms: rooms.iter().map(wanted).collect(),
    });
    socket.send(&subscribe).await.unwrap();
    for room in rooms {
        loop {
            match socket.next().await {
                Incoming::Frame(ServerFrame::Subscribed(answer)) => {
                    assert_eq!(answer.room, *room);
                    break;
                }
                Incoming::Frame(ServerFrame::Error(error)) if error.code.is_retryable() => {
                    return false;
                }
                Incoming::Frame(ServerFrame::Error(error)) => panic!("{error:?}"),
                Incoming::Closed { .. } => panic!("the connection was closed"),
                Incoming::Frame(_) | Incoming::Other => {}
            }
        }
    }
    true
}
