//! What the family keeps in RabbitMQ, with every argument explicit, so that versions with other defaults (3.10, 4.x)
//! make the same of it.

use std::time::Duration;

use ::lapin as driver;
use driver::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use driver::tcp::{AMQPUriTcpExt as _, RustlsConnector};
use driver::types::{AMQPValue, FieldTable, LongString, ShortString};
use driver::uri::{AMQPScheme, AMQPUri};
use driver::{Channel, Connection, ConnectionProperties, ExchangeKind};

use super::settings::{Broker, Endpoint, RABBITMQ};
use super::{Settings, trust};
use crate::{Error, Result};

/// Bytes that may wait in a shard queue; beyond that the broker refuses, and senders are told so.
const SHARD_BYTES_MAX: i64 = 4 * 1024 * 1024 * 1024;
/// Bytes that may wait for a pod; beyond that the oldest go, and the pod reads them from the log.
const RELAY_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// Deliveries of one message before it is parked. Far above what restarts of workers cause; RabbitMQ 4 would take 20.
const DELIVERIES_MAX: i64 = 1_000_000;
/// A broker says something this often; its own default would be a minute.
const HEARTBEAT_SECS: u16 = 10;
/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// The names of this installation's queues and exchanges.
#[derive(Clone, Debug)]
pub struct Topology {
    namespace: String,
    pub shards: u16,
}

impl Topology {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self::of_broker(&settings.broker())
    }

    #[must_use]
    pub fn of_broker(broker: &Broker) -> Self {
        Self {
            namespace: broker.namespace.clone(),
            shards: broker.shards,
        }
    }

    /// The exchange that leads into the log while generation `generation` is open.
    #[must_use]
    pub fn persist_exchange(&self, generation: u64) -> String {
        format!("{}.persist.{generation}", self.namespace)
    }

    /// The queue of a shard, consumed by one worker at a time.
    #[must_use]
    pub fn shard_queue(&self, shard: u16) -> String {
        format!("{}.persist.shard.{shard}", self.namespace)
    }

    #[must_use]
    pub fn dead_exchange(&self) -> String {
        format!("{}.dead", self.namespace)
    }

    /// Where envelopes are parked that cannot be stored.
    #[must_use]
    pub fn dead_queue(&self) -> String {
        format!("{}.persist.dead", self.namespace)
    }

    #[must_use]
    pub fn relay_exchange(&self) -> String {
        format!("{}.relay", self.namespace)
    }

    /// The queue of one pod's connection `number`. A broker that has not noticed the end of a connection still holds its
    /// exclusive queue, so each has its own.
    #[must_use]
    pub fn relay_queue(&self, pod: &str, number: u64) -> String {
        format!("{}.relay.{pod}.{number}", self.namespace)
    }

    /// Declares everything that may be declared at any time: all but the exchanges of generations.
    ///
    /// # Errors
    /// `Unavailable`, also when something of the name exists with other arguments.
    pub async fn declare(&self, channel: &Channel) -> Result<()> {
        exchange(channel, &self.relay_exchange(), ExchangeKind::Direct).await?;
        self.declare_parking(channel).await?;
        for shard in 0..self.shards {
            self.declare_shard(channel, shard).await?;
        }
        Ok(())
    }

    /// Declares where envelopes are parked.
    ///
    /// # Errors
    /// As [`Topology::declare`].
    pub async fn declare_parking(&self, channel: &Channel) -> Result<()> {
        exchange(channel, &self.dead_exchange(), ExchangeKind::Fanout).await?;
        let dead = arguments([
            ("x-queue-type", text("quorum")),
            ("x-overflow", text("reject-publish")),
            ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERIES_MAX)),
        ]);
        let name = self.dead_queue();
        queue(channel, &name, durable(), dead).await?;
        bind(channel, &name, &self.dead_exchange(), "").await
    }

    /// Declares the queue of one shard.
    ///
    /// # Errors
    /// As [`Topology::declare`].
    pub async fn declare_shard(&self, channel: &Channel, shard: u16) -> Result<()> {
        let arguments = arguments([
            ("x-queue-type", text("quorum")),
            ("x-single-active-consumer", AMQPValue::Boolean(true)),
            (
                "x-max-length-bytes",
                AMQPValue::LongLongInt(SHARD_BYTES_MAX),
            ),
            ("x-overflow", text("reject-publish")),
            ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERIES_MAX)),
            ("x-dead-letter-exchange", text(&self.dead_exchange())),
            ("x-dead-letter-strategy", text("at-least-once")),
        ]);
        queue(channel, &self.shard_queue(shard), durable(), arguments).await
    }

    /// Deletes the queue of one shard, with everything in it and even when the broker has lost what it consists of.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn delete_shard(&self, channel: &Channel, shard: u16) -> Result<()> {
        let name = self.shard_queue(shard);
        channel
            .queue_delete(name.into(), QueueDeleteOptions::default())
            .await
            .map(drop)
            .map_err(|e| trouble(&e))
    }

    /// What [`Topology::declare`] would make: the names of exchanges and queues that are not there. Changes nothing. Bindings and
    /// arguments cannot be asked for.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn missing(&self, connection: &Connection) -> Result<Vec<String>> {
        let queues = [self.dead_queue()].into_iter();
        let queues = queues.chain((0..self.shards).map(|shard| self.shard_queue(shard)));
        let mut missing = Vec::new();
        for (name, kind) in self.exchanges() {
            let channel = connection.create_channel().await.map_err(|e| trouble(&e))?;
            if !has_exchange(&channel, &name, kind).await? {
                missing.push(name);
            }
        }
        for name in queues {
            let channel = connection.create_channel().await.map_err(|e| trouble(&e))?;
            if !has_queue(&channel, &name).await? {
                missing.push(name);
            }
        }
        Ok(missing)
    }

    /// Those that belong to no generation.
    fn exchanges(&self) -> [(String, ExchangeKind); 2] {
        [
            (self.dead_exchange(), ExchangeKind::Fanout),
            (self.relay_exchange(), ExchangeKind::Direct),
        ]
    }

    /// Makes and binds the exchange of a generation. Only for whoever raises it, once.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn open_generation(&self, channel: &Channel, generation: u64) -> Result<()> {
        let name = self.persist_exchange(generation);
        exchange(channel, &name, ExchangeKind::Direct).await?;
        for shard in 0..self.shards {
            bind(channel, &self.shard_queue(shard), &name, &shard.to_string()).await?;
        }
        Ok(())
    }

    /// Takes the exchange of a generation away: nothing published to it enters a queue any more.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn close_generation(&self, channel: &Channel, generation: u64) -> Result<()> {
        channel
            .exchange_delete(
                self.persist_exchange(generation).into(),
                ExchangeDeleteOptions::default(),
            )
            .await
            .map_err(|e| trouble(&e))
    }

    /// Declares and binds a relay queue of a pod.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn declare_relay(&self, channel: &Channel, pod: &str, number: u64) -> Result<()> {
        let name = self.relay_queue(pod, number);
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let arguments = arguments([
            ("x-queue-type", text("classic")),
            (
                "x-max-length-bytes",
                AMQPValue::LongLongInt(RELAY_BYTES_MAX),
            ),
            ("x-overflow", text("drop-head")),
        ]);
        queue(channel, &name, options, arguments).await?;
        bind(channel, &name, &self.relay_exchange(), pod).await?;
        bind(channel, &name, &self.relay_exchange(), EVERY_POD).await
    }
}

