//! What all processes remember together, in Redis, so that each thing is read from MongoDB every few seconds at most.
//!
//! A value is good for five seconds, or until it changes: a change makes Redis refuse to answer for what it touches
//! before it is committed, and puts the new value there afterwards. Whoever finds nothing takes a lease, reads MongoDB
//! and fills the gap, unless a change has broken the lease meanwhile. So nothing that was read before a change is kept
//! after it. See `functions/directory.lua`.
//!
//! A value that is older than that still says that nothing has changed, for nothing changes without Redis being told. It
//! is believed only while MongoDB is away, for a quarter of an hour at most. A copy of Redis, however old, has no say, nor
//! has a primary that was none for a while: they go by other ids, and values have their times in them.
//!
//! Without Redis everything is read from MongoDB, and nothing can be changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::{Role, RoomId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::super::Redis;
use super::super::redis::Session;
use super::documents::{MemberDocument, RoomDocument};
use super::work::Work;
use crate::directory::{Member, Room, RoomKind};
use crate::{Error, Result};

/// How long a value is good; up to a fifth less, so that not all are read again at once.
const FRESH: Duration = Duration::from_secs(5);
/// How long a value is kept, to be believed while MongoDB is away.
const KEPT: Duration = Duration::from_secs(15 * 60);
/// A change that was neither settled nor abandoned for so long has lost its process, and MongoDB has ended its
/// transaction, which it does after a minute.
const GIVEN_UP: Duration = Duration::from_secs(70);
/// For so long Redis may say that there is nothing where there is something now; see `ABSENT_MS`.
const ABSENT: Duration = Duration::from_secs(10);
/// Callers have two seconds, and MongoDB is to be asked in them too.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// The change is made: only its caller waits until the others can know it.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);
/// After a question without an answer Redis is not asked for a moment.
const PAUSE: Duration = Duration::from_secs(1);
/// Questions of one call, calls at a time, and questions that wait.
const TOGETHER_MAX: usize = 128;
const CALLS_MAX: usize = 4;
const WAITING_MAX: usize = 4096;

pub(super) struct Shared {
    redis: Redis,
    questions: mpsc::Sender<Question>,
    begun: Instant,
    /// Milliseconds after `begun` until which Redis is not asked.
    silent_until: AtomicU64,
}

/// What Redis says.
pub(super) enum Said<V> {
    Good(V),
    /// Whatever it is must be read. The value was true until then, and has not been changed.
    Old(V, Option<Lease>),
    Nothing(Option<Lease>),
    /// It is being changed.
    Changing,
    /// There is no answer.
    Silent,
}

/// The right to put what is read now into Redis.
pub(super) struct Lease {
    key: String,
    name: Arc<str>,
    primary: Arc<str>,
}

/// A change between its last write and its end.
pub(super) struct Begun {
    name: String,
    keys: Vec<String>,
    values: Vec<Written>,
    number: i64,
    /// Which Redis was told, and when by its clock, ms.
    primary: String,
    at: u64,
}

struct Question {
    key: String,
    answer: oneshot::Sender<Answer>,
}

/// What Redis answers about a key, and under which name a lease was given.
struct Answer {
    raw: Raw,
    lease: Arc<str>,
    primary: Arc<str>,
}

/// State, whether there is a lease, value, received, read.
type Raw = (String, u8, Option<String>, i64, i64);

/// A value as Redis keeps it.
struct Written {
    /// JSON, or [`NONE`].
    value: String,
    received: i64,
    read: i64,
    /// The cursors are not those of before.
    anew: bool,
}

const NONE: &str = "-";

/// Something that Redis keeps: a room or a membership, or that there is none.
pub(super) trait Kept: Sized + Sync {
    fn write(&self) -> Result<(String, i64, i64)>;
    fn read(text: &str, received: i64, read: i64) -> Option<Self>;
}

impl Shared {
    /// To be called in a runtime, where a task gathers questions.
    pub fn new(redis: Redis) -> Arc<Self> {
        let (questions, asked) = mpsc::channel(WAITING_MAX);
        tokio::spawn(answer_questions(redis.clone(), asked));
        Arc::new(Self {
            redis,
            questions,
            begun: Instant::now(),
            silent_until: AtomicU64::new(0),
        })
    }

    pub fn room_key(&self, room: &RoomId) -> String {
        self.redis.key(format_args!("dir:{{{room}}}:room"))
    }

    pub fn member_key(&self, room: &RoomId, user: &UserId) -> String {
        self.redis.key(format_args!("dir:{{{room}}}:member:{user}"))
    }

