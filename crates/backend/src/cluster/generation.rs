//! Generations: periods in which Redis lost nothing.
//!
//! MongoDB holds which generation is open and with which Redis; Redis holds its number; RabbitMQ has one exchange per
//! generation. Whoever finds that these do not belong together raises the generation: the exchanges of older ones are
//! deleted first, so that nothing of theirs enters the log any more, whatever a paused process or a former Redis still
//! believes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::{Channel, Connection};
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::redis::{Identity, Session};
use super::{Mongo, Redis, Settings, topology};
use crate::{Error, Result};

/// An opening that takes longer was abandoned.
const OPENING_MAX: Duration = Duration::from_secs(5);
/// Whoever opens gives up before that. The broker has been reached by then, and its queues are there.
const OPEN_WITHIN: Duration = Duration::from_secs(4);
/// How often an opening that takes longer says that it goes on.
const HOLD_EVERY: Duration = Duration::from_secs(1);
/// A broker that makes queues on several nodes may take this long.
const BROKER_WITHIN: Duration = Duration::from_secs(15);
/// Nobody waits longer for what is being found out; that goes on.
const KNOWN_WITHIN: Duration = Duration::from_millis(1500);
/// Nodes of a broker cluster agree within this time that an exchange is gone.
const AGREE: Duration = Duration::from_secs(1);
/// A process that reaches a Redis which was replaced waits this long before it believes that this one is the right one
/// again: it may be alone with it, and those who moved on must not be disturbed all the time.
const FORMER_WAITS: Duration = Duration::from_secs(60);
/// Exchanges that are deleted below a new generation: openings may have been abandoned before they deleted theirs.
const OLDER: u64 = 64;
/// Former Redises that are remembered, so that a process which still reaches one of them does not take it for new.
const FORMER: usize = 32;

/// The generation in use, over the connection for which it was verified.
#[derive(Clone)]
pub struct Open {
    pub session: Session,
    pub generation: u64,
}

/// What this process knows about generations.
pub struct Generations {
    redis: Redis,
    mongo: Mongo,
    settings: Settings,
    topology: topology::Topology,
    /// The generation, and the number of the connection for which it holds.
    known: Mutex<Option<(u64, u64)>>,
    /// One finds out for all.
    finding_out: Arc<AsyncMutex<()>>,
    raised: AtomicU64,
    /// The last one known, for metrics.
    last: AtomicU64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    #[serde(rename = "_id")]
    id: String,
    generation: i64,
    state: Phase,
    redis: Ids,
    /// Who opens it.
    by: String,
    since: DateTime,
    /// The Redises of earlier generations, newest last.
    former: Vec<Ids>,
    shards: i32,
    /// Shards whose queues are being made anew: all that was acked in them before this generation is stored.
    #[serde(default)]
    saved: Vec<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Opening,
    Open,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ids {
    run_id: String,
    replid: String,
}

impl From<&Identity> for Ids {
    fn from(identity: &Identity) -> Self {
        Self {
            run_id: identity.run_id.clone(),
            replid: identity.replid.clone(),
        }
    }
}

const ID: &str = "generation";

fn key(redis: &Redis) -> String {
    redis.key("generation")
}

/// The generation that Redis has; none when it is new or has lost it.
///
/// # Errors
/// `Unavailable`.
pub async fn in_redis(redis: &Redis) -> Result<Option<u64>> {
    redis.query(::redis::cmd("GET").arg(key(redis))).await
}

impl Generations {
    #[must_use]
    pub fn new(redis: Redis, mongo: Mongo, settings: Settings) -> Self {
        Self {
            redis,
            mongo,
            topology: topology::Topology::new(&settings),
            settings,
            known: Mutex::default(),
            finding_out: Arc::default(),
            raised: AtomicU64::new(0),
            last: AtomicU64::new(0),
        }
    }

    /// How many this process raised.
    #[must_use]
    pub fn raised(&self) -> u64 {
        self.raised.load(Ordering::Relaxed)
    }

