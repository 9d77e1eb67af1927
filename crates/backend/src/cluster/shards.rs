//! Looks after the queues of the shards: finds those that nobody can consume, and makes them anew.
//!
//! A full disk or a damaged folder can leave RabbitMQ with a quorum queue that it lists and cannot use: who subscribes is
//! told `541 INTERNAL_ERROR`, for ever. Such queues are deleted, with what is in them. That loses nothing, for Redis keeps
//! every event until it is stored:
//!
//! 1. What Redis has of the shards and MongoDB has not is stored. As nobody can consume the queues, no fence of their
//!    rooms is stored meanwhile, so that nothing comes behind one.
//! 2. The generation is raised. Its exchange is gone: nothing is confirmed any more.
//! 3. What was confirmed in between is stored, the queues are deleted and made anew, the next generation is opened.

use std::sync::Arc;
use std::time::Duration;

use ::lapin as driver;
use ::redis::Value;
use driver::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use driver::types::FieldTable;
use driver::{Connection, Queue};
use protocol::{RoomId, Seq};
use tokio::time::Instant;

use super::generation::Generations;
use super::log::entry;
use super::persisted::{self, Head};
use super::settings::{Broker, Endpoint};
use super::topology::{self, Topology};
use super::{Mongo, Redis, Settings, Store, envelope};
use crate::{Error, Result};

/// How long the broker may take for one act.
const WITHIN: Duration = Duration::from_secs(10);
/// A queue that cannot be consumed for so long is lost, and how often it is looked at meanwhile.
const RECOVERS_WITHIN: Duration = Duration::from_secs(15);
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Events that are read and stored at a time.
const PAGE: usize = 500;
/// Rooms that an error names, and contradictions.
const NAMED: usize = 5;

/// How the queue of a shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    pub shard: u16,
    /// Envelopes that wait; none when the broker cannot tell.
    pub waiting: Option<u32>,
    /// Processes that have subscribed, this one excepted. The first is given everything, the others stand by.
    pub consumers: Option<u32>,
    /// Why nobody can consume it.
    pub trouble: Option<String>,
}

/// What was made anew, and what was stored for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub shards: Vec<u16>,
    pub rooms: u64,
    pub events: u64,
    /// Events that were left out, because something else is stored in their places; a few of them are named.
    pub contradictions: Vec<String>,
}

/// Looks at the queue of every shard. One that cannot be consumed is looked at again for a while: a broker that has just
/// started says the same of queues that have no leader yet.
///
/// # Errors
/// `Unavailable` when the broker cannot be reached.
pub async fn look(broker: &Broker) -> Result<Vec<Looked>> {
    let topology = Topology::of_broker(broker);
    let begun = Instant::now();
    let mut looked = Vec::new();
    for shard in 0..topology.shards {
        looked.push(look_at(&broker.rabbitmq, &topology, shard).await?);
    }
    while begun.elapsed() < RECOVERS_WITHIN && looked.iter().any(|one| one.trouble.is_some()) {
        tokio::time::sleep(LOOK_PAUSE).await;
        for one in looked.iter_mut().filter(|one| one.trouble.is_some()) {
            *one = look_at(&broker.rabbitmq, &topology, one.shard).await?;
        }
    }
    Ok(looked)
}

/// Over a connection of its own, which the broker closes when it has lost the queue.
async fn look_at(rabbitmq: &Endpoint, topology: &Topology, shard: u16) -> Result<Looked> {
    let connection = topology::connect(rabbitmq, "darda shards").await?;
    let queue = topology.shard_queue(shard);
    let asked = tokio::time::timeout(WITHIN, ask(&connection, &queue)).await;
    // It may be closed already.
    let _ = connection.close(200, "done".into()).await;
    let mut looked = Looked {
        shard,
        waiting: None,
        consumers: None,
        trouble: None,
    };
    match asked {
        Ok(Ok(declared)) => {
            looked.waiting = Some(declared.message_count());
            looked.consumers = Some(declared.consumer_count());
        }
        // The broker says that it cannot. Whatever else there is may pass.
        Ok(Err(error)) if topology::code(&error).is_some() => {
            looked.trouble = Some(error.to_string());
        }
        Ok(Err(error)) => return Err(topology::trouble(&error)),
        Err(_) => return Err(Error::unavailable("rabbitmq: no answer in time")),
    }
    Ok(looked)
}

/// Subscribes to a queue for a moment.
async fn ask(connection: &Connection, queue: &str) -> driver::Result<Queue> {
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let nothing = FieldTable::default;
    let declared = channel
        .queue_declare(queue.into(), passive, nothing())
        .await?;
    // As little as possible, should this process be the first to subscribe. It goes back at the end.
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(queue.into(), "look".into(), options, nothing())
        .await?;
    channel.close(200, "done".into()).await?;
    Ok(declared)
}

/// Makes queues of shards anew.
pub struct Rebuild {
    redis: Redis,
    store: Store,
    generations: Arc<Generations>,
    broker: Broker,
    topology: Topology,
}

impl Rebuild {
    /// # Errors
    /// `Refused` when the settings cannot be used.
    pub async fn new(settings: &Settings) -> Result<Self> {
        let mongo = Mongo::new(settings).await?;
        let redis = Redis::new(settings)?;
        Ok(Self {
            store: Store::new(mongo.clone()),
            generations: Arc::new(Generations::new(redis.clone(), mongo, settings.clone())),
            redis,
            broker: settings.broker(),
            topology: Topology::new(settings),
        })
    }

