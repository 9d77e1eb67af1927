//! Presence of several processes over a real Redis. That it keeps the promises of the port is tested with the other ports.
#![cfg(feature = "cluster")]

mod chance;
mod functions;
mod stage;

use std::time::{Duration, Instant};

use backend::cluster::Redis;
use backend::{Presence, Relay};
use protocol::{SessionId, Status};
use testbed::Data;

use stage::{MOST, Pod, change, eventually, own_redis, room, shared, user};

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_make_one_presence() {
    let Some(settings) = shared().await else {
        return;
    };
    let (here, there) = (Pod::start(&settings), Pod::start(&settings));
    let (first, second) = (here.connect("alice").await, there.connect("alice").await);
    let carol = there.connect("carol").await;
    here.enter(first, "general").await;
    there.enter(second, "general").await;
    there.enter(carol, "general").await;
    for pod in [&here, &there] {
        assert_eq!(pod.present("general").await, ["alice", "carol"]);
        assert_eq!(pod.status("alice").await, Status::Online);
    }
    // The limit is one for all processes.
    here.connect("alice").await;
    let refused = there
        .presence
        .connect(SessionId::generate(), &user("alice"), MOST)
        .await;
    assert!(
        matches!(refused, Err(backend::Error::Refused(_))),
        "{refused:?}"
    );

    here.presence.disconnect(first).await.unwrap();
    assert_eq!(there.present("general").await, ["alice", "carol"]);
    there.presence.disconnect(second).await.unwrap();
    assert_eq!(here.present("general").await, ["carol"]);
    assert_eq!(there.status("alice").await, Status::Online);
    // Of whoever has another room in common with alice nobody was told; in this one she came and went once.
    let all = [here.heard(), there.heard()].concat();
    let hers: Vec<_> = all
        .into_iter()
        .filter(|(_, user, _)| user == "alice")
        .collect();
    assert_eq!(
        hers,
        [
            change("general", "alice", Status::Online),
            change("general", "alice", Status::Offline)
        ]
    );
    here.close().await;
    assert_eq!(there.status("alice").await, Status::Offline);
    there.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_in_order_takes_its_sessions_away() {
    let Some(settings) = shared().await else {
        return;
    };
    let (here, there) = (Pod::start(&settings), Pod::start(&settings));
    for n in 0..300 {
        let session = here.connect(&format!("user-{n:03}")).await;
        here.enter(session, "general").await;
    }
    here.close().await;
    assert_eq!(there.present("general").await, Vec::<String>::new());
    assert_eq!(there.status("user-007").await, Status::Offline);
    there.close().await;
}

/// Runs in the background what is left of a pod that was killed: nothing.
fn kill(runtime: tokio::runtime::Runtime, pod: Pod) {
    runtime.shutdown_background();
    drop(pod);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_a_dead_process_end_within_ten_seconds() {
    let Some(settings) = shared().await else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dying = settings.clone();
    let dead = runtime.spawn(async move {
        let pod = Pod::start(&dying);
        for name in ["alice", "bob"] {
            let session = pod.connect(name).await;
            pod.enter(session, "general").await;
        }
        pod
    });
    let dead = dead.await.unwrap();
    let pods = [Pod::start(&settings), Pod::start(&settings)];
    for pod in &pods {
        pod.relay.watch(&room("general"));
    }
    let bob = pods[0].connect("bob").await;
    pods[0].enter(bob, "general").await;
    assert_eq!(pods[1].present("general").await, ["alice", "bob"]);
    kill(runtime, dead);
    let died = Instant::now();
    eventually("her end", async || {
        pods[1].present("general").await == ["bob"]
    })
    .await;
    let took = died.elapsed();
    assert!(took < Duration::from_millis(10_500), "{took:?}");
    assert!(took > Duration::from_secs(7), "{took:?}");
    assert_eq!(pods[0].status("alice").await, Status::Offline);
    assert_eq!(pods[0].status("bob").await, Status::Online);
    // One of the two sweeps, and both hear it once. What bob does after that comes after everything else.
    let gone = change("general", "alice", Status::Offline);
    for pod in &pods {
        eventually("her last signal", async || pod.heard().contains(&gone)).await;
    }
    pods[0].presence.set_idle(bob, true).await.unwrap();
    let last = change("general", "bob", Status::Away);
    for pod in &pods {
        eventually("the last signal", async || pod.heard().contains(&last)).await;
        assert_eq!(pod.heard(), [gone.clone(), last.clone()]);
    }
    for pod in &pods {
        pod.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_lost_is_told_again_without_a_word() {
    let Some((redis, settings)) = own_redis().await else {
        return;
    };
    let (here, there) = (Pod::start(&settings), Pod::start(&settings));
    let alice = here.connect("alice").await;
    here.enter(alice, "general").await;
    let carol = there.connect("carol").await;
    there.enter(carol, "general").await;
    let before = [here.heard(), there.heard()];

    let flush = redis::cmd("FLUSHALL");
    Redis::new(&settings)
        .unwrap()
        .query::<()>(&flush)
        .await
        .unwrap();
    eventually("what was lost", async || {
        here.present("general").await == ["alice", "carol"]
    })
    .await;
    assert_eq!(there.status("alice").await, Status::Online);

    redis.kill();
    // Nobody waits for it, and nothing is known.
    let began = Instant::now();
    let bob = here.connect("bob").await;
    here.enter(bob, "general").await;
    assert_eq!(here.status("alice").await, Status::Unknown);
    assert_eq!(here.present("general").await, Vec::<String>::new());
    here.presence.disconnect(alice).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!([here.heard(), there.heard()], before);

    redis.restart(Data::Wiped).await.unwrap();
    eventually("what was lost", async || {
        here.present("general").await == ["bob", "carol"]
    })
    .await;
    // Only what is new was said.
    let mut news = here.heard()[before[0].len()..].to_vec();
    news.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(
        news,
        [
            change("general", "alice", Status::Offline),
            change("general", "bob", Status::Online)
        ]
    );
    assert_eq!(there.heard(), before[1]);
    here.close().await;
    there.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_holds_nobody_up() {
    let Some((redis, settings)) = own_redis().await else {
        return;
    };
    let (here, there) = (Pod::start(&settings), Pod::start(&settings));
    let alice = here.connect("alice").await;
    here.enter(alice, "general").await;
    redis.stop();
    let stopped = Instant::now();
    let bob = here.connect("bob").await;
    here.enter(bob, "general").await;
    assert_eq!(here.status("alice").await, Status::Unknown);
    assert!(
        stopped.elapsed() < Duration::from_secs(5),
        "{:?}",
        stopped.elapsed()
    );
    // Meanwhile all leases end.
    tokio::time::sleep_until((stopped + Duration::from_secs(11)).into()).await;
    redis.cont();
    eventually("everybody", async || {
        there.present("general").await == ["alice", "bob"]
    })
    .await;
    // Long enough for whoever sweeps what the old leases had.
    let keys = Redis::new(&settings).unwrap();
    let mut leases = redis::cmd("ZCARD");
    leases.arg(keys.key("presence:leases"));
    eventually("the sweep", async || {
        keys.query::<u64>(&leases)
            .await
            .is_ok_and(|leases| leases == 2)
    })
    .await;
    assert_eq!(there.present("general").await, ["alice", "bob"]);
    assert_eq!(here.status("alice").await, Status::Online);
    let statuses = here
        .heard()
        .into_iter()
        .filter(|(_, user, _)| user == "alice");
    assert!(
        statuses
            .clone()
            .all(|(.., status)| status == Status::Online)
    );
    here.close().await;
    there.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_come_back_at_once() {
    let Some(settings) = shared().await else {
        return;
    };
    let pod = Pod::start(&settings);
    let began = Instant::now();
    let clients: Vec<_> = (0..10_000)
        .map(|n| {
            let presence = pod.presence.clone();
            tokio::spawn(async move {
                let session = SessionId::generate();
                let name = user(&format!("user-{n:05}"));
                presence.connect(session, &name, MOST).await.unwrap();
                for id in ["general", "random"] {
                    presence.enter(session, &room(id)).await.unwrap();
                    presence.present(&room(id), 50).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    println!("10,000 clients in {:?}", began.elapsed());
    // Nobody was held up for longer than that, however slow the machine.
    eventually("the last of them", async || {
        let present = pod.presence.present(&room("random"), 1).await.unwrap();
        present.count == 10_000
    })
    .await;
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_ends() {
    let Some(settings) = shared().await else {
        return;
    };
    let pod = Pod::start(&settings);
    let alice = pod.connect("alice").await;
    pod.enter(alice, "general").await;
    let bob = pod.connect("bob").await;
    pod.enter(bob, "general").await;
    pod.presence.disconnect(bob).await.unwrap();
    pod.relay.watch(&room("general"));
    let redis = Redis::new(&settings).unwrap();
    let mut all = redis::cmd("KEYS");
    all.arg(redis.key("*"));
    let mut keys: Vec<String> = Vec::new();
    eventually("the route", async || {
        keys = redis.query(&all).await.unwrap();
        keys.iter().any(|key| key.ends_with(":pods"))
    })
    .await;
    assert_eq!(keys.len(), 7, "{keys:?}");
    for key in keys {
        let mut ttl = redis::cmd("PTTL");
        ttl.arg(&key);
        let ttl: i64 = redis.query(&ttl).await.unwrap();
        assert!(ttl > 0, "{key}");
    }
    pod.close().await;
}
