//! The relay between pods over a real Redis and RabbitMQ.
#![cfg(feature = "cluster")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backend::Relay;
use backend::cluster::relay::{ClusterRelay, PodId, Upstream};
use backend::cluster::settings::Endpoint;
use backend::cluster::{Redis, Settings};
use backend::relay::{Signal, Sink};
use protocol::{Event, EventBody, NoticeKind, RoomId, Seq, Timestamp, UserId};

/// What a pod's sequencer and sinks were told.
#[derive(Default)]
struct Heard {
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    events: Vec<Arc<Event>>,
    signals: Vec<Signal>,
    watched: Vec<RoomId>,
    unwatched: Vec<RoomId>,
    lost: usize,
}

impl Upstream for Heard {
    fn remote(&self, events: Vec<Arc<Event>>) {
        self.told.lock().unwrap().events.extend(events);
    }

    fn watched(&self, room: &RoomId) {
        self.told.lock().unwrap().watched.push(room.clone());
    }

    fn unwatched(&self, room: &RoomId) {
        self.told.lock().unwrap().unwatched.push(room.clone());
    }

    fn lost(&self) {
        self.told.lock().unwrap().lost += 1;
    }
}

impl Sink for Heard {
    fn events(&self, events: &[Arc<Event>]) {
        self.told.lock().unwrap().events.extend_from_slice(events);
    }

    fn signal(&self, signal: &Signal) {
        self.told.lock().unwrap().signals.push(signal.clone());
    }
}

struct Pod {
    relay: ClusterRelay,
    heard: Arc<Heard>,
}

impl Pod {
    /// A pod that is connected.
    async fn start(settings: &Settings) -> Self {
        let redis = Redis::new(settings).unwrap();
        let relay = ClusterRelay::new(settings, redis, PodId::generate());
        let heard = Arc::new(Heard::default());
        relay.attach(heard.clone());
        relay.start(heard.clone());
        eventually("a connection", || relay.trouble().is_none().then_some(())).await;
        Self { relay, heard }
    }

    async fn watch(&self, room: &RoomId) {
        let before = self.told(|told| told.watched.len());
        self.relay.watch(room);
        self.until("a place on the route", |told| {
            (told.watched.len() > before).then_some(())
        })
        .await;
    }

    fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.heard.told.lock().unwrap())
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut(&Told) -> Option<T>) -> T {
        eventually(what, || self.told(&mut look)).await
    }

    fn send(&self, to: &Self, events: &[Arc<Event>]) {
        let pods = [self.relay.pod().to_string(), to.relay.pod().to_string()];
        self.relay.forward(&pods, events);
    }
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let looked = tokio::time::timeout(Duration::from_secs(45), async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    looked
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}

/// The servers that all tests share.
async fn shared() -> Option<Settings> {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return None;
    }
    let servers = testbed::shared().await;
    Some(settings(&servers.redis_url, &servers.rabbitmq_url))
}

fn settings(redis: &str, rabbitmq: &str) -> Settings {
    let endpoint = |url: &str| Endpoint {
        url: url.to_owned(),
        verify: true,
        ca_file: None,
    };
    Settings {
        redis: endpoint(redis),
        rabbitmq: endpoint(rabbitmq),
        mongodb: endpoint("mongodb://127.0.0.1"),
        namespace: testbed::namespace(),
        shards: 1,
        backlog_max: 1000,
    }
}

fn room(text: &str) -> RoomId {
    RoomId::parse(text).unwrap()
}

fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

/// An event of the room, with a text of some bytes.
fn event(room: &RoomId, seq: u64, bytes: usize) -> Arc<Event> {
    Arc::new(Event {
        room: room.clone(),
        seq: Seq::new(seq).unwrap(),
        prev: Some(Seq::new(seq - 1).unwrap()),
        at: Timestamp::from_millis(1_700_000_000_000),
        from: Some(user("alice")),
        id: None,
        body: EventBody::Message {
            text: "x".repeat(bytes),
            reply_to: None,
            meta: None,
        },
    })
}

fn typing(room: &RoomId, on: bool) -> Signal {
    Signal::Typing {
        room: room.clone(),
        user: user("alice"),
        on,
    }
}

