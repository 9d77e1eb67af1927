//! Queues that the broker has lost, as it does when its disk was full: it lists them, and nobody can consume them.

use std::time::{Duration, Instant};

use backend::cluster::{envelope, generation};
use backend::log::{Append, Appended};
use backend::{Backends, Error};
use mongodb::Collection;
use mongodb::bson::{Document, doc};
use protocol::{Event, EventBody, MessageId, RoomId, Seq, UserId};
use testbed::{Data, RabbitMq, Servers, shared};

use super::bench::{Bench, get, room, until};

struct Stage {
    rabbitmq: RabbitMq,
    bench: Bench,
    pod: Backends,
}

/// A pod and a broker of its own. Queues that are there now survive what follows.
async fn with_stage(test: impl AsyncFnOnce(Stage)) {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    let rabbitmq = RabbitMq::start().await.unwrap();
    let servers = Servers {
        rabbitmq_url: rabbitmq.url(),
        ..shared().await.clone()
    };
    let bench = Bench::new(servers).await;
    bench.queues_are_written(&rabbitmq).await;
    let pod = backend::cluster::open(bench.settings.clone())
        .await
        .unwrap();
    test(Stage {
        rabbitmq,
        bench,
        pod,
    })
    .await;
}

impl Stage {
    /// The broker loses the queues of these shards with everything in them.
    async fn lose(&mut self, shards: &[u16]) {
        // It writes down a new queue some seconds late.
        self.bench.make_anew(shards).await;
        self.rabbitmq.kill();
        self.rabbitmq.restart(Data::Kept).await.unwrap();
        self.bench.reconnect().await;
    }

    async fn append(&self, append: &Append) -> Appended {
        let begun = Instant::now();
        loop {
            match self.pod.log.append(append.clone()).await {
                Ok(appended) => return appended,
                Err(Error::Unavailable { .. } | Error::Overloaded { .. })
                    if begun.elapsed() < Duration::from_secs(60) =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("after {:?}: {error}", begun.elapsed()),
            }
        }
    }

    /// Appends messages, and answers how each was acked.
    async fn fill(&self, room: &RoomId, count: usize) -> Vec<(Append, Appended)> {
        let mut acked = Vec::new();
        for number in 0..count {
            let append = message(room, &format!("number {number}"));
            let appended = self.append(&append).await;
            acked.push((append, appended));
        }
        acked
    }

    /// Everything of a room, as a reader sees it who begins at its start.
    async fn read(&self, room: &RoomId) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        loop {
            let after = events.last().map_or(Seq::ZERO, |event| event.seq);
            let page = self.pod.log.read(room, after, 1000).await.unwrap();
            if page.events.is_empty() {
                return events;
            }
            for event in page.events {
                assert!(event.prev.is_none_or(|prev| prev == after_of(&events)));
                events.push((*event).clone());
            }
        }
    }

    /// Two rooms of different shards.
    fn rooms(&self) -> [RoomId; 2] {
        let of = |shard| {
            let rooms = (0..).map(|number| room(&format!("room-{number}")));
            let mut rooms =
                rooms.filter(|room| envelope::shard(room, self.bench.settings.shards) == shard);
            rooms.next().unwrap()
        };
        [of(0), of(1)]
    }

    async fn redis(&self, command: &str, keys: &[String]) -> i64 {
        let mut command = redis::cmd(command);
        command.arg(keys);
        self.bench.redis.query(&command).await.unwrap()
    }

    /// Waits until somebody who sends has met another generation than the room had.
    async fn begins_anew(&self, room: &RoomId) {
        let fence = async || {
            let mut fence = redis::cmd("HGET");
            fence
                .arg(self.bench.redis.room_key(room, "head"))
                .arg("fence");
            let fence: Option<u64> = self.bench.redis.query(&fence).await.unwrap();
            fence
        };
        let before = fence().await;
        until("the room has begun anew", async || {
            let _ = self.pod.log.append(message(room, "more")).await;
            fence().await > before
        })
        .await;
    }

    async fn command(&self, arguments: &[&str]) -> (bool, String) {
        self.bench.shards(arguments).await
    }
}

fn after_of(events: &[Event]) -> Seq {
    events.last().map_or(Seq::ZERO, |event| event.seq)
}

fn message(room: &RoomId, text: &str) -> Append {
    Append {
        room: room.clone(),
        from: UserId::parse("alice").unwrap(),
        id: MessageId::generate(),
        body: EventBody::Message {
            text: text.to_owned(),
            reply_to: None,
            meta: None,
        },
    }
}

