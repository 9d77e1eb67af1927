//! Servers, a publisher in the place of the log, and workers: in this process, or the program.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backend::cluster::settings::{Endpoint, Settings};
use backend::cluster::topology::{self, Topology};
use backend::cluster::{Mongo, Redis, Store, envelope, migrations};
use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use persistence_worker::Config;
use protocol::{Event, EventBody, MessageId, RoomId, Seq, Timestamp, UserId};
use testbed::{Proxy, RabbitMq, Servers, shared};
use tokio_util::sync::CancellationToken;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Bench {
    pub settings: Settings,
    pub mongo: Mongo,
    pub store: Store,
    pub redis: Redis,
    topology: Topology,
    connection: Connection,
    channel: Channel,
}

pub fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.to_owned(),
        verify: true,
        ca_file: None,
    }
}

/// Runs a test on the shared servers.
pub async fn with_bench(test: impl AsyncFnOnce(Bench)) {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    test(Bench::new(shared().await.clone()).await).await;
}

impl Bench {
    pub async fn new(servers: Servers) -> Self {
        let settings = Settings {
            redis: endpoint(&servers.redis_url),
            rabbitmq: endpoint(&servers.rabbitmq_url),
            mongodb: endpoint(&servers.mongodb_uri),
            namespace: testbed::namespace(),
            shards: 2,
            backlog_max: 100_000,
        };
        let mongo = Mongo::new(&settings).await.unwrap();
        migrations::migrate(&mongo).await.unwrap();
        let topology = Topology::new(&settings);
        let (connection, channel) = connect(&settings.rabbitmq.url).await;
        topology.declare(&channel).await.unwrap();
        topology.open_generation(&channel, 0).await.unwrap();
        Self {
            store: Store::new(mongo.clone()),
            mongo,
            redis: Redis::new(&settings).unwrap(),
            settings,
            topology,
            connection,
            channel,
        }
    }

    /// As pods do it: one envelope, on the broker's disk when this returns.
    pub async fn publish(&self, room: &RoomId, events: &[Event]) {
        let mut body = Vec::new();
        for event in events {
            envelope::push(&mut body, event);
        }
        self.publish_body(room, &body).await;
    }

    pub async fn publish_body(&self, room: &RoomId, body: &[u8]) {
        let shard = envelope::shard(room, self.settings.shards).to_string();
        let exchange = self.topology.persist_exchange(0);
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let confirm = self
            .channel
            .basic_publish(exchange.into(), shard.into(), options, body, properties)
            .await
            .unwrap();
        assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
    }

    /// After the broker was restarted.
    pub async fn reconnect(&mut self) {
        (self.connection, self.channel) = connect(&self.settings.rabbitmq.url).await;
    }

    /// Waits until a crash of the broker would keep the queues.
    pub async fn queues_are_written(&self, rabbitmq: &RabbitMq) {
        for shard in 0..self.settings.shards {
            let queue = self.topology.shard_queue(shard);
            rabbitmq.written(&queue).await.unwrap();
        }
        let dead = self.topology.dead_queue();
        rabbitmq.written(&dead).await.unwrap();
    }

    /// Takes queues of shards away and puts new ones in their places.
    pub async fn make_anew(&self, shards: &[u16]) {
        for shard in shards {
            self.topology
                .delete_shard(&self.channel, *shard)
                .await
                .unwrap();
            self.topology
                .declare_shard(&self.channel, *shard)
                .await
                .unwrap();
        }
        self.topology
            .open_generation(&self.channel, 0)
            .await
            .unwrap();
    }

    /// A worker in this process.
    pub async fn worker(&self) -> Worker {
        self.worker_with(self.settings.clone()).await
    }

    pub async fn worker_with(&self, settings: Settings) -> Worker {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let admin = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let config = Config {
            settings,
            admin_addr: admin,
            drain: Duration::from_secs(10),
        };
        let token = shutdown.clone();
        let running = tokio::spawn(persistence_worker::run(config, listener, token));
        Worker {
            admin,
            shutdown,
            running,
        }
    }

    /// The program, ready.
    pub async fn program(&self, rabbitmq_url: &str) -> Program {
        let admin = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = admin.local_addr().unwrap();
        drop(admin);
        let child = self
            .command(rabbitmq_url)
            .env("DARDA_ADMIN_ADDR", addr.to_string())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let program = Program { child, admin: addr };
        until("the worker is ready", async || {
            get(addr, "/readyz").await.0 == 200
        })
        .await;
        program
    }

    pub fn command(&self, rabbitmq_url: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_persistence-worker"));
        command
            .env_clear()
            .env("DARDA_REDIS_URL", &self.settings.redis.url)
            .env("DARDA_RABBITMQ_URL", rabbitmq_url)
            .env("DARDA_MONGODB_URI", &self.settings.mongodb.url)
            .env("DARDA_NAMESPACE", &self.settings.namespace)
            .env("DARDA_SHARDS", self.settings.shards.to_string());
        command
    }

    /// What `persistence-worker parked` says, and whether it went well.
    pub async fn parked(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = self.command(&self.settings.rabbitmq.url);
        command
            .env_remove("DARDA_MONGODB_URI")
            .env_remove("DARDA_REDIS_URL")
            .arg("parked")
            .args(arguments);
        outcome(command).await
    }

    /// What `persistence-worker index` says, and whether it went well.
    pub async fn index(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = self.command("");
        command
            .env_remove("DARDA_RABBITMQ_URL")
            .env_remove("DARDA_REDIS_URL")
            .arg("index")
            .args(arguments);
        outcome(command).await
    }

    /// What `persistence-worker shards` says, and whether it went well.
    pub async fn shards(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = self.command(&self.settings.rabbitmq.url);
        command.arg("shards").args(arguments);
        outcome(command).await
    }