/// The routing key on which every pod listens.
pub const EVERY_POD: &str = "*";

/// Connects to the broker. A connection on which nothing comes any more, though nobody has closed it, ends after
/// [`HEARTBEAT_SECS`] or twice that, unless the URL says otherwise.
///
/// # Errors
/// `Unavailable` when there is no connection within three seconds; `Refused` when the certificate file cannot be read.
pub async fn connect(endpoint: &Endpoint, name: &str) -> Result<Connection> {
    attempt(endpoint, name).await?.map_err(|e| trouble(&e))
}

/// As [`connect`] for callers who tell errors apart: the inner result is what the broker refused.
///
/// # Errors
/// As [`connect`].
pub async fn attempt(
    endpoint: &Endpoint,
    name: &str,
) -> Result<std::result::Result<Connection, driver::Error>> {
    let properties = ConnectionProperties::default().with_connection_name(LongString::from(name));
    let mut uri: AMQPUri = endpoint
        .url
        .parse()
        .map_err(|why| Error::Refused(format!("{}: {why}", RABBITMQ.url)))?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECS);
    let tls = match uri.scheme {
        AMQPScheme::AMQP => None,
        AMQPScheme::AMQPS => {
            let config = trust::client(endpoint)
                .map_err(|why| Error::Refused(format!("{}: {why}", RABBITMQ.ca_file)))?;
            Some(RustlsConnector::from(config))
        }
    };
    let runtime = driver::runtime::default_runtime().map_err(|e| trouble(&e))?;
    let greet = async move |mut uri: AMQPUri, runtime| {
        // The driver would choose the authorities by itself.
        uri.scheme = AMQPScheme::AMQP;
        let stream = uri.connect_async(&runtime).await?;
        Ok(match &tls {
            Some(tls) => stream.into_rustls(tls, &uri.authority.host).await?,
            None => stream,
        })
    };
    let connecting = Connection::connector(uri, runtime, greet, properties);
    tokio::time::timeout(CONNECT_WITHIN, connecting)
        .await
        .map_err(|_| Error::unavailable("rabbitmq: no connection in time"))
}

/// What a caller can do about an error of the driver.
#[must_use]
pub fn trouble(error: &driver::Error) -> Error {
    let why = RABBITMQ.explain(&error.to_string());
    Error::unavailable(format!("rabbitmq: {why}"))
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    }
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

fn arguments<const N: usize>(pairs: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(ShortString::from(name), value);
    }
    table
}

async fn exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<()> {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(name.into(), kind, options, FieldTable::default())
        .await
        .map_err(|e| trouble(&e))
}

/// A broker that does not know the name closes the channel.
async fn has_exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<bool> {
    let options = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    let there = channel.exchange_declare(name.into(), kind, options, FieldTable::default());
    is_there(channel, there.await).await
}

async fn has_queue(channel: &Channel, name: &str) -> Result<bool> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let there = channel.queue_declare(name.into(), options, FieldTable::default());
    is_there(channel, there.await.map(drop)).await
}

async fn is_there(channel: &Channel, there: driver::Result<()>) -> Result<bool> {
    match there {
        Ok(()) => channel
            .close(200, "looked".into())
            .await
            .map(|()| true)
            .map_err(|e| trouble(&e)),
        Err(error) if code(&error) == Some(NOT_FOUND) => Ok(false),
        Err(error) => Err(trouble(&error)),
    }
}

const NOT_FOUND: u16 = 404;

/// The number by which the broker refused, if it did.
#[must_use]
pub fn code(error: &driver::Error) -> Option<u16> {
    match error.kind() {
        driver::ErrorKind::ProtocolError(refusal) => Some(refusal.get_id()),
        _ => None,
    }
}

async fn queue(
    channel: &Channel,
    name: &str,
    options: QueueDeclareOptions,
    arguments: FieldTable,
) -> Result<()> {
    channel
        .queue_declare(name.into(), options, arguments)
        .await
        .map(drop)
        .map_err(|e| trouble(&e))
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<()> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .map_err(|e| trouble(&e))
}