/// Every acked message has its place, once.
fn assert_kept(acked: &[(Append, Appended)], events: &[Event]) {
    for (append, appended) in acked {
        let of_id: Vec<&Event> = events
            .iter()
            .filter(|event| event.id == Some(append.id))
            .collect();
        assert_eq!(of_id.len(), 1, "{append:?}");
        assert_eq!(of_id[0].seq, appended.event.seq, "{append:?}");
        assert_eq!(of_id[0].body, append.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_queue_costs_the_others_nothing_and_is_made_anew() {
    with_stage(async |mut stage: Stage| {
        let [good, lost] = stage.rooms();
        let of_good = stage.fill(&good, 30).await;
        let mut of_lost = stage.fill(&lost, 30).await;
        stage.lose(&[1]).await;

        let worker = stage.bench.worker().await;
        stage.bench.stored_count(&good, 30).await;
        until("one shard fails", async || {
            worker.metric("chat_persist_shards_failing").await == 1.0
        })
        .await;
        let (status, text) = get(worker.admin, "/readyz").await;
        assert!(status == 503 && text.contains("(shards [1])"), "{text}");
        // The shard that works keeps its connection, however often the other loses its own.
        let made = worker.metric("chat_persist_connections_total").await;
        until("it is tried again", async || {
            worker.metric("chat_persist_connections_total").await > made + 2.0
        })
        .await;
        for _ in 0..2 {
            let (is_well, said) = stage.command(&["list"]).await;
            let lines: Vec<&str> = said.lines().collect();
            assert!(!is_well, "{said}");
            assert_eq!(lines[0], "0  0  1  ok", "{said}");
            assert!(lines[1].starts_with("1  -  -  "), "{said}");
            assert!(lines[1].contains("INTERNAL"), "{said}");
        }
        let refused = message(&lost, "while it is lost");
        stage.pod.log.append(refused.clone()).await.unwrap_err();

        let (is_well, said) = stage.command(&["rebuild"]).await;
        assert!(is_well, "{said}");
        assert!(said.contains("new queues for shards [1]"), "{said}");
        of_lost.push((refused.clone(), stage.append(&refused).await));
        of_lost.extend(stage.fill(&lost, 10).await);
        until("all shards are consumed", async || {
            get(worker.admin, "/readyz").await.0 == 200
        })
        .await;
        assert_kept(&of_lost, &stage.read(&lost).await);
        assert_kept(&of_good, &stage.read(&good).await);
        // With the fence that the new queue begins with.
        stage.bench.stored_count(&lost, of_lost.len() + 1).await;
        assert_kept(&of_lost, &stage.bench.stored(&lost).await);
        assert_eq!(worker.metric("chat_log_violations_total").await, 0.0);
        assert_eq!(worker.metric("chat_parked_total").await, 0.0);
        let (is_well, said) = stage.command(&["rebuild"]).await;
        assert!(
            is_well && said.contains("every shard can be consumed"),
            "{said}"
        );
        worker.stop().await;
    })
    .await;
}

/// Broken off anywhere, by a crash, it is run again. Meanwhile others raise the generation.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_was_killed_is_run_again() {
    with_stage(async |mut stage: Stage| {
        let rooms = stage.rooms();
        let mut acked = [
            stage.fill(&rooms[0], 20).await,
            stage.fill(&rooms[1], 20).await,
        ];
        stage.lose(&[0, 1]).await;
        let mut program = tokio::process::Command::from(stage.bench.command(&stage.rabbitmq.url()))
            .args(["shards", "rebuild"])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let records: Collection<Document> = stage.bench.mongo.collection("generation");
        until("it is in the middle", async || {
            let opening = records.find_one(doc! { "generation": 1, "state": "opening" });
            opening.await.unwrap().is_some()
        })
        .await;
        program.kill().await.unwrap();
        until("another generation", async || {
            let _ = stage.pod.log.append(message(&rooms[0], "more")).await;
            generation::in_redis(&stage.bench.redis).await.unwrap() >= Some(2)
        })
        .await;
        until("it is done", async || {
            stage.command(&["rebuild"]).await.0 && stage.command(&["list"]).await.0
        })
        .await;
        let worker = stage.bench.worker().await.ready().await;
        for (room, acked) in rooms.iter().zip(&mut acked) {
            acked.extend(stage.fill(room, 5).await);
            assert_kept(acked, &stage.read(room).await);
        }
        assert_eq!(worker.metric("chat_log_violations_total").await, 0.0);
        worker.stop().await;
    })
    .await;
}

/// Rooms that begin anew while their queue is lost, as after a restart of Redis, lose nothing by it.
#[tokio::test(flavor = "multi_thread")]
async fn what_redis_had_before_a_fence_is_kept() {
    with_stage(async |mut stage: Stage| {
        let [_, lost] = stage.rooms();
        let mut acked = stage.fill(&lost, 20).await;
        stage.lose(&[1]).await;
        // Twice: what was left is added to.
        for _ in 0..2 {
            stage
                .redis("DEL", &[stage.bench.redis.key("generation")])
                .await;
            stage.begins_anew(&lost).await;
        }
        let (is_well, said) = stage.command(&["rebuild"]).await;
        assert!(is_well, "{said}");
        let worker = stage.bench.worker().await.ready().await;
        acked.extend(stage.fill(&lost, 5).await);
        assert_kept(&acked, &stage.read(&lost).await);
        assert_eq!(worker.metric("chat_log_violations_total").await, 0.0);
        // It is forgotten when it is stored.
        let left = stage.bench.redis.room_key(&lost, "left");
        until("nothing is left", async || {
            stage.redis("EXISTS", std::slice::from_ref(&left)).await == 0
        })
        .await;
        worker.stop().await;
    })
    .await;
}

/// Redis lost its data too: what was acked before may be in the queue alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_in_the_queue_alone_is_not_deleted_unasked() {
    with_stage(async |mut stage: Stage| {
        let [_, lost] = stage.rooms();
        stage.fill(&lost, 5).await;
        stage.lose(&[1]).await;
        let mut keys = redis::cmd("KEYS");
        keys.arg(stage.bench.redis.key("*"));
        let keys: Vec<String> = stage.bench.redis.query(&keys).await.unwrap();
        stage.redis("DEL", &keys).await;
        stage.begins_anew(&lost).await;
        let (is_well, said) = stage.command(&["rebuild"]).await;
        assert!(!is_well && said.contains(lost.as_str()), "{said}");
        assert!(!stage.command(&["list"]).await.0, "it was left alone");

        let (is_well, said) = stage.command(&["rebuild", "--give-up"]).await;
        assert!(is_well, "{said}");
        let worker = stage.bench.worker().await.ready().await;
        let acked = stage.fill(&lost, 5).await;
        assert_kept(&acked, &stage.read(&lost).await);
        worker.stop().await;
    })
    .await;
}