    /// Looks which generation Redis has, for processes that append nothing.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn look(&self) -> Result<()> {
        let generation = in_redis(&self.redis).await?;
        self.last
            .fetch_max(generation.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    /// The last generation that this process knew to be open.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// The key of the generation in Redis.
    #[must_use]
    pub fn key(&self) -> String {
        key(&self.redis)
    }

    /// The open generation; found out, or raised, when the connection to Redis is new or something did not fit.
    ///
    /// # Errors
    /// `Unavailable` while one of the three servers is away or another process is opening a generation.
    pub async fn current(self: &Arc<Self>) -> Result<Open> {
        let session = self.redis.session().await?;
        if let Some(open) = self.fitting(&session) {
            return Ok(open);
        }
        let session = self.find_out_once(None).await?;
        self.fitting(&session).ok_or_else(not_known_yet)
    }

    /// Something did not fit this generation: Redis has another number, or its exchange is gone (`lost_exchange`). What
    /// holds is found out anew.
    ///
    /// # Errors
    /// As [`Generations::current`].
    pub async fn doubt(self: &Arc<Self>, generation: u64, lost_exchange: bool) -> Result<()> {
        if lost_exchange {
            self.find_out_once(Some(generation)).await?;
            return Ok(());
        }
        let mut known = self.known();
        if known.is_some_and(|(now, _)| now <= generation) {
            *known = None;
        }
        Ok(())
    }

    /// One finds out for all who come meanwhile, in a task of its own: those who ask may give up, and a generation that is
    /// half open holds everybody up. `broken` is a generation whose exchange is gone.
    async fn find_out_once(self: &Arc<Self>, broken: Option<u64>) -> Result<Session> {
        let this = Arc::clone(self);
        let found = async {
            let guard = Arc::clone(&self.finding_out).lock_owned().await;
            let finding = tokio::spawn(async move {
                let _one = guard;
                let session = this.redis.session().await?;
                let fits = this.fitting(&session);
                // Others may have waited for the same.
                if fits.is_some_and(|open| broken.is_none_or(|broken| open.generation > broken)) {
                    return Ok(session);
                }
                let generation = this.find_out(&session, broken).await?;
                *this.known() = Some((generation, session.number));
                this.last.store(generation, Ordering::Relaxed);
                Ok(session)
            });
            finding
                .await
                .unwrap_or_else(|error| Err(Error::Corrupt(error.to_string())))
        };
        tokio::time::timeout(KNOWN_WITHIN, found)
            .await
            .unwrap_or_else(|_| Err(not_known_yet()))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<(u64, u64)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fitting(&self, session: &Session) -> Option<Open> {
        match *self.known() {
            Some((generation, number)) if number == session.number => Some(Open {
                session: session.clone(),
                generation,
            }),
            _ => None,
        }
    }

    /// Compares what MongoDB, Redis and the caller (`broken`: this generation has lost its exchange) say.
    async fn find_out(&self, session: &Session, broken: Option<u64>) -> Result<u64> {
        let own = Ids::from(&session.identity);
        let Some(record) = self.record().await? else {
            return self.begin(session).await;
        };
        if record.shards != i32::from(self.settings.shards) {
            return Err(Error::Corrupt(format!(
                "DARDA_SHARDS is {}, but there is data in {} shards; set it to {}",
                self.settings.shards, record.shards, record.shards
            )));
        }
        let generation = record.generation.unsigned_abs();
        let age = DateTime::now().timestamp_millis() - record.since.timestamp_millis();
        let is_younger = |than: Duration| age < than.as_millis() as i64;
        // By the run alone: the other id changes when the first replica comes.
        let is_former = record.former.iter().any(|ids| ids.run_id == own.run_id);
        if is_former && record.redis != own && is_younger(FORMER_WAITS) {
            self.redis.forget(session).await;
            return Err(Error::unavailable(
                "redis: this is a former primary; another has taken its place",
            ));
        }
        if record.state == Phase::Opening {
            if is_younger(OPENING_MAX) {
                return Err(Error::Unavailable {
                    message: format!("generation {generation} is being opened"),
                    retry_after: Duration::from_millis(200),
                });
            }
            return self
                .raise(session, &record, "its opening was abandoned")
                .await;
        }
        if record.redis != own {
            return self.raise(session, &record, "another Redis answers").await;
        }
        let has: Option<String> = self
            .redis
            .query_in(session, ::redis::cmd("GET").arg(self.key()))
            .await?;
        if has.as_deref() != Some(generation.to_string().as_str()) {
            return self.raise(session, &record, "Redis lost its data").await;
        }
        if broken == Some(generation) {
            return self.raise(session, &record, "its exchange is gone").await;
        }
        Ok(generation)
    }

    fn records(&self) -> mongodb::Collection<Record> {
        self.mongo.collection("generation")
    }

    async fn record(&self) -> Result<Option<Record>> {
        let records = self.records();
        self.mongo.run(records.find_one(doc! { "_id": ID })).await
    }

    /// The first generation of all.
    async fn begin(&self, session: &Session) -> Result<u64> {
        let record = Record {
            id: ID.to_owned(),
            generation: 0,
            state: Phase::Opening,
            redis: Ids::from(&session.identity),
            by: Uuid::new_v4().to_string(),
            since: DateTime::now(),
            former: Vec::new(),
            shards: i32::from(self.settings.shards),
            saved: Vec::new(),
        };
        let (connection, channel) = self.broker().await?;
        let records = self.records();
        if self
            .mongo
            .attempt(records.insert_one(&record))
            .await?
            .is_err()
        {
            return Err(Error::Unavailable {
                message: "another process is opening the first generation".to_owned(),
                retry_after: Duration::from_millis(200),
            });
        }
        self.open_within(session, &record, connection, &channel)
            .await
    }

    async fn raise(&self, session: &Session, old: &Record, why: &str) -> Result<u64> {
        let (record, connection, channel) = self.take(session, old, why).await?;
        self.open_within(session, &record, connection, &channel)
            .await
    }

    /// Shards of which everything that was acked is known to be stored, from a call of [`Generations::raise_around`] that
    /// was broken off.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn saved(&self) -> Result<Vec<u16>> {
        let record = self.record().await?;
        let saved = record.into_iter().flat_map(|record| record.saved);
        Ok(saved.filter_map(|shard| shard.try_into().ok()).collect())
    }

    /// Raises the generation and does some work in between: nothing is confirmed in the former one any more, and nothing
    /// can be in the new one yet. Everybody else waits. Until the work is done it is remembered that everything acked in some
    /// shards is stored (`saved`).
    ///
    /// # Errors
    /// `Unavailable`, and those of the work; then others raise the generation once more after a few seconds.
    pub async fn raise_around<T>(
        self: &Arc<Self>,
        why: &str,
        saved: &[u16],
        work: impl AsyncFnOnce(&Channel) -> Result<T>,
    ) -> Result<T> {
        let Open { session, .. } = self.current().await?;
        let own = Ids::from(&session.identity);
        let record = self.record().await?;
        let mut old = record
            .filter(|record| record.state == Phase::Open && record.redis == own)
            .ok_or_else(not_known_yet)?;
        old.saved = saved.iter().copied().map(i32::from).collect();
        let (record, connection, channel) = self.take(&session, &old, why).await?;
        self.close_older(&record, &channel).await?;
        let done = tokio::select! {
            done = work(&channel) => done?,
            lost = self.hold(&record) => return Err(lost),
        };
        let done_with = doc! { "$set": { "since": DateTime::now(), "saved": [] } };
        self.update_mine(&record, done_with).await?;
        self.open_within(&session, &record, connection, &channel)
            .await?;
        Ok(done)
    }

    /// Makes the next generation this process's to open.
    async fn take(
        &self,
        session: &Session,
        old: &Record,
        why: &str,
    ) -> Result<(Record, Connection, Channel)> {
        let mut former = old.former.clone();
        if old.redis != Ids::from(&session.identity) {
            former.push(old.redis.clone());
        }
        let excess = former.len().saturating_sub(FORMER);
        former.drain(..excess);
        let record = Record {
            generation: old.generation + 1,
            state: Phase::Opening,
            redis: Ids::from(&session.identity),
            by: Uuid::new_v4().to_string(),
            since: DateTime::now(),
            former,
            ..old.clone()
        };
        // Without a broker nothing can be opened, and a number is not to be wasted.
        let (connection, channel) = self.broker().await?;
        let unchanged = doc! { "_id": ID, "generation": old.generation, "by": &old.by };
        let records = self.records();
        let replace = records
            .find_one_and_replace(unchanged, &record)
            .return_document(ReturnDocument::After);
        if self.mongo.run(replace).await?.is_none() {
            return Err(Error::Unavailable {
                message: "another process is opening a generation".to_owned(),
                retry_after: Duration::from_millis(200),
            });
        }
        tracing::warn!(
            generation = record.generation,
            why,
            "raising the generation: what only the former one knew is looked up where it is stored"
        );
        self.raised.fetch_add(1, Ordering::Relaxed);
        Ok((record, connection, channel))
    }

    /// Keeps an opening from being taken for abandoned. Ends when that fails for too long.
    async fn hold(&self, record: &Record) -> Error {
        let mut until = Instant::now() + OPEN_WITHIN;
        loop {
            tokio::time::sleep(HOLD_EVERY).await;
            let begun = Instant::now();
            let now = doc! { "$set": { "since": DateTime::now() } };
            match self.update_mine(record, now).await {
                Ok(()) => until = begun + OPEN_WITHIN,
                Err(error) if Instant::now() >= until => return error,
                Err(_) => {}
            }
        }
    }

    async fn update_mine(&self, record: &Record, update: Document) -> Result<()> {
        let mine = doc! {
            "_id": ID, "generation": record.generation, "by": &record.by, "state": "opening",
        };
        let records = self.records();
        let updated = self.mongo.run(records.update_one(mine, update)).await?;
        if updated.matched_count == 0 {
            return Err(Error::unavailable("another process opened a generation"));
        }
        Ok(())
    }

    /// A connection of its own, with everything declared.
    async fn broker(&self) -> Result<(Connection, Channel)> {
        let reaching = async {
            let connection = topology::connect(&self.settings.rabbitmq, "darda generation").await?;
            let channel = connection
                .create_channel()
                .await
                .map_err(|e| topology::trouble(&e))?;
            self.topology.declare(&channel).await?;
            Ok((connection, channel))
        };
        tokio::time::timeout(BROKER_WITHIN, reaching)
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("rabbitmq: it is not ready in time")))
    }

