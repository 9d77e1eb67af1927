//! The log of the cluster family while its servers break. Each test has servers of its own.
#![cfg(feature = "cluster")]

mod storing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::cluster::settings::Endpoint;
use backend::cluster::topology::{self, Topology};
use backend::cluster::{Mongo, Settings, Store, envelope};
use backend::log::{Append, Appended};
use backend::{Backends, Error};
use lapin::options::ExchangeDeleteOptions;
use lapin::types::FieldTable;
use protocol::{Event, EventBody, MessageId, RoomId, Seq, Timestamp, UserId};
use testbed::{Data, Proxy, RabbitMq, Redis, RedisOptions};

/// A sender is answered within two seconds. The third is for a machine that has much else to do.
const ANSWER: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

struct Stage {
    redis: Redis,
    rabbitmq: RabbitMq,
    settings: Settings,
}

fn endpoint(url: String) -> Endpoint {
    Endpoint {
        url,
        verify: true,
        ca_file: None,
    }
}

impl Stage {
    async fn new() -> Self {
        let stage = Self::without_a_worker().await;
        stage.start_worker();
        stage
    }

    fn start_worker(&self) {
        tokio::spawn(storing::store(self.settings.clone()));
    }

    async fn without_a_worker() -> Self {
        let (redis, rabbitmq) =
            tokio::try_join!(Redis::start(RedisOptions::default()), RabbitMq::start()).unwrap();
        let settings = Settings {
            redis: endpoint(redis.url()),
            rabbitmq: endpoint(rabbitmq.url()),
            mongodb: endpoint(testbed::shared().await.mongodb_uri.clone()),
            namespace: testbed::namespace(),
            shards: 2,
            backlog_max: 100_000,
        };
        Self {
            redis,
            rabbitmq,
            settings,
        }
    }

    async fn pod(&self) -> Pod {
        self.pod_with(self.settings.clone()).await
    }

    async fn pod_with(&self, settings: Settings) -> Pod {
        Pod {
            family: backend::cluster::open(settings).await.unwrap(),
        }
    }
}

struct Pod {
    family: Backends,
}

fn room(id: &str) -> RoomId {
    RoomId::parse(id).unwrap()
}

fn message(id: &str, text: &str) -> Append {
    Append {
        room: room(id),
        from: UserId::parse("alice").unwrap(),
        id: MessageId::generate(),
        body: EventBody::Message {
            text: text.to_owned(),
            reply_to: None,
            meta: None,
        },
    }
}

impl Pod {
    /// One try, which must be answered in time.
    async fn append_once(&self, append: &Append) -> Result<Appended, Error> {
        let begun = Instant::now();
        let answer = self.family.log.append(append.clone()).await;
        assert!(
            begun.elapsed() < ANSWER,
            "{:?}: {answer:?}",
            begun.elapsed()
        );
        answer
    }

    /// As a client does: again, with the same id, until there is an answer.
    async fn append(&self, append: &Append) -> Appended {
        let begun = Instant::now();
        loop {
            match self.append_once(append).await {
                Ok(appended) => return appended,
                Err(Error::Unavailable { .. } | Error::Overloaded { .. })
                    if begun.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("after {:?}: {error}", begun.elapsed()),
            }
        }
    }

    async fn all(&self, id: &str) -> Vec<Arc<Event>> {
        let mut events: Vec<Arc<Event>> = Vec::new();
        loop {
            let after = events.last().map_or(Seq::ZERO, |event| event.seq);
            let page = self.family.log.read(&room(id), after, 1000).await.unwrap();
            if page.events.is_empty() {
                return events;
            }
            for event in page.events {
                let end = events.last().map_or(Seq::ZERO, |event| event.seq);
                assert!(
                    event.prev.is_none_or(|prev| prev == end),
                    "a hole: {event:?}"
                );
                events.push(event);
            }
        }
    }

