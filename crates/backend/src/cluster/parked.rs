//! The parking queue: lines of envelopes that cannot be stored, each with the reason, until a person decides.

use std::time::Duration;

use ::lapin as driver;
use driver::message::{BasicGetMessage, Delivery};
use driver::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use driver::types::{AMQPValue, FieldTable, ShortString};
use driver::{BasicProperties, Channel, Confirmation, Connection};
use protocol::{Event, RoomId, Seq, Timestamp};
use tokio::sync::Mutex;

use super::envelope;
use super::settings::{Broker, Endpoint};
use super::topology::{self, Topology};
use crate::{Error, Result};

pub const REASON_HEADER: &str = "x-darda-reason";
pub const ROOM_HEADER: &str = "x-darda-room";
pub const SEQ_HEADER: &str = "x-darda-seq";
/// Marks an envelope that a person sent again: its events may take the place of what was put there for them.
pub const REPLAY_HEADER: &str = "x-darda-replay";

/// Parked messages that are looked at; there may be more behind them.
pub const LOOK_MAX: usize = 10_000;
/// How long the broker may take for one act.
const WITHIN: Duration = Duration::from_secs(10);
const PERSISTENT: u8 = 2;

/// A line that cannot be stored, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    pub line: Vec<u8>,
    pub reason: String,
    pub room: Option<RoomId>,
    pub seq: Option<Seq>,
}

/// A parked message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Names it as long as it is parked.
    pub id: String,
    pub at: Option<Timestamp>,
    /// One line, or a whole envelope where the broker itself gave up.
    pub unfit: Unfit,
}

/// What became of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It is in the queue of its shard, and no longer parked.
    Sent,
    /// It names no room, so it has no shard. It stays parked.
    Placeless,
}

/// The way to the parking queue. Connects when it is needed.
pub struct Lot {
    rabbitmq: Endpoint,
    topology: Topology,
    connection: Mutex<Option<(Connection, Channel)>>,
}

impl Lot {
    #[must_use]
    pub fn new(broker: &Broker) -> Self {
        Self {
            rabbitmq: broker.rabbitmq.clone(),
            topology: Topology::of_broker(broker),
            connection: Mutex::default(),
        }
    }

    /// Parks a line. When this returns the broker has it on disk.
    ///
    /// # Errors
    /// `Unavailable`; then the line may be parked all the same.
    pub async fn park(&self, unfit: &Unfit) -> Result<()> {
        let mut headers = FieldTable::default();
        headers.insert(REASON_HEADER.into(), text(&unfit.reason));
        if let Some(room) = &unfit.room {
            headers.insert(ROOM_HEADER.into(), text(room.as_str()));
        }
        if let Some(seq) = unfit.seq {
            let seq = AMQPValue::LongLongInt(seq.get().cast_signed());
            headers.insert(SEQ_HEADER.into(), seq);
        }
        let id = uuid::Uuid::now_v7().to_string();
        let properties = properties(headers)
            .with_message_id(id.into())
            .with_timestamp(Timestamp::now().as_millis().unsigned_abs() / 1000);
        let channel = self.channel().await?;
        let exchange = self.topology.dead_exchange();
        let published = publish(&channel, &exchange, "", &unfit.line, properties).await;
        self.check(published).await
    }

