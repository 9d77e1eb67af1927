//! Presence of several processes over a real Redis.
#![cfg(feature = "cluster")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backend::cluster::presence::ClusterPresence;
use backend::cluster::relay::{ClusterRelay, PodId, Upstream};
use backend::cluster::settings::Endpoint;
use backend::cluster::{Redis, Settings};
use backend::conformance::presence as promises;
use backend::relay::{Signal, Sink};
use backend::{Backends, Config, Presence, Relay};
use protocol::{Event, RoomId, SessionId, Status, UserId};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use testbed::{Data, RedisOptions};

const MOST: usize = 3;

async fn family(test: impl AsyncFnOnce(&Backends)) {
    let Some(settings) = shared().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let mut family = backend::open(Config::Embedded { data_dir }).await.unwrap();
    let pod = Pod::start(&settings);
    family.presence = Arc::new(pod.presence.clone());
    family.relay = Arc::new(pod.relay.clone());
    test(&family).await;
    pod.close().await;
    family.health.close().await;
}

macro_rules! promises {
    ($($promise:ident),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $promise() {
            family(async |family| promises::$promise(family).await).await;
        })+
    };
}

promises!(
    sessions_make_users_online,
    idle_sessions_make_users_away,
    rooms_show_their_users,
    signals_are_sent_once,
    sessions_are_limited,
);

struct Pod {
    presence: ClusterPresence,
    relay: ClusterRelay,
    heard: Arc<Heard>,
}

/// What the process was told.
#[derive(Default)]
struct Heard(Mutex<Vec<(String, String, Status)>>);

impl Sink for Heard {
    fn events(&self, _: &[Arc<Event>]) {}

    fn signal(&self, signal: &Signal) {
        if let Signal::Presence {
            room, user, status, ..
        } = signal
        {
            let change = (room.to_string(), user.to_string(), *status);
            self.0.lock().unwrap().push(change);
        }
    }
}

impl Upstream for Heard {
    fn remote(&self, _: Vec<Arc<Event>>) {}
    fn watched(&self, _: &RoomId) {}
    fn unwatched(&self, _: &RoomId) {}
    fn lost(&self) {}
}

impl Pod {
    fn start(settings: &Settings) -> Self {
        let redis = Redis::new(settings).unwrap();
        let relay = ClusterRelay::new(settings, redis.clone(), PodId::generate());
        let heard = Arc::new(Heard::default());
        relay.attach(heard.clone());
        relay.start(heard.clone());
        let presence = ClusterPresence::start(redis, relay.clone());
        Self {
            presence,
            relay,
            heard,
        }
    }

    async fn close(&self) {
        self.presence.close().await;
        self.relay.close().await;
    }

    async fn connect(&self, name: &str) -> SessionId {
        let session = SessionId::generate();
        let connected = self.presence.connect(session, &user(name), MOST).await;
        connected.unwrap();
        session
    }

    async fn enter(&self, session: SessionId, id: &str) {
        self.presence.enter(session, &room(id)).await.unwrap();
    }

    async fn status(&self, name: &str) -> Status {
        let found = self.presence.status(&[user(name)]).await.unwrap();
        found[0].status
    }

    async fn present(&self, id: &str) -> Vec<String> {
        let present = self.presence.present(&room(id), 10).await.unwrap();
        assert_eq!(present.count, present.users.len() as u64);
        present.users.iter().map(ToString::to_string).collect()
    }

    fn heard(&self) -> Vec<(String, String, Status)> {
        self.heard.0.lock().unwrap().clone()
    }
}

async fn shared() -> Option<Settings> {
    if let Some(what) = testbed::missing() {
        println!("skipped: needs {what}");
        return None;
    }
    let servers = testbed::shared().await;
    Some(settings(&servers.redis_url, &servers.rabbitmq_url))
}