    /// Consumes a room's shard by hand, over a connection of its own.
    pub async fn consumer(&self, url: &str, room: &RoomId, ahead: u16) -> Consumer {
        let (connection, channel) = connect(url).await;
        let qos = BasicQosOptions::default();
        channel.basic_qos(ahead, qos).await.unwrap();
        let queue = self
            .topology
            .shard_queue(envelope::shard(room, self.settings.shards));
        let options = BasicConsumeOptions::default();
        let deliveries = channel
            .basic_consume(queue.into(), "test".into(), options, FieldTable::default())
            .await
            .unwrap();
        Consumer {
            connection,
            channel,
            deliveries,
        }
    }

    /// Messages that wait in all shard queues, those in hand excepted.
    pub async fn waiting(&self) -> u32 {
        let mut waiting = 0;
        for shard in 0..self.settings.shards {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let name = self.topology.shard_queue(shard);
            let queue = self
                .channel
                .queue_declare(name.into(), options, FieldTable::default())
                .await
                .unwrap();
            waiting += queue.message_count();
        }
        waiting
    }

    /// A way to the broker that can be cut.
    pub async fn proxy(&self) -> Proxy {
        let url = &self.settings.rabbitmq.url;
        let addr = url
            .split('@')
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        let addr = addr.and_then(|addr| addr.parse().ok()).expect("an address");
        Proxy::start(addr).await.unwrap()
    }

    /// Everything that is stored of a room.
    pub async fn stored(&self, room: &RoomId) -> Vec<Event> {
        self.store
            .after(room, Seq::ZERO, 100_000)
            .await
            .unwrap_or_default()
    }

    /// Waits until a room has this many events.
    pub async fn stored_count(&self, room: &RoomId, count: usize) {
        let what = format!("{count} events of {room}");
        until(&what, async || self.stored(room).await.len() >= count).await;
    }

    /// Makes Redis know a room as the log would.
    pub async fn open_room(&self, room: &RoomId, seq: u64) {
        let mut head = redis::cmd("HSET");
        head.arg(self.redis.room_key(room, "head"));
        for (field, value) in [
            ("gen", 0),
            ("seq", seq),
            ("at", 1),
            ("safe", seq),
            ("persisted", 0),
            ("base", 0),
        ] {
            head.arg(field).arg(value);
        }
        self.redis.query::<i64>(&head).await.unwrap();
    }

    pub async fn mark(&self, room: &RoomId) -> u64 {
        let mut mark = redis::cmd("HGET");
        mark.arg(self.redis.room_key(room, "head")).arg("persisted");
        self.redis.query(&mark).await.unwrap_or(0)
    }
}

async fn outcome(mut command: Command) -> (bool, String) {
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

async fn connect(url: &str) -> (Connection, Channel) {
    let connection = topology::connect(&endpoint(url), "test").await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = ConfirmSelectOptions::default();
    channel.confirm_select(options).await.unwrap();
    (connection, channel)
}

pub struct Consumer {
    connection: Connection,
    channel: Channel,
    deliveries: lapin::Consumer,
}

impl Consumer {
    /// The seqs of the next envelopes of one event each.
    pub async fn take(&mut self, count: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            let next = tokio::time::timeout(PATIENCE, self.deliveries.next()).await;
            let delivery = next.expect("a delivery").unwrap().unwrap();
            let event = envelope::decode(&delivery.data).remove(0).unwrap();
            seqs.push(event.seq.get());
        }
        seqs
    }

    /// Closes the channel, and then the connection.
    pub async fn close(self) {
        self.channel.close(200, "done".into()).await.unwrap();
        self.connection.close(200, "done".into()).await.unwrap();
    }
}

pub struct Worker {
    pub admin: SocketAddr,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Worker {
    pub async fn ready(self) -> Self {
        until("the worker is ready", async || {
            get(self.admin, "/readyz").await.0 == 200
        })
        .await;
        self
    }

    pub async fn metric(&self, name: &str) -> f64 {
        metric(self.admin, name).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}

pub struct Program {
    pub child: Child,
    pub admin: SocketAddr,
}

impl Program {
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub async fn metric(&self, name: &str) -> f64 {
        metric(self.admin, name).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let url = format!("http://{addr}{path}");
    let got = tokio::task::spawn_blocking(move || {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(5)))
            .build()
            .new_agent();
        let mut answer = agent.get(&url).call().ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        Some((answer.status().as_u16(), text))
    });
    got.await.unwrap().unwrap_or((0, String::new()))
}

async fn metric(addr: SocketAddr, name: &str) -> f64 {
    let (_, text) = get(addr, "/metrics").await;
    text.lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")))
        .and_then(|value| value.parse().ok())
        .unwrap_or(f64::NAN)
}

/// Waits for a condition.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn room(name: &str) -> RoomId {
    RoomId::parse(name).unwrap()
}

pub fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

pub fn message(room: &RoomId, number: u64) -> Event {
    Event {
        room: room.clone(),
        seq: seq(number),
        prev: Some(seq(number - 1)),
        at: Timestamp::now(),
        from: Some(UserId::parse("alice").unwrap()),
        id: Some(MessageId::generate()),
        body: EventBody::Message {
            text: format!("number {number}"),
            reply_to: None,
            meta: None,
        },
    }
}

pub fn messages(room: &RoomId, numbers: impl IntoIterator<Item = u64>) -> Vec<Event> {
    numbers.into_iter().map(|n| message(room, n)).collect()
}

pub fn fence(room: &RoomId, number: u64) -> Event {
    Event {
        prev: None,
        from: None,
        id: None,
        body: EventBody::Fence {},
        ..message(room, number)
    }
}