    /// Waits until the log of a room holds as many messages.
    async fn messages(&self, id: &str, count: usize) -> Vec<Arc<Event>> {
        let begun = Instant::now();
        loop {
            let mut events = self.all(id).await;
            events.retain(|event| matches!(event.body, EventBody::Message { .. }));
            if events.len() >= count {
                assert_eq!(events.len(), count, "each once");
                return events;
            }
            assert!(begun.elapsed() < PATIENCE, "{} of {count}", events.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn close(self) {
        self.family.health.close().await;
    }
}

/// Appends many at once and answers with what was acknowledged.
async fn load(pod: &Pod, id: &str, count: usize) -> Vec<(Append, Appended)> {
    let appends: Vec<_> = (0..count).map(|n| message(id, &n.to_string())).collect();
    let acks =
        futures_util::future::join_all(appends.iter().map(|append| pod.append(append))).await;
    appends.into_iter().zip(acks).collect()
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every acknowledged event is where the acknowledgement said, once.
fn assert_kept(events: &[Arc<Event>], acked: &[(Append, Appended)]) {
    for (append, appended) in acked {
        let found: Vec<_> = events
            .iter()
            .filter(|event| event.id == Some(append.id))
            .collect();
        assert_eq!(found.len(), 1, "{append:?}");
        assert_eq!(*found[0], appended.event);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_dead_pod_did_not_publish_is_published_by_whoever_meets_it() {
    let stage = Stage::new().await;
    let proxy = Proxy::start(stage.rabbitmq.addr()).await.unwrap();
    let mut settings = stage.settings.clone();
    settings.rabbitmq = endpoint(proxy.through(&stage.rabbitmq.url()));
    let (a, b) = (stage.pod_with(settings).await, stage.pod().await);
    let acked = load(&a, "general", 5).await;
    proxy.cut().await;
    let lost = message("general", "between append and publish");
    let refused = a.append_once(&lost).await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    drop(a);

    let other = b.append(&message("general", "after it")).await;
    let again = b.append(&lost).await;
    let events = b.messages("general", 7).await;
    assert_kept(&events, &acked);
    assert!(events.contains(&other.event) && events.contains(&again.event));
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_repeats_an_act_is_not_answered_before_all_up_to_it_can_be_read() {
    let stage = Stage::new().await;
    let proxy = Proxy::start(stage.rabbitmq.addr()).await.unwrap();
    let mut settings = stage.settings.clone();
    settings.rabbitmq = endpoint(proxy.through(&stage.rabbitmq.url()));
    let (a, b) = (stage.pod_with(settings).await, stage.pod().await);
    load(&a, "general", 5).await;
    let client = redis::Client::open(stage.redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    proxy.cut().await;
    let stuck = message("general", "with a place and not with the broker");
    let stuck = tokio::spawn(async move { a.append_once(&stuck).await.map(drop) });
    eventually("the place of the first", async || {
        let log = format!("{}:room:{{general}}:log", stage.settings.namespace);
        let mut length = redis::cmd("XLEN");
        let length = length.arg(log).query_async::<u64>(&mut connection);
        length.await.unwrap() == 6
    })
    .await;
    // The broker has the second one at once, the first when somebody helps.
    let second = message("general", "behind it");
    let tries = (0..20_u64).map(async |n| {
        tokio::time::sleep(Duration::from_millis(20 * n)).await;
        let appended = b.append(&second).await;
        assert_eq!(appended.event.seq.get(), 7);
        let page = b.family.log.read(&room("general"), Seq::ZERO, 10).await;
        assert_eq!(page.unwrap().events.last(), Some(&appended.event));
    });
    futures_util::future::join_all(tries).await;
    assert!(stuck.await.unwrap().is_err());
    b.close().await;
}

/// A log of these events alone: of each its place and the one before it.
async fn stored(stage: &Stage, id: &str, places: &[(u64, Option<u64>)]) {
    let store = Store::new(Mongo::new(&stage.settings).await.unwrap());
    let events: Vec<Event> = places
        .iter()
        .map(|(seq, prev)| Event {
            room: room(id),
            seq: Seq::new(*seq).unwrap(),
            prev: prev.map(|prev| Seq::new(prev).unwrap()),
            at: Timestamp::now(),
            from: prev.map(|_| UserId::parse("alice").unwrap()),
            id: prev.map(|_| MessageId::generate()),
            body: match prev {
                Some(_) => message(id, "x").body,
                None => EventBody::Fence {},
            },
        })
        .collect();
    store.insert(&events).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_page_may_end_in_the_middle_of_what_never_was() {
    const FENCE: u64 = (1 << 32) + 1;
    let stage = Stage::without_a_worker().await;
    let pod = stage.pod().await;
    let before = async |id: &str, before: u64, limit: usize| {
        let before = Seq::new(before).unwrap();
        let page = pod.family.log.read_before(&room(id), before, limit).await?;
        let seqs: Vec<u64> = page.events.iter().map(|event| event.seq.get()).collect();
        Ok::<_, Error>((seqs, page.head.get()))
    };
    let closed = [(2, Some(1)), (3, Some(2)), (6, Some(5)), (FENCE, None)];
    stored(&stage, "closed", &closed).await;
    let end = Seq::MAX.get();
    let all = (vec![1, 2, 3, 4, 5, 6, FENCE], FENCE);
    assert_eq!(before("closed", end, 10).await.unwrap(), all);
    for at in 1..=6 {
        let (seqs, _) = before("closed", at, 2).await.unwrap();
        let expected: Vec<u64> = (at.saturating_sub(2).max(1)..at).collect();
        assert_eq!(seqs, expected, "before {at}");
    }

    // What is missing may still come: the log ends before it.
    stored(&stage, "open", &[(1, Some(0)), (2, Some(1)), (4, Some(3))]).await;
    assert_eq!(before("open", end, 10).await.unwrap(), (vec![1, 2], 2));
    assert_eq!(before("open", 2, 10).await.unwrap().0, [1]);
    let page = before("open", 4, 10).await;
    assert!(matches!(page, Err(Error::Unavailable { .. })), "{page:?}");
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redis_that_lost_everything_is_fenced_off() {
    let stage = Stage::new().await;
    let (a, b) = (stage.pod().await, stage.pod().await);
    let mut acked = load(&a, "general", 30).await;
    acked.extend(load(&b, "general", 30).await);
    stage.redis.kill();
    stage.redis.restart(Data::Wiped).await.unwrap();
    let before = acked[7].clone();
    for pod in [&a, &b] {
        acked.extend(load(pod, "general", 30).await);
        let again = pod.append(&before.0).await;
        assert!(again.duplicate);
        assert_eq!(
            again.event, before.1.event,
            "every retry gets the first answer"
        );
    }
    let events = b.messages("general", 120).await;
    assert_kept(&events, &acked);
    let all = a.all("general").await;
    let fences = all.iter().filter(|event| event.body == EventBody::Fence {});
    assert_eq!(fences.count(), 1);
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_certain_head_never_goes_back() {
    for data in [Data::Wiped, Data::Kept] {
        let stage = Stage::without_a_worker().await;
        let pods = [stage.pod().await, stage.pod().await];
        load(&pods[0], "general", 10).await;
        let client = redis::Client::open(stage.redis.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let () = redis::cmd("SAVE")
            .query_async(&mut connection)
            .await
            .unwrap();
        let acked = load(&pods[0], "general", 10).await;
        let shown = pods[1].family.log.head(&room("general")).await.unwrap();
        assert_eq!(shown.get(), 20);
        stage.redis.kill();
        stage.redis.restart(data).await.unwrap();
        // Nothing is stored yet, and Redis knows the first ten events, or none.
        let forgotten = async || {
            let head = pods[1].family.log.head(&room("general")).await;
            head.is_ok_and(|head| head < shown)
        };
        eventually("a head that goes back", forgotten).await;
        let uncertain = pods[1].family.log.certain_head(&room("general")).await;
        assert!(
            matches!(uncertain, Err(Error::Unavailable { .. })),
            "{uncertain:?}"
        );
        stage.start_worker();
        let certain = async || match pods[1].family.log.certain_head(&room("general")).await {
            Ok(head) => {
                assert!(head >= shown, "{head}");
                true
            }
            Err(Error::Unavailable { .. }) => false,
            Err(error) => panic!("{error}"),
        };
        eventually("a certain head", certain).await;
        assert_kept(&pods[1].messages("general", 20).await, &acked);
        for pod in pods {
            pod.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_redis_a_page_before_a_known_place_is_whole_or_refused() {
    let stage = Stage::without_a_worker().await;
    let pod = stage.pod().await;
    load(&pod, "harbour", 5).await;
    let (harbour, last) = (room("harbour"), Seq::new(5).unwrap());
    stage.redis.kill();
    // Nothing is stored: what stands before the last message is nowhere to be had.
    let page = pod.family.log.read_before(&harbour, last, 10).await;
    assert!(matches!(page, Err(Error::Unavailable { .. })), "{page:?}");

    stage.start_worker();
    eventually("a page that is stored", async || {
        let page = pod.family.log.read_before(&harbour, last, 10).await;
        page.is_ok_and(|page| page.events.len() == 4)
    })
    .await;
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flush_is_noticed_by_the_next_call() {
    let stage = Stage::new().await;
    let pod = stage.pod().await;
    let mut acked = load(&pod, "general", 20).await;
    let client = redis::Client::open(stage.redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("FLUSHALL")
        .query_async(&mut connection)
        .await
        .unwrap();
    acked.extend(load(&pod, "general", 20).await);
    assert_kept(&pod.messages("general", 40).await, &acked);
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_exchange_that_somebody_deletes_is_replaced_by_the_next_generation() {
    let stage = Stage::new().await;
    let pod = stage.pod().await;
    let mut acked = load(&pod, "general", 20).await;
    let topology = Topology::new(&stage.settings);
    let connection = topology::connect(&stage.settings.rabbitmq, "test")
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .exchange_delete(
            topology.persist_exchange(0).into(),
            ExchangeDeleteOptions::default(),
        )
        .await
        .unwrap();
    acked.extend(load(&pod, "general", 20).await);
    assert_kept(&pod.messages("general", 40).await, &acked);
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shard_whose_binding_somebody_takes_away_loses_nothing_and_neither_do_others() {
    let stage = Stage::new().await;
    let pod = stage.pod().await;
    let in_shard = |shard| {
        let mut names = (0..).map(|n| format!("room-{n}"));
        names.find(|name| envelope::shard(&room(name), stage.settings.shards) == shard)
    };
    let rooms = [0, 1].map(|shard| in_shard(shard).unwrap());
    let mut acked = [Vec::new(), Vec::new()];
    for (acked, id) in acked.iter_mut().zip(&rooms) {
        acked.extend(load(&pod, id, 20).await);
    }
    let topology = Topology::new(&stage.settings);
    let connection = topology::connect(&stage.settings.rabbitmq, "test")
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let unbinding = channel.queue_unbind(
        topology.shard_queue(0).into(),
        topology.persist_exchange(0).into(),
        "0".into(),
        FieldTable::default(),
    );
    let (first, second, unbound) = tokio::join!(
        load(&pod, &rooms[0], 200),
        load(&pod, &rooms[1], 200),
        unbinding
    );
    unbound.unwrap();
    acked[0].extend(first);
    acked[1].extend(second);
    // At the latest this one finds no way into its queue.
    acked[0].extend(load(&pod, &rooms[0], 1).await);
    for (acked, id) in acked.iter().zip(&rooms) {
        assert_kept(&pod.messages(id, acked.len()).await, acked);
    }
    let fences = pod.all(&rooms[0]).await;
    assert!(
        fences.iter().any(|event| event.body == EventBody::Fence {}),
        "the generation was raised"
    );
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_dies_delays_and_loses_nothing() {
    let stage = Stage::new().await;
    let pod = stage.pod().await;
    let mut acked = load(&pod, "general", 20).await;
    let topology = Topology::new(&stage.settings);
    for shard in 0..stage.settings.shards {
        let queue = topology.shard_queue(shard);
        stage.rabbitmq.written(&queue).await.unwrap();
    }
    stage.rabbitmq.kill();
    let lost = message("general", "while it is away");
    let refused = pod.append_once(&lost).await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    stage.rabbitmq.restart(Data::Kept).await.unwrap();
    acked.push((lost.clone(), pod.append(&lost).await));
    acked.extend(load(&pod, "general", 20).await);
    assert_kept(&pod.messages("general", 41).await, &acked);
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_room_that_redis_forgot_because_all_is_stored_goes_on_without_a_fence() {
    let stage = Stage::new().await;
    let pod = stage.pod().await;
    let mut acked = load(&pod, "general", 20).await;
    let store = Store::new(Mongo::new(&stage.settings).await.unwrap());
    let begun = Instant::now();
    while store
        .contiguous(&room("general"), Seq::ZERO, 100)
        .await
        .unwrap()
        .get()
        < 20
    {
        assert!(begun.elapsed() < PATIENCE, "not stored");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let client = redis::Client::open(stage.redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{}:room:*", stage.settings.namespace))
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(!keys.is_empty());
    let () = redis::cmd("DEL")
        .arg(keys)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(
        pod.messages("general", 20).await.len(),
        20,
        "read from MongoDB alone"
    );
    acked.extend(load(&pod, "general", 5).await);
    let all = pod.all("general").await;
    assert_eq!(all.len(), 25, "and no fence");
    assert_kept(&all, &acked);
    pod.close().await;
}

/// What a pod's readers were shown.
#[derive(Default)]
struct Shown(std::sync::Mutex<Vec<Arc<Event>>>);

impl backend::relay::Sink for Shown {
    fn events(&self, events: &[Arc<Event>]) {
        self.0.lock().unwrap().extend_from_slice(events);
    }

    fn signal(&self, _: &backend::relay::Signal) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_two_pods_append_reaches_the_readers_of_both_in_one_order() {
    let stage = Stage::new().await;
    let pods = [stage.pod().await, stage.pod().await];
    let shown: Vec<Arc<Shown>> = pods.iter().map(|_| Arc::default()).collect();
    for (pod, shown) in pods.iter().zip(&shown) {
        pod.family.relay.attach(shown.clone());
        pod.family.relay.watch(&room("general"));
    }
    let begun = Instant::now();
    while shown.iter().any(|shown| shown.0.lock().unwrap().is_empty()) {
        load(&pods[0], "general", 1).await;
        assert!(begun.elapsed() < PATIENCE, "nobody watches");
    }
    let (a, b) = tokio::join!(
        load(&pods[0], "general", 200),
        load(&pods[1], "general", 200)
    );
    let all = pods[0].all("general").await;
    assert_kept(&all, &a);
    assert_kept(&all, &b);
    for shown in &shown {
        let begun = Instant::now();
        loop {
            let shown = shown.0.lock().unwrap().clone();
            if shown.last() == all.last() {
                assert_eq!(shown, all[all.len() - shown.len()..], "each once, in order");
                break;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{} of {}",
                shown.len(),
                all.len()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    for pod in pods {
        pod.close().await;
    }
}