fn notice() -> Signal {
    Signal::Notice {
        user: user("bob"),
        kind: NoticeKind::RoomAdded,
        room: None,
    }
}

/// The pods on the route of the room.
async fn route(settings: &Settings, room: &RoomId) -> Vec<String> {
    let redis = Redis::new(settings).unwrap();
    let keys = [redis.room_key(room, "pods")];
    let routes: Vec<Vec<String>> = redis.call("darda_relay_routes", &keys, &[]).await.unwrap();
    routes.concat()
}

async fn until_route(settings: &Settings, room: &RoomId, expected: &[&Pod]) {
    let mut pods: Vec<_> = expected
        .iter()
        .map(|pod| pod.relay.pod().as_str())
        .collect();
    pods.sort_unstable();
    let looked = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let mut found = route(settings, room).await;
            found.sort_unstable();
            if found == pods {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    looked.await.expect("the route did not become the expected");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_the_pods_that_have_the_room() {
    let Some(settings) = shared().await else {
        return;
    };
    let (here, there) = (Pod::start(&settings).await, Pod::start(&settings).await);
    let general = room("general");
    there.watch(&general).await;
    until_route(&settings, &general, &[&there]).await;
    let events: Vec<_> = (1..=2500).map(|seq| event(&general, seq, 100)).collect();
    for events in events.chunks(100) {
        here.send(&there, events);
    }
    let heard = there
        .until("the events", |told| {
            (told.events.len() >= 2500).then(|| told.events.clone())
        })
        .await;
    assert_eq!(heard, events);
    assert!(here.told(|told| told.events.is_empty()), "an echo");
    assert_eq!(there.relay.counts().events_received, 2500);
    assert_eq!(here.relay.counts().dropped, 0);
    here.relay.close().await;
    there.relay.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_pods_that_have_the_room_and_notices_reach_all() {
    let Some(settings) = shared().await else {
        return;
    };
    let (here, there) = (Pod::start(&settings).await, Pod::start(&settings).await);
    let (general, random) = (room("general"), room("random"));
    here.watch(&general).await;
    there.watch(&general).await;
    let sent = [
        typing(&random, true),
        typing(&general, true),
        notice(),
        typing(&general, false),
        notice(),
    ];
    for signal in sent.clone() {
        here.relay.signal(signal);
    }
    let heard = there
        .until("the signals", |told| {
            (told.signals.len() >= 4).then(|| told.signals.clone())
        })
        .await;
    let of_room = |signals: &[Signal]| {
        let all = signals.iter();
        all.filter(|s| matches!(s, Signal::Typing { .. }))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of_room(&heard),
        [typing(&general, true), typing(&general, false)]
    );
    assert_eq!(heard.iter().filter(|s| **s == notice()).count(), 2);
    // What the other pod says now comes after all echoes.
    there.relay.signal(notice());
    here.until("an answer", |told| (told.signals.len() >= 6).then_some(()))
        .await;
    assert!(here.told(|told| told.signals[..5] == sent && told.signals[5] == notice()));
    here.relay.close().await;
    there.relay.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_on_the_routes_of_its_rooms_only() {
    let Some(settings) = shared().await else {
        return;
    };
    let (here, there) = (Pod::start(&settings).await, Pod::start(&settings).await);
    let rooms: Vec<_> = (0..1200).map(|n| room(&format!("room-{n}"))).collect();
    for room in &rooms {
        here.relay.watch(room);
    }
    here.until("all places", |told| {
        (told.watched.len() == 1200).then_some(())
    })
    .await;
    there.watch(&rooms[7]).await;
    until_route(&settings, &rooms[7], &[&here, &there]).await;
    here.relay.unwatch(&rooms[7]);
    until_route(&settings, &rooms[7], &[&there]).await;
    assert_eq!(here.told(|told| told.unwatched.clone()), [rooms[7].clone()]);
    // Whoever comes back soon has never been away.
    here.relay.unwatch(&rooms[8]);
    here.relay.watch(&rooms[8]);
    here.watch(&rooms[7]).await;
    until_route(&settings, &rooms[7], &[&here, &there]).await;
    assert_eq!(here.relay.rooms(), 1200);
    assert_eq!(here.told(|told| told.unwatched.len()), 1);
    here.relay.close().await;
    until_route(&settings, &rooms[7], &[&there]).await;
    until_route(&settings, &rooms[8], &[]).await;
    there.relay.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_dead_pod_ends() {
    let Some(settings) = shared().await else {
        return;
    };
    let redis = Redis::new(&settings).unwrap();
    let general = room("general");
    let keys = [redis.room_key(&general, "pods")];
    let arguments: [&[u8]; 2] = [b"dead", b"300"];
    let fresh: Vec<bool> = redis
        .call("darda_relay_register", &keys, &arguments)
        .await
        .unwrap();
    assert_eq!(fresh, [true]);
    let fresh: Vec<bool> = redis
        .call("darda_relay_register", &keys, &arguments)
        .await
        .unwrap();
    assert_eq!(fresh, [false]);
    assert_eq!(route(&settings, &general).await, ["dead"]);
    // Another pod keeps the key alive, but not the place.
    let here = Pod::start(&settings).await;
    here.watch(&general).await;
    until_route(&settings, &general, &[&here]).await;
    let mut left = ::redis::cmd("PTTL");
    left.arg(&keys[0]);
    let left: i64 = redis.query(&left).await.unwrap();
    assert!((1..=30_000).contains(&left), "{left}");
    here.relay.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_redis_has_lost_are_taken_again() {
    let Some(settings) = shared().await else {
        return;
    };
    let here = Pod::start(&settings).await;
    let general = room("general");
    here.watch(&general).await;
    let redis = Redis::new(&settings).unwrap();
    let mut delete = ::redis::cmd("DEL");
    delete.arg(redis.room_key(&general, "pods"));
    let gone: u64 = redis.query(&delete).await.unwrap();
    assert_eq!(gone, 1);
    here.relay.refresh();
    here.until("a new place", |told| {
        (told.watched.len() == 2).then_some(())
    })
    .await;
    until_route(&settings, &general, &[&here]).await;
    here.relay.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_a_broker_that_stands_still() {
    let Some(settings) = shared().await else {
        return;
    };
    let (proxy, far) = through_a_proxy(&settings).await;
    let (here, there) = (Pod::start(&far).await, Pod::start(&settings).await);
    let general = room("general");
    there.watch(&general).await;
    proxy.stall_to_server();
    let began = std::time::Instant::now();
    // Twice as much as may wait.
    for seq in 1..=2048 {
        here.send(&there, &[event(&general, seq, 16 * 1024)]);
        here.relay.signal(typing(&general, true));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "it waited");
    assert!(here.relay.queued_bytes() <= 16 * 1024 * 1024);
    let dropped = here.relay.counts().dropped;
    assert!(dropped > 500, "{dropped}");
    assert_eq!(here.told(|told| told.signals.len()), 2048);
    proxy.heal().await.unwrap();
    // The latest are those that were kept.
    there
        .until("the last event", |told| {
            let last = told.events.last()?;
            (last.seq.get() == 2048).then_some(())
        })
        .await;
    assert_eq!(there.relay.counts().reconnects, 0);
    here.relay.close().await;
    there.relay.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_a_connection_that_broke_is_not_taken_for_heard() {
    let Some(settings) = shared().await else {
        return;
    };
    let (proxy, far) = through_a_proxy(&settings).await;
    let (here, there) = (Pod::start(&far).await, Pod::start(&settings).await);
    let general = room("general");
    there.watch(&general).await;
    assert_eq!(there.told(|told| told.lost), 1);
    proxy.stall_to_server();
    here.send(&there, &[event(&general, 1, 10)]);
    eventually("the event's way out", || {
        (here.relay.counts().events_sent == 1).then_some(())
    })
    .await;
    proxy.cut().await;
    proxy.heal().await.unwrap();
    there
        .until("a word of it", |told| (told.lost == 2).then_some(()))
        .await;
    assert_eq!(there.told(|told| told.events.len()), 0);
    assert_eq!(there.relay.counts().reconnects, 0);
    here.relay.close().await;
    there.relay.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_told_and_made_again() {
    let Some(settings) = shared().await else {
        return;
    };
    let (proxy, far) = through_a_proxy(&settings).await;
    let (here, there) = (Pod::start(&far).await, Pod::start(&far).await);
    let general = room("general");
    there.watch(&general).await;
    here.send(&there, &[event(&general, 1, 10)]);
    there
        .until("an event", |told| (told.events.len() == 1).then_some(()))
        .await;
    assert_eq!(there.told(|told| told.lost), 1);
    proxy.cut().await;
    eventually("trouble", || {
        here.relay.trouble().and(there.relay.trouble())
    })
    .await;
    here.send(&there, &[event(&general, 2, 10)]);
    proxy.heal().await.unwrap();
    there
        .until("the loss", |told| (told.lost >= 2).then_some(()))
        .await;
    eventually("a connection", || {
        here.relay.trouble().is_none().then_some(())
    })
    .await;
    here.send(&there, &[event(&general, 3, 10)]);
    there
        .until("the last event", |told| {
            let last = told.events.last()?;
            (last.seq.get() == 3).then_some(())
        })
        .await;
    // The route does not depend on the broker.
    assert_eq!(there.told(|told| told.watched.len()), 1);
    assert_eq!(there.relay.counts().reconnects, 2);
    here.relay.close().await;
    there.relay.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_closed_but_the_network_is_noticed() {
    let Some(settings) = shared().await else {
        return;
    };
    let (proxy, far) = through_a_proxy(&settings).await;
    let here = Pod::start(&far).await;
    proxy.stall_to_client();
    // Each of the two connections notices for itself.
    eventually("the end of both", || {
        (here.relay.counts().reconnects == 2).then_some(())
    })
    .await;
    assert!(here.relay.trouble().is_some());
    proxy.heal().await.unwrap();
    here.until("a connection", |told| (told.lost == 2).then_some(()))
        .await;
    here.relay.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_nothing_is_still_heard() {
    let Some(shared) = shared().await else {
        return;
    };
    let broker = testbed::RabbitMq::start().await.unwrap();
    let settings = settings(&shared.redis.url, &broker.url());
    let (here, there) = (Pod::start(&settings).await, Pod::start(&settings).await);
    let general = room("general");
    there.watch(&general).await;
    here.send(&there, &[event(&general, 1, 10)]);
    there
        .until("an event", |told| (told.events.len() == 1).then_some(()))
        .await;
    broker
        .ctl(&["set_vm_memory_high_watermark", "0"])
        .await
        .unwrap();
    // The broker blocks whoever publishes.
    let mut seq = 1;
    let trouble = eventually("the alarm", || {
        seq += 1;
        here.send(&there, &[event(&general, seq, 10)]);
        here.relay.trouble()
    })
    .await;
    assert!(trouble.contains("short of memory"), "{trouble}");
    assert_eq!(there.relay.trouble(), None);
    broker
        .ctl(&["set_vm_memory_high_watermark", "0.4"])
        .await
        .unwrap();
    there
        .until("the last event", |told| {
            let last = told.events.last()?;
            (last.seq.get() == seq).then_some(())
        })
        .await;
    // Nothing was lost on the way, and no connection.
    let counts = (here.relay.counts(), there.relay.counts());
    assert_eq!((counts.0.dropped, counts.1.events_received), (0, seq));
    assert_eq!((counts.0.reconnects, counts.1.reconnects), (0, 0));
    here.relay.close().await;
    there.relay.close().await;
}

/// The same servers, with the broker behind a proxy.
async fn through_a_proxy(settings: &Settings) -> (testbed::Proxy, Settings) {
    let mut far = settings.clone();
    let (_, rest) = settings.rabbitmq.url.split_once('@').expect("a user");
    let (addr, _) = rest.split_once('/').expect("a virtual host");
    let proxy = testbed::Proxy::start(addr.parse().unwrap()).await.unwrap();
    far.rabbitmq.url = proxy.through(&settings.rabbitmq.url);
    (proxy, far)
}