    async fn open_within(
        &self,
        session: &Session,
        record: &Record,
        connection: Connection,
        channel: &Channel,
    ) -> Result<u64> {
        let opening = self.open(session, record, channel);
        let opened = tokio::time::timeout(OPEN_WITHIN, opening)
            .await
            .unwrap_or_else(|_| Err(not_known_yet()));
        // The connection is only for this; how it ends does not matter.
        let _ = connection.close(200, "done".into()).await;
        opened
    }

    /// Everything between the record in state `opening` and `open`. In this order: nothing may enter the log through an
    /// older exchange once the new one can be used.
    async fn open(&self, session: &Session, record: &Record, channel: &Channel) -> Result<u64> {
        let generation = record.generation.unsigned_abs();
        self.close_older(record, channel).await?;
        self.topology.open_generation(channel, generation).await?;
        let number = generation.to_string();
        let set: String = self
            .redis
            .call_in(session, "log_open", &[self.key()], &[number.as_bytes()])
            .await?;
        if set != "ok" {
            return Err(Error::unavailable("Redis has a newer generation"));
        }
        let open = doc! { "$set": { "state": "open" } };
        self.update_mine(record, open).await?;
        tracing::info!(generation, "open");
        Ok(generation)
    }

    /// Takes the exchanges of older generations away, and waits until every node of the broker knows.
    async fn close_older(&self, record: &Record, channel: &Channel) -> Result<()> {
        let generation = record.generation.unsigned_abs();
        for older in generation.saturating_sub(OLDER)..generation {
            self.topology.close_generation(channel, older).await?;
        }
        if generation > 0 {
            tokio::time::sleep(AGREE).await;
        }
        Ok(())
    }
}

fn not_known_yet() -> Error {
    Error::Unavailable {
        message: "it is being found out what the servers still have".to_owned(),
        retry_after: Duration::from_millis(500),
    }
}
