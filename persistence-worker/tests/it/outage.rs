//! Servers that go away and come back, and workers that are killed.

use std::time::{Duration, Instant};

use testbed::{Data, Mongo, RabbitMq, Redis, RedisOptions, Servers, shared};

use super::bench::{Bench, get, messages, room, until, with_bench};

/// Killed after the insert and before the broker heard of it: everything is delivered again, and stored once.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_insert_and_acknowledgement() {
    with_bench(async |bench: Bench| {
        let general = room("general");
        let url = &bench.settings.rabbitmq.url;
        let proxy = bench.proxy().await;
        let first = bench.program(&proxy.through(url)).await;
        // It consumes.
        let events = messages(&general, 1..=500);
        bench.publish(&general, &events[..1]).await;
        bench.stored_count(&general, 1).await;
        proxy.stall_to_server();
        for events in events[1..].chunks(20) {
            bench.publish(&general, events).await;
        }
        bench.stored_count(&general, 500).await;
        until("a batch that was acknowledged in vain", async || {
            first.metric("chat_persist_events_total").await == 500.0
        })
        .await;
        first.kill();
        proxy.cut().await;

        let second = bench.program(url).await;
        until("all of it again", async || {
            second.metric("chat_persist_events_total").await >= 499.0
        })
        .await;
        until("an empty queue", async || bench.waiting().await == 0).await;
        assert_eq!(bench.stored(&general).await, events);
        assert_eq!(second.metric("chat_parked_total").await, 0.0);
    })
    .await;
}

/// Killed at any moment, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment() {
    with_bench(async |bench: Bench| {
        let general = room("general");
        let events = messages(&general, 1..=3000);
        for (round, events) in events.chunks(1000).enumerate() {
            let program = bench.program(&bench.settings.rabbitmq.url).await;
            for events in events.chunks(10) {
                bench.publish(&general, events).await;
            }
            bench.stored_count(&general, round * 1000 + 300).await;
            program.kill();
        }
        let _last = bench.program(&bench.settings.rabbitmq.url).await;
        bench.stored_count(&general, 3000).await;
        assert_eq!(bench.stored(&general).await, events);
    })
    .await;
}

/// What is in hand at a SIGTERM is stored and acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_in_good_order() {
    with_bench(async |bench: Bench| {
        let general = room("general");
        let mut program = bench.program(&bench.settings.rabbitmq.url).await;
        let events = messages(&general, 1..=2000);
        for events in events.chunks(20) {
            bench.publish(&general, events).await;
        }
        let start = Instant::now();
        let kill = std::process::Command::new("kill")
            .args(["-TERM", &program.child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        let ended = tokio::task::block_in_place(|| program.child.wait()).unwrap();
        assert!(ended.success(), "{ended}");
        assert!(start.elapsed() < Duration::from_secs(10));
        let stored = bench.stored(&general).await.len();
        until("what is not stored is in the queue", async || {
            // Envelopes of twenty.
            bench.waiting().await as usize * 20 + stored == 2000
        })
        .await;
    })
    .await;
}

/// Without MongoDB it waits, says so, and goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn mongodb_goes_and_comes_back() {
    if testbed::missing().is_some() {
        return;
    }
    let mongo = Mongo::start(1).await.unwrap();
    let servers = Servers {
        mongodb_uri: mongo.url(),
        ..shared().await.clone()
    };
    let bench = Bench::new(servers).await;
    let general = room("general");
    let worker = bench.worker().await.ready().await;
    let events = messages(&general, 1..=1000);
    bench.publish(&general, &events[..500]).await;
    bench.stored_count(&general, 500).await;
    mongo.kill();
    for events in events[500..700].chunks(10) {
        bench.publish(&general, events).await;
    }
    until("not ready", async || {
        let (status, text) = get(worker.admin, "/readyz").await;
        status == 503 && text.contains("mongodb")
    })
    .await;
    until("a lag", async || {
        worker.metric("chat_persist_lag_seconds").await > 1.0
    })
    .await;
    assert_eq!(
        worker
            .metric("chat_dependency_up{dependency=\"mongodb\"}")
            .await,
        0.0
    );
    assert_eq!(get(worker.admin, "/healthz").await.0, 200);
    mongo.restart(Data::Kept).await.unwrap();
    mongo.wait_for_primary().await.unwrap();
    bench.stored_count(&general, 700).await;

    // Frozen: connections are open and nothing is answered.
    mongo.stop();
    for events in events[700..].chunks(10) {
        bench.publish(&general, events).await;
    }
    until("not ready", async || {
        get(worker.admin, "/readyz").await.0 == 503
    })
    .await;
    mongo.cont();
    bench.stored_count(&general, 1000).await;
    assert_eq!(bench.stored(&general).await, events);
    until("ready", async || {
        get(worker.admin, "/readyz").await.0 == 200
    })
    .await;
    until("an empty queue", async || bench.waiting().await == 0).await;
    assert_eq!(worker.metric("chat_parked_total").await, 0.0);
    assert_eq!(worker.metric("chat_log_violations_total").await, 0.0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_restarted() {
    if testbed::missing().is_some() {
        return;
    }
    let rabbitmq = RabbitMq::start().await.unwrap();
    let servers = Servers {
        rabbitmq_url: rabbitmq.url(),
        ..shared().await.clone()
    };
    let mut bench = Bench::new(servers).await;
    bench.queues_are_written(&rabbitmq).await;
    let general = room("general");
    let worker = bench.worker().await.ready().await;
    let events = messages(&general, 1..=1000);
    bench.publish(&general, &events[..500]).await;
    bench.stored_count(&general, 500).await;
    rabbitmq.kill();
    until("not ready", async || {
        let (status, text) = get(worker.admin, "/readyz").await;
        status == 503 && text.contains("rabbitmq")
    })
    .await;
    rabbitmq.restart(Data::Kept).await.unwrap();
    bench.reconnect().await;
    for events in events[500..].chunks(10) {
        bench.publish(&general, events).await;
    }
    bench.stored_count(&general, 1000).await;
    assert_eq!(bench.stored(&general).await, events);
    until("ready", async || {
        get(worker.admin, "/readyz").await.0 == 200
    })
    .await;
    worker.stop().await;
}

/// Without Redis events are stored all the same; the marks are raised when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn redis_goes_and_comes_back() {
    if testbed::missing().is_some() {
        return;
    }
    let redis = Redis::start(RedisOptions::default()).await.unwrap();
    let servers = Servers {
        redis_url: redis.url(),
        ..shared().await.clone()
    };
    let bench = Bench::new(servers).await;
    let (general, other) = (room("general"), room("other"));
    bench.open_room(&general, 1000).await;
    bench.open_room(&other, 1000).await;
    let worker = bench.worker().await.ready().await;
    bench.publish(&general, &messages(&general, 1..=10)).await;
    until("the mark", async || bench.mark(&general).await == 10).await;
    redis.stop();
    bench
        .publish(&general, &messages(&general, 11..=1000))
        .await;
    bench.publish(&other, &messages(&other, 1..=1000)).await;
    bench.stored_count(&general, 1000).await;
    bench.stored_count(&other, 1000).await;
    until("not ready", async || {
        let (status, text) = get(worker.admin, "/readyz").await;
        status == 503 && text.contains("redis")
    })
    .await;
    redis.cont();
    // One is known to the worker, the other is found by its walk.
    until("the mark", async || bench.mark(&general).await == 1000).await;
    until("the mark", async || bench.mark(&other).await == 1000).await;
    worker.stop().await;
}