/// A Redis of the test's own, beside the broker of all.
async fn own_redis() -> Option<(testbed::Redis, Settings)> {
    let shared = shared().await?;
    let redis = testbed::Redis::start(RedisOptions::default())
        .await
        .unwrap();
    let settings = settings(&redis.url(), &shared.rabbitmq.url);
    Some((redis, settings))
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

fn change(room: &str, user: &str, status: Status) -> (String, String, Status) {
    (room.to_owned(), user.to_owned(), status)
}

async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looked = tokio::time::timeout(Duration::from_secs(20), async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    looked
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"));
}

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
    // One of the two has swept, and both heard it once. What bob does now comes after everything else.
    pods[0].presence.set_idle(bob, true).await.unwrap();
    for pod in &pods {
        let last = change("general", "bob", Status::Away);
        eventually("the last signal", async || pod.heard().contains(&last)).await;
        let gone = change("general", "alice", Status::Offline);
        assert_eq!(pod.heard(), [gone, last]);
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

/// What a process does at random, and what it has in the end.
struct Chance {
    pod: Arc<Pod>,
    sessions: Vec<Mine>,
}

struct Mine {
    id: SessionId,
    user: String,
    rooms: BTreeSet<String>,
    idle: bool,
}

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const ROOMS: [&str; 3] = ["general", "random", "lobby"];

impl Chance {
    async fn act(&mut self, random: &mut SmallRng) {
        let presence = &self.pod.presence;
        let name = USERS[random.random_range(0..USERS.len())];
        let at = random.random_range(0..self.sessions.len().max(1));
        let Some(mine) = self
            .sessions
            .get_mut(at)
            .filter(|_| random.random_ratio(9, 10))
        else {
            let id = SessionId::generate();
            let most = 1000;
            presence.connect(id, &user(name), most).await.unwrap();
            self.sessions.push(Mine {
                id,
                user: name.to_owned(),
                rooms: BTreeSet::new(),
                idle: false,
            });
            return;
        };
        let id = ROOMS[random.random_range(0..ROOMS.len())];
        match random.random_range(0..10) {
            0..4 => {
                presence.enter(mine.id, &room(id)).await.unwrap();
                mine.rooms.insert(id.to_owned());
            }
            4..6 => {
                presence.leave(mine.id, &room(id)).await.unwrap();
                mine.rooms.remove(id);
            }
            6..8 => {
                mine.idle = !mine.idle;
                presence.set_idle(mine.id, mine.idle).await.unwrap();
            }
            _ => {
                let gone = self.sessions.swap_remove(at);
                presence.disconnect(gone.id).await.unwrap();
            }
        }
    }
}

/// The status of each user, and who shows in which room with it.
type View = (Vec<Status>, BTreeMap<(String, String), Status>);

fn truth<'a>(sessions: impl Iterator<Item = &'a Mine> + Clone) -> View {
    let status = |user: &str| {
        let mut theirs = sessions.clone().filter(|mine| mine.user == user).peekable();
        if theirs.peek().is_none() {
            Status::Offline
        } else if theirs.all(|mine| mine.idle) {
            Status::Away
        } else {
            Status::Online
        }
    };
    let shown = sessions.clone().flat_map(|mine| {
        let rooms = mine.rooms.iter();
        rooms.map(|room| ((room.clone(), mine.user.clone()), status(&mine.user)))
    });
    (USERS.map(status).to_vec(), shown.collect())
}

async fn seen(pod: &Pod) -> View {
    let mut shown = BTreeMap::new();
    for id in ROOMS {
        for user in pod.present(id).await {
            let status = pod.status(&user).await;
            shown.insert((id.to_owned(), user), status);
        }
    }
    let mut statuses = Vec::new();
    for name in USERS {
        statuses.push(pod.status(name).await);
    }
    (statuses, shown)
}

/// Who shows in which room after all that was heard.
fn heard(pod: &Pod) -> BTreeMap<(String, String), Status> {
    let mut shown = BTreeMap::new();
    for (room, user, status) in pod.heard() {
        if status == Status::Offline {
            shown.remove(&(room, user));
        } else {
            shown.insert((room, user), status);
        }
    }
    shown
}

async fn assert_agreed(what: &str, chances: &[Chance]) {
    let (statuses, shown) = truth(chances.iter().flat_map(|chance| &chance.sessions));
    for (n, Chance { pod, .. }) in chances.iter().enumerate() {
        let looked = tokio::time::timeout(Duration::from_secs(20), async {
            while seen(pod).await != (statuses.clone(), shown.clone()) || heard(pod) != shown {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if looked.await.is_err() {
            let (seen, heard) = (seen(pod).await, heard(pod));
            panic!(
                "after {what}, pod {n}: true {statuses:?} {shown:?}\nseen {seen:?}\nheard {heard:?}"
            );
        }
    }
}

/// Everybody acts at random, all at once.
async fn act(chances: &mut Vec<Chance>, seed: u64, times: usize) {
    let acting = chances.drain(..).enumerate().map(|(n, mut chance)| {
        let mut random = SmallRng::seed_from_u64(seed + n as u64);
        tokio::spawn(async move {
            for _ in 0..times {
                chance.act(&mut random).await;
            }
            chance
        })
    });
    let acting: Vec<_> = acting.collect();
    for chance in acting {
        chances.push(chance.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_all_agree_in_the_end() {
    let Some(settings) = shared().await else {
        return;
    };
    let seed = u64::from(rand::random::<u32>());
    println!("seed {seed}");
    let mut chances = Vec::new();
    for _ in 0..3 {
        let pod = Arc::new(Pod::start(&settings));
        for id in ROOMS {
            pod.relay.watch(&room(id));
        }
        chances.push(Chance {
            pod,
            sessions: Vec::new(),
        });
    }
    let redis = Redis::new(&settings).unwrap();
    let routes = ROOMS.map(|id| redis.room_key(&room(id), "pods"));
    eventually("the routes", async || {
        let found: Vec<Vec<String>> = redis
            .call("darda_relay_routes", &routes, &[])
            .await
            .unwrap();
        let connected = chances.iter().all(|c| c.pod.relay.trouble().is_none());
        connected && found.iter().all(|pods| pods.len() == 3)
    })
    .await;

    for round in 0..5 {
        act(&mut chances, seed + 10 * round, 200).await;
        assert_agreed("quiet times", &chances).await;
    }
    // Redis loses everything while all go on.
    for round in 5..15 {
        let mut losing = redis::cmd("EVAL");
        let lose =
            "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
        losing.arg(lose).arg(0).arg(redis.key("presence:*"));
        let (_, lost) = tokio::join!(act(&mut chances, seed + 10 * round, 100), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            redis.query::<()>(&losing).await
        });
        lost.unwrap();
        assert_agreed("a loss", &chances).await;
    }
    for chance in &chances {
        chance.pod.close().await;
    }
}

/// The functions in Redis, called as processes call them.
struct Functions {
    redis: Redis,
    prefix: [String; 1],
}

type Announced = Vec<(String, String, String)>;

impl Functions {
    fn new(settings: &Settings) -> Self {
        let redis = Redis::new(settings).unwrap();
        let prefix = [redis.key("presence:")];
        Self { redis, prefix }
    }

    async fn call<T: redis::FromRedisValue>(&self, function: &str, arguments: &str) -> T {
        let arguments: Vec<_> = arguments.split(' ').map(str::as_bytes).collect();
        let name = format!("darda_presence_{function}");
        let answer = self.redis.call(&name, &self.prefix, &arguments).await;
        answer.unwrap()
    }

    /// Opens a lease of so many ms; whether Redis knows of the one before.
    async fn open(&self, lease: &str, length_ms: u32, before: &str) -> bool {
        let known: u8 = self
            .call("open", &format!("{lease} {length_ms} {before}"))
            .await;
        known == 1
    }

    /// Reports one user; how many candidates were admitted, and what is announced.
    async fn report(&self, lease: &str, report: &str) -> (usize, Announced) {
        let (held, _, answers, told): (u8, u64, Vec<(usize, String)>, Vec<Vec<String>>) =
            self.call("report", &format!("{lease} {report}")).await;
        assert_eq!(held, 1);
        let told = told
            .into_iter()
            .map(|told| (told[0].clone(), told[1].clone(), told[2].clone()));
        (answers[0].0, told.collect())
    }

    async fn lose_everything(&self) {
        let mut lose = redis::cmd("EVAL");
        lose.arg("for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end")
            .arg(0)
            .arg(format!("{}*", self.prefix[0]));
        self.redis.query::<()>(&lose).await.unwrap();
    }
}

fn told(room: &str, user: &str, status: &str) -> (String, String, String) {
    (room.to_owned(), user.to_owned(), status.to_owned())
}

#[tokio::test]
async fn who_left_one_process_after_a_loss_still_shows_by_another() {
    let Some(settings) = shared().await else {
        return;
    };
    let redis = Functions::new(&settings);
    for lease in ["a", "b"] {
        redis.open(lease, 9000, "").await;
        redis.report(lease, "alice 1 0 0 3  1 general 1 0").await;
    }
    redis.lose_everything().await;
    assert!(!redis.open("b2", 9000, "b").await);
    // The first process back says that she left; it cannot know that another one still has her.
    let left = redis
        .report("b2", "alice 0 0 0 3 online 1 general 0 1")
        .await;
    assert_eq!(left.1, [told("general", "alice", "offline")]);
    assert!(!redis.open("a2", 9000, "a").await);
    let back = redis
        .report("a2", "alice 1 0 0 3 online 1 general 1 1")
        .await;
    assert_eq!(back.1, [told("general", "alice", "online")]);
    let again = redis
        .report("a2", "alice 1 0 0 3 online 1 general 1 1")
        .await;
    assert_eq!(again.1, []);
}

#[tokio::test]
async fn what_may_not_have_been_announced_is_announced_again() {
    let Some(settings) = shared().await else {
        return;
    };
    let redis = Functions::new(&settings);
    redis.open("a", 9000, "").await;
    let enter = "alice 1 0 0 3  1 general 1 0";
    let online = [told("general", "alice", "online")];
    assert_eq!(redis.report("a", enter).await.1, online);
    // The answer was lost: the same again.
    assert_eq!(redis.report("a", enter).await.1, online);
    let idle = redis.report("a", "alice 1 1 0 3 online 0").await;
    assert_eq!(idle.1, [told("general", "alice", "away")]);
    let uncertain = redis.report("a", "alice 1 1 0 3 ? 0").await;
    assert_eq!(uncertain.1, [told("general", "alice", "away")]);
    let certain = redis.report("a", "alice 1 1 0 3 away 0").await;
    assert_eq!(certain.1, []);
}

#[tokio::test]
async fn a_lease_that_has_ended_counts_for_nothing_and_is_swept_once() {
    let Some(settings) = shared().await else {
        return;
    };
    let redis = Functions::new(&settings);
    redis.open("a", 300, "").await;
    redis.open("b", 9000, "").await;
    let (admitted, _) = redis.report("a", "alice 0 0 2 3  1 general 1 0").await;
    assert_eq!(admitted, 2);
    let (admitted, _) = redis.report("b", "alice 0 0 2 3  1 general 1 0").await;
    assert_eq!(admitted, 1);
    let mut ended = Vec::new();
    eventually("the end", async || {
        let (held, found): (u8, Vec<String>) = redis.call("renew", "b 9000").await;
        assert_eq!(held, 1);
        ended = found;
        !ended.is_empty()
    })
    .await;
    assert_eq!(ended, ["a"]);
    let (held, _): (u8, Vec<String>) = redis.call("renew", "a 9000").await;
    assert_eq!(held, 0);
    let (held, _, _, _): (u8, u64, Vec<(usize, String)>, Vec<Vec<String>>) =
        redis.call("report", "a alice 3 0 0 3  0").await;
    assert_eq!(held, 0);
    // The dead process's two are in nobody's way.
    let (admitted, _) = redis.report("b", "alice 1 0 2 3 online 0").await;
    assert_eq!(admitted, 2);
    redis
        .report("b", "alice 0 0 0 3 online 1 general 0 1")
        .await;
    let states: Vec<(String, i64)> = redis.call("status", "alice").await;
    assert_eq!(states[0].0, "offline");

    let (more, _, announced): (u8, u64, Vec<Vec<String>>) = redis.call("sweep", "a").await;
    assert_eq!((more, announced.len()), (0, 1));
    assert_eq!(announced[0][..3], ["general", "alice", "offline"]);
    let (more, _, announced): (u8, u64, Vec<Vec<String>>) = redis.call("sweep", "a").await;
    assert_eq!((more, announced.len()), (0, 0));
    // Whoever had that lease knows that all was announced.
    assert!(redis.open("a2", 9000, "a").await);
}