    /// The oldest parked messages, at most `limit` of them.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list(&self, limit: usize) -> Result<Vec<Parked>> {
        let listed = self
            .each(limit, async |delivery, _| {
                Ok((Some(parked(delivery)), Verdict::Keep))
            })
            .await;
        self.check(listed).await
    }

    /// Sends parked messages to their shards again: the one of this id, or all.
    ///
    /// # Errors
    /// `Unavailable`; then some may be sent, and some sent and still parked.
    pub async fn replay(&self, id: Option<&str>) -> Result<Vec<(Parked, Replay)>> {
        let shards = self.topology.shards;
        let replayed = self
            .each(LOOK_MAX, async |delivery, channel: Channel| {
                let parked = parked(delivery);
                if id.is_some_and(|id| id != parked.id) {
                    return Ok((None, Verdict::Keep));
                }
                let Some(room) = room_of(&parked.unfit) else {
                    return Ok((Some((parked, Replay::Placeless)), Verdict::Keep));
                };
                let queue = self.topology.shard_queue(envelope::shard(&room, shards));
                let mut headers = FieldTable::default();
                headers.insert(REPLAY_HEADER.into(), AMQPValue::LongInt(1));
                let line = &parked.unfit.line;
                publish(&channel, "", &queue, line, properties(headers)).await?;
                Ok((Some((parked, Replay::Sent)), Verdict::Remove))
            })
            .await;
        self.check(replayed).await
    }

    /// Throws a parked message away. Answers it, if there was one.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn discard(&self, id: &str) -> Result<Option<Parked>> {
        let dropped = self
            .each(LOOK_MAX, async |delivery, _| {
                let parked = parked(delivery);
                Ok(if parked.id == id {
                    (Some(parked), Verdict::Remove)
                } else {
                    (None, Verdict::Keep)
                })
            })
            .await;
        Ok(self.check(dropped).await?.pop())
    }

    /// Looks at parked messages in order. Those that are kept go back when the channel is closed, in the same order.
    async fn each<T>(
        &self,
        limit: usize,
        mut look: impl AsyncFnMut(&Delivery, Channel) -> Result<(Option<T>, Verdict)>,
    ) -> Result<Vec<T>> {
        let connection = topology::connect(&self.rabbitmq, "darda parked").await?;
        let (reading, writing) = (open(&connection).await?, open(&connection).await?);
        self.topology.declare(&reading).await?;
        let queue = self.topology.dead_queue();
        let mut found = Vec::new();
        let mut left = waiting(&reading, &queue).await?;
        while found.len() < limit && left > 0 {
            left -= 1;
            let get = reading.basic_get(queue.as_str().into(), BasicGetOptions::default());
            let Some(BasicGetMessage { delivery, .. }) = within(get).await? else {
                break;
            };
            let (one, verdict) = look(&delivery, writing.clone()).await?;
            found.extend(one);
            if verdict == Verdict::Remove {
                within(delivery.acker.ack(BasicAckOptions::default())).await?;
            }
        }
        within(connection.close(200, "done".into())).await?;
        Ok(found)
    }

    /// A channel that confirms.
    async fn channel(&self) -> Result<Channel> {
        let mut connection = self.connection.lock().await;
        if let Some((_, channel)) = &*connection
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        let new = topology::connect(&self.rabbitmq, "darda park").await?;
        let channel = open(&new).await?;
        self.topology.declare(&channel).await?;
        *connection = Some((new, channel.clone()));
        Ok(channel)
    }

    /// Gives up the connection after trouble.
    async fn check<T>(&self, done: Result<T>) -> Result<T> {
        if done.is_err() {
            *self.connection.lock().await = None;
        }
        done
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Remove,
}

async fn open(connection: &Connection) -> Result<Channel> {
    let channel = within(connection.create_channel()).await?;
    within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}

/// Publishes, and waits until the broker has the message on disk.
async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<()> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let publish = async {
        channel
            .basic_publish(exchange.into(), key.into(), options, body, properties)
            .await?
            .await
    };
    match within(publish).await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) => Err(Error::unavailable("rabbitmq: no queue takes it")),
        Confirmation::Nack(_) | Confirmation::NotRequested => {
            Err(Error::unavailable("rabbitmq: it was not taken"))
        }
    }
}

async fn within<T>(act: impl Future<Output = driver::Result<T>>) -> Result<T> {
    tokio::time::timeout(WITHIN, act)
        .await
        .map_err(|_| Error::unavailable("rabbitmq: no answer in time"))?
        .map_err(|e| topology::trouble(&e))
}

/// How many messages are in a queue.
async fn waiting(channel: &Channel, queue: &str) -> Result<u32> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare(queue.into(), options, FieldTable::default());
    Ok(within(queue).await?.message_count())
}

fn properties(headers: FieldTable) -> BasicProperties {
    let mut headers = headers;
    let version = AMQPValue::LongInt(envelope::VERSION.cast_signed());
    headers.insert(envelope::VERSION_HEADER.into(), version);
    BasicProperties::default()
        .with_content_type(envelope::CONTENT_TYPE.into())
        .with_delivery_mode(PERSISTENT)
        .with_headers(headers)
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn parked(delivery: &Delivery) -> Parked {
    let properties = &delivery.properties;
    let headers = properties.headers().clone().unwrap_or_default();
    let header = |name: &str| headers.inner().get(name);
    let word = |name| match header(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    };
    let reason = word(REASON_HEADER)
        .or_else(|| {
            Some(format!(
                "the broker gave up: {}",
                word("x-first-death-reason")?
            ))
        })
        .unwrap_or_else(|| "not known".to_owned());
    let id = properties.message_id().as_ref().map(ShortString::to_string);
    Parked {
        id: id.unwrap_or_else(|| format!("{:08x}", crc32fast::hash(&delivery.data))),
        at: properties
            .timestamp()
            .and_then(|secs| i64::try_from(secs).ok())
            .map(|secs| Timestamp::from_millis(secs.saturating_mul(1000))),
        unfit: Unfit {
            line: delivery.data.clone(),
            reason,
            room: word(ROOM_HEADER).and_then(|room| RoomId::parse(&room).ok()),
            seq: match header(SEQ_HEADER) {
                Some(AMQPValue::LongLongInt(seq)) => Seq::new(seq.unsigned_abs()).ok(),
                _ => None,
            },
        },
    }
}

/// The room whose shard a parked message belongs to.
fn room_of(unfit: &Unfit) -> Option<RoomId> {
    unfit.room.clone().or_else(|| {
        let mut events = envelope::decode(&unfit.line).into_iter().flatten();
        events.next().map(|Event { room, .. }| room)
    })
}