    /// What Redis knows of a key.
    pub async fn ask<V: Kept>(&self, key: String) -> Said<V> {
        if self.is_silent() {
            return Said::Silent;
        }
        let (answer, answered) = oneshot::channel();
        let question = Question {
            key: key.clone(),
            answer,
        };
        if self.questions.try_send(question).is_err() {
            return Said::Silent;
        }
        let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_WITHIN, answered).await else {
            self.be_silent(PAUSE);
            return Said::Silent;
        };
        let (state, leased, value, received, read) = answer.raw;
        let lease = (leased == 1).then_some(Lease {
            key,
            name: answer.lease,
            primary: answer.primary,
        });
        let value = value.and_then(|value| V::read(&value, received, read));
        match (state.as_str(), value) {
            ("fresh", Some(value)) => Said::Good(value),
            ("old", Some(value)) => Said::Old(value, lease),
            ("busy", _) => Said::Changing,
            _ => Said::Nothing(lease),
        }
    }

    /// Keeps what was read under a lease.
    pub async fn fill<V: Kept>(&self, lease: Lease, value: &V) {
        let filled = async {
            let (value, received, read) = value.write()?;
            let arguments = [
                lease.name.to_string(),
                lease.primary.to_string(),
                fresh(),
                KEPT.as_millis().to_string(),
                value,
                received.to_string(),
                read.to_string(),
            ];
            self.call("darda_directory_fill", &[lease.key], &arguments)
                .await
        };
        if let Err(error) = filled.await {
            tracing::debug!(%error, "a value was not put into redis");
        }
    }

    /// Tells Redis that a change is about to be committed. From here on it does not vouch for what begins or ends with it:
    /// a room, a membership. What else is known of a room may be a moment old.
    ///
    /// # Errors
    /// When Redis cannot be told; then the change must not be made.
    pub async fn begin(&self, room: &RoomId, work: &Work) -> Result<Begun> {
        let (mut strict, mut others) = (Vec::new(), Vec::new());
        let now = work.room.clone().and_then(RoomDocument::room);
        let list = if now.is_none() || work.was.is_none() {
            &mut strict
        } else {
            &mut others
        };
        list.push((self.room_key(room), Written::of(&now, true)?));
        for (user, was, is) in work.touched() {
            let member = is.cloned().map(MemberDocument::member).transpose()?;
            let stays = was
                .zip(is)
                .is_some_and(|(was, is)| was.joined_at == is.joined_at);
            let value = Written::of(&member, !stays)?;
            strict.push((self.member_key(room, user), value));
        }
        let strict_len = strict.len().to_string();
        let (keys, values) = strict.into_iter().chain(others).unzip();
        let session = self.redis.session().await?;
        let mut begun = Begun {
            name: format!("{:016x}", rand::random::<u64>()),
            keys,
            values,
            number: work.room.as_ref().map_or(0, |room| room.changes),
            primary: primary(&session),
            at: 0,
        };
        let give_up = GIVEN_UP.as_millis().to_string();
        let arguments = [&begun.name, &strict_len, &give_up].map(|argument| argument.as_bytes());
        let told = self
            .redis
            .call_in(&session, "darda_directory_begin", &begun.keys, &arguments);
        begun.at = told.await?;
        Ok(begun)
    }

    /// Gives Redis what a change has made. Where that fails this process does not ask it until it has forgotten the old.
    pub async fn settle(&self, begun: Begun) {
        let settled = async {
            let primary = primary(&self.redis.session().await?);
            // Another one may not know what has changed since.
            let at = if primary == begun.primary {
                begun.at
            } else {
                0
            };
            let mut arguments = vec![
                begun.name,
                begun.number.to_string(),
                primary,
                fresh(),
                KEPT.as_millis().to_string(),
                at.to_string(),
            ];
            for value in begun.values {
                let anew = if value.anew { "1" } else { "0" };
                arguments.extend([
                    value.value,
                    value.received.to_string(),
                    value.read.to_string(),
                    anew.to_owned(),
                ]);
            }
            self.call("darda_directory_settle", &begun.keys, &arguments)
                .await
        };
        let settled = tokio::time::timeout(SETTLED_WITHIN, settled).await;
        let settled = settled.unwrap_or_else(|_| Err(Error::unavailable("no answer in time")));
        if let Err(error) = settled {
            tracing::warn!(%error, "redis was not told of a change; others may take a few seconds to see it");
            self.be_silent(FRESH.max(ABSENT));
        }
    }

    /// Takes back that a change was about to be committed.
    pub async fn abandon(&self, begun: Begun) {
        let name = [begun.name];
        let abandoned = self.call("darda_directory_abandon", &begun.keys, &name);
        if let Err(error) = abandoned.await {
            tracing::debug!(%error, "redis was not told that a change was not made");
        }
    }

    /// Tells Redis where cursors are at least.
    pub async fn advance(&self, cursors: impl Iterator<Item = (String, i64, i64)>) {
        let (mut keys, mut arguments) = (Vec::new(), Vec::new());
        for (key, received, read) in cursors {
            keys.push(key);
            arguments.extend([received.to_string(), read.to_string()]);
        }
        let advanced = self.call("darda_directory_advance", &keys, &arguments);
        let advanced = tokio::time::timeout(ANSWER_WITHIN, advanced).await;
        if !matches!(advanced, Ok(Ok(()))) {
            // What it has is older than what this process has said.
            self.be_silent(FRESH);
        }
    }

    async fn call(&self, function: &str, keys: &[String], arguments: &[String]) -> Result<()> {
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        self.redis.call::<u64>(function, keys, &arguments).await?;
        Ok(())
    }

    fn is_silent(&self) -> bool {
        self.millis() < self.silent_until.load(Ordering::Relaxed)
    }

    fn be_silent(&self, pause: Duration) {
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.silent_until
            .fetch_max(self.millis() + pause, Ordering::Relaxed);
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Asks Redis what many want to know in few calls.
async fn answer_questions(redis: Redis, mut asked: mpsc::Receiver<Question>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    while let Some(first) = asked.recv().await {
        let Ok(permit) = Arc::clone(&calls).acquire_owned().await else {
            return;
        };
        let mut questions = vec![first];
        while questions.len() < TOGETHER_MAX
            && let Ok(question) = asked.try_recv()
        {
            questions.push(question);
        }
        questions.retain(|question| !question.answer.is_closed());
        let redis = redis.clone();
        tokio::spawn(async move {
            let asked = tokio::time::timeout(ANSWER_WITHIN, answer(&redis, questions));
            match asked.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "redis was not asked"),
                Err(_) => tracing::debug!("redis gave no answer in time"),
            }
            drop(permit);
        });
    }
}

