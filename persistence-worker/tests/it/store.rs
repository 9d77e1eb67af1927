//! What is published is stored, once, in order, and the marks follow.

use super::bench::{Bench, fence, get, message, messages, room, until, with_bench};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_stored_and_marked() {
    with_bench(async |bench: Bench| {
        let rooms: Vec<_> = (0..5).map(|n| room(&format!("room-{n}"))).collect();
        for room in &rooms {
            bench.open_room(room, 1200).await;
        }
        let worker = bench.worker().await.ready().await;
        let mut published = Vec::new();
        for room in &rooms {
            let events = messages(room, 1..=1200);
            for events in events.chunks(50) {
                bench.publish(room, events).await;
            }
            published.push(events);
        }
        for (room, events) in rooms.iter().zip(&published) {
            bench.stored_count(room, 1200).await;
            assert_eq!(bench.stored(room).await, *events);
            until("the mark", async || bench.mark(room).await == 1200).await;
        }
        assert_eq!(bench.waiting().await, 0);
        assert_eq!(worker.metric("chat_persist_events_total").await, 6000.0);
        assert_eq!(worker.metric("chat_parked_total").await, 0.0);
        assert_eq!(worker.metric("chat_log_violations_total").await, 0.0);
        assert!(worker.metric("chat_persist_batch_seconds_count").await >= 6.0);
        for dependency in ["mongodb", "redis", "rabbitmq"] {
            let up = format!("chat_dependency_up{{dependency=\"{dependency}\"}}");
            assert_eq!(worker.metric(&up).await, 1.0, "{dependency}");
        }
        assert_eq!(get(worker.admin, "/healthz").await.0, 200);
        worker.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_are_stored_once() {
    with_bench(async |bench: Bench| {
        let general = room("general");
        let events = messages(&general, 1..=300);
        bench.publish(&general, &events[..200]).await;
        bench.publish(&general, &events[100..]).await;
        let worker = bench.worker().await.ready().await;
        bench.stored_count(&general, 300).await;
        bench.publish(&general, &events).await;
        bench.publish(&general, &[message(&general, 301)]).await;
        bench.stored_count(&general, 301).await;
        assert_eq!(bench.stored(&general).await[..300], events);
        assert_eq!(worker.metric("chat_log_violations_total").await, 0.0);
        worker.stop().await;
    })
    .await;
}

/// Two pods publish one after the other's events; the chain has a hole for a while.
#[tokio::test(flavor = "multi_thread")]
async fn marks_stop_at_holes() {
    with_bench(async |bench: Bench| {
        let general = room("general");
        let far = 1 << 32;
        bench.open_room(&general, 30).await;
        let events = messages(&general, 1..=30);
        let worker = bench.worker().await.ready().await;
        bench.publish(&general, &events[..10]).await;
        bench.publish(&general, &events[15..]).await;
        bench.stored_count(&general, 25).await;
        until("the mark", async || bench.mark(&general).await == 10).await;
        bench.publish(&general, &events[12..15]).await;
        bench.stored_count(&general, 28).await;
        assert_eq!(bench.mark(&general).await, 10);
        bench.publish(&general, &events[10..12]).await;
        until("the mark", async || bench.mark(&general).await == 30).await;
        worker.stop().await;

        // What a worker that died has stored is found by the next.
        let other = room("other");
        bench.open_room(&other, 30).await;
        bench.store.insert(&messages(&other, 1..=20)).await.unwrap();
        let worker = bench.worker().await.ready().await;
        until("the mark", async || bench.mark(&other).await == 20).await;
        bench.publish(&other, &messages(&other, 21..=30)).await;
        until("the mark", async || bench.mark(&other).await == 30).await;

        // Of a new generation: what is before its fence is closed.
        let fenced = room("fenced");
        bench.open_room(&fenced, far + 3).await;
        let mut head = redis::cmd("HSET");
        head.arg(bench.redis.room_key(&fenced, "head"));
        head.arg("gen").arg(1).arg("persisted").arg(far);
        bench.redis.query::<i64>(&head).await.unwrap();
        bench.publish(&fenced, &messages(&fenced, [far + 3])).await;
        bench.publish(&fenced, &messages(&fenced, [far + 2])).await;
        bench.stored_count(&fenced, 2).await;
        bench.publish(&fenced, &[fence(&fenced, far + 1)]).await;
        until("the mark", async || bench.mark(&fenced).await == far + 3).await;
        worker.stop().await;
    })
    .await;
}

/// One worker has a shard at a time; when it goes, the other gets what it left, in its order and before all else.
#[tokio::test(flavor = "multi_thread")]
async fn another_worker_takes_over() {
    with_bench(async |bench: Bench| {
        let general = room("general");
        let first = bench.worker().await.ready().await;
        let second = bench.worker().await.ready().await;
        let events = messages(&general, 1..=400);
        for events in events[..200].chunks(5) {
            bench.publish(&general, events).await;
        }
        first.stop().await;
        for events in events[200..].chunks(5) {
            bench.publish(&general, events).await;
        }
        bench.stored_count(&general, 400).await;
        assert_eq!(bench.stored(&general).await, events);
        assert!(second.metric("chat_persist_events_total").await >= 200.0);
        second.stop().await;
    })
    .await;
}

#[test]
fn help_lists_every_variable() {
    let program = env!("CARGO_BIN_EXE_persistence-worker");
    let output = std::process::Command::new(program)
        .arg("--help")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for variable in persistence_worker::VARIABLES.iter().flat_map(|v| v.iter()) {
        assert!(text.contains(variable.name), "{}", variable.name);
    }
    for name in [
        "DARDA_MONGODB_URI",
        "DARDA_ADMIN_ADDR",
        "DARDA_DRAIN_SECS",
        "DARDA_LOG",
    ] {
        assert!(text.contains(name), "{name}");
    }
    assert!(text.contains("persistence-worker parked"));
    assert!(text.contains("persistence-worker index"));
}

/// What the closing of ranges by fences rests on: deliveries of a worker that is gone come to the next one before
/// everything else, and in their order.
#[tokio::test(flavor = "multi_thread")]
async fn the_broker_gives_back_what_was_not_acknowledged_first() {
    with_bench(async |bench: Bench| {
        let general = room("general");
        for number in 1..=30 {
            bench.publish(&general, &[message(&general, number)]).await;
        }
        let (url, proxy) = (&bench.settings.rabbitmq.url, bench.proxy().await);
        let mut first = bench.consumer(url, &general, 10).await;
        let mut second = bench.consumer(&proxy.through(url), &general, 64).await;
        let mut third = bench.consumer(url, &general, 64).await;
        let seen = first.take(10).await;
        assert_eq!(seen, (1..=10).collect::<Vec<u64>>());
        for number in 31..=40 {
            bench.publish(&general, &[message(&general, number)]).await;
        }
        first.close().await;
        assert_eq!(second.take(40).await, (1..=40).collect::<Vec<u64>>());
        proxy.cut().await;
        assert_eq!(third.take(40).await, (1..=40).collect::<Vec<u64>>());
    })
    .await;
}