    /// Stores what was in the queues that nobody can consume, and makes them anew. All of them at once: the rooms of one
    /// that was left would begin anew. Rooms of every shard take nothing for some seconds.
    ///
    /// Rooms that have begun anew, behind a fence, since their queue broke, because Redis lost its data too, may have had
    /// events that are nowhere but in the queue. `gives_up` says that these may be lost.
    ///
    /// # Errors
    /// `Refused` when there are such rooms and they are not given up. `Unavailable`; then the same call does the rest.
    pub async fn run(&self, gives_up: bool) -> Result<Rebuilt> {
        let looked = look(&self.broker).await?;
        let broken = looked.into_iter().filter(|one| one.trouble.is_some());
        let mut rebuilt = Rebuilt {
            shards: broken.map(|one| one.shard).collect(),
            ..Rebuilt::default()
        };
        let shards = rebuilt.shards.clone();
        if shards.is_empty() {
            return Ok(rebuilt);
        }
        let cut = self.cut_off(&shards).await?;
        if !cut.is_empty() && !gives_up {
            let some: Vec<&str> = cut.iter().take(NAMED).map(RoomId::as_str).collect();
            let more = if cut.len() > NAMED { ", …" } else { "" };
            return Err(Error::Refused(format!(
                "{} rooms have begun anew since their queue broke ({}{more}): what they had before may be in the queue alone",
                cut.len(),
                some.join(", "),
            )));
        }
        self.save(&mut rebuilt).await?;
        let why = format!("the queues of shards {shards:?} are made anew");
        let raised = self
            .generations
            .raise_around(&why, &shards, async |channel| {
                self.save(&mut rebuilt).await?;
                for shard in &shards {
                    self.topology.delete_shard(channel, *shard).await?;
                    self.topology.declare_shard(channel, *shard).await?;
                }
                Ok(())
            });
        raised.await?;
        Ok(rebuilt)
    }

    /// Rooms of these shards that wait for their fence, and may have had more before it than is stored.
    async fn cut_off(&self, shards: &[u16]) -> Result<Vec<RoomId>> {
        let saved = self.generations.saved().await?;
        let doubtful: Vec<u16> = shards
            .iter()
            .copied()
            .filter(|shard| !saved.contains(shard))
            .collect();
        let mut cut = Vec::new();
        self.each(&doubtful, async |head| {
            if head.is_cut {
                cut.push(head.room);
            }
            Ok(())
        })
        .await?;
        Ok(cut)
    }

    /// Stores what Redis has and MongoDB has not. Events without a confirm too: a pod may have acked one before it told
    /// Redis, and to store one that nobody was told of does no harm.
    async fn save(&self, rebuilt: &mut Rebuilt) -> Result<()> {
        let shards = rebuilt.shards.clone();
        self.each(&shards, async |head| {
            let before = rebuilt.events;
            self.save_stream(&head.room, "left", Seq::ZERO, rebuilt)
                .await?;
            self.save_stream(&head.room, "log", head.persisted, rebuilt)
                .await?;
            rebuilt.rooms += u64::from(rebuilt.events > before);
            Ok(())
        })
        .await
    }

    /// Stores what one of a room's streams has behind `after`.
    async fn save_stream(
        &self,
        room: &RoomId,
        stream: &str,
        mut after: Seq,
        rebuilt: &mut Rebuilt,
    ) -> Result<()> {
        loop {
            let mut range = ::redis::cmd("XRANGE");
            range
                .arg(self.redis.room_key(room, stream))
                .arg(format!("{}-0", after.get() + 1))
                .arg("+")
                .arg("COUNT")
                .arg(PAGE);
            let entries: Value = self.redis.query(&range).await?;
            let events = entry::events(room, &entries)?;
            let Some(last) = events.last() else {
                return Ok(());
            };
            after = last.seq;
            let arrivals: Vec<_> = events.iter().map(|event| (&**event, None)).collect();
            let inserted = self.store.insert_arrivals(&arrivals, "").await?;
            rebuilt.events += (events.len() - inserted.violations.len()) as u64;
            for (event, reason) in inserted.violations {
                if rebuilt.contradictions.len() < NAMED {
                    let (kind, seq) = (event.body.kind(), event.seq);
                    let contradiction = format!("{kind} {seq} of {room}: {reason}");
                    rebuilt.contradictions.push(contradiction);
                }
            }
            // Of an earlier generation than the room is in, it changes nothing.
            persisted::raise(&self.redis, &[(room.clone(), after)]).await?;
        }
    }

    /// Looks at the rooms of some shards that are not stored to their ends.
    async fn each(
        &self,
        shards: &[u16],
        mut look: impl AsyncFnMut(Head) -> Result<()>,
    ) -> Result<()> {
        let mut cursor = 0;
        loop {
            let (next, heads) = persisted::walk(&self.redis, cursor).await?;
            for head in heads {
                let shard = envelope::shard(&head.room, self.topology.shards);
                if shards.contains(&shard) && head.seq > head.persisted {
                    look(head).await?;
                }
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}