async fn answer(redis: &Redis, questions: Vec<Question>) -> Result<()> {
    if questions.is_empty() {
        return Ok(());
    }
    let session = redis.session().await?;
    let primary: Arc<str> = primary(&session).into();
    let lease: Arc<str> = format!("{:016x}", rand::random::<u64>()).into();
    let (keys, callers): (Vec<_>, Vec<_>) = questions
        .into_iter()
        .map(|question| (question.key, question.answer))
        .unzip();
    let arguments = [primary.as_bytes(), lease.as_bytes()];
    let answers: Vec<Raw> = redis
        .call_in(&session, "darda_directory_get", &keys, &arguments)
        .await?;
    for (caller, raw) in callers.into_iter().zip(answers) {
        // Whoever went away does not need it.
        let _ = caller.send(Answer {
            raw,
            lease: Arc::clone(&lease),
            primary: Arc::clone(&primary),
        });
    }
    Ok(())
}

/// Which Redis it is, in which life: it changes with a restart and with every promotion.
fn primary(session: &Session) -> String {
    format!("{}:{}", session.identity.run_id, session.identity.replid)
}

fn fresh() -> String {
    let fresh = FRESH.mul_f64(rand::random_range(0.8..1.0));
    fresh.as_millis().to_string()
}

impl Written {
    fn of<V: Kept>(value: &V, anew: bool) -> Result<Self> {
        let (value, received, read) = value.write()?;
        Ok(Self {
            value,
            received,
            read,
            anew,
        })
    }
}

/// A room in JSON.
#[derive(Serialize, Deserialize)]
struct RoomValue {
    id: RoomId,
    kind: RoomKind,
    name: String,
    topic: String,
    created_at: i64,
    members: u64,
    pair: Option<(UserId, UserId)>,
}

impl Kept for Option<Room> {
    fn write(&self) -> Result<(String, i64, i64)> {
        let value = self.clone().map(|room| RoomValue {
            id: room.id,
            kind: room.kind,
            name: room.name,
            topic: room.topic,
            created_at: room.created_at.as_millis(),
            members: room.members,
            pair: room.pair,
        });
        Ok((json(value.as_ref())?, 0, 0))
    }

    fn read(text: &str, _: i64, _: i64) -> Option<Self> {
        if text == NONE {
            return Some(None);
        }
        let value: RoomValue = serde_json::from_str(text).ok()?;
        Some(Some(Room {
            id: value.id,
            kind: value.kind,
            name: value.name,
            topic: value.topic,
            created_at: Timestamp::from_millis(value.created_at),
            members: value.members,
            pair: value.pair,
        }))
    }
}

/// A membership in JSON, without its cursors.
#[derive(Serialize, Deserialize)]
struct MemberValue {
    user: UserId,
    role: Role,
    joined_at: i64,
}

impl Kept for Option<Member> {
    fn write(&self) -> Result<(String, i64, i64)> {
        let value = self.as_ref().map(|member| MemberValue {
            user: member.user.clone(),
            role: member.role,
            joined_at: member.joined_at.as_millis(),
        });
        let number = |seq: protocol::Seq| i64::try_from(seq.get()).unwrap_or(i64::MAX);
        let (received, read) = self.as_ref().map_or((0, 0), |member| {
            (number(member.received), number(member.read))
        });
        Ok((json(value.as_ref())?, received, read))
    }

    fn read(text: &str, received: i64, read: i64) -> Option<Self> {
        if text == NONE {
            return Some(None);
        }
        let value: MemberValue = serde_json::from_str(text).ok()?;
        let seq = |number: i64| protocol::Seq::new(u64::try_from(number).ok()?).ok();
        Some(Some(Member {
            user: value.user,
            role: value.role,
            joined_at: Timestamp::from_millis(value.joined_at),
            received: seq(received)?,
            read: seq(read)?,
        }))
    }
}

fn json<T: Serialize>(value: Option<&T>) -> Result<String> {
    value.map_or_else(
        || Ok(NONE.to_owned()),
        |value| {
            serde_json::to_string(value)
                .map_err(|e| Error::Corrupt(format!("a value for redis: {e}")))
        },
    )
}
