//! Rooms and memberships: from memory, else from what all processes remember together, else from MongoDB.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bson::doc;
use mongodb::bson;
use protocol::{RoomId, UserId};

use super::Inner;
use super::cache::Held;
use super::sessions::{ANSWER_WITHIN, Sessions};
use super::shared::{Kept, Said, Shared};
use crate::directory::{Member, Room};
use crate::{Error, Result};

/// How much longer something known is believed when neither Redis nor MongoDB can say anything about it.
const BELIEVED: Duration = Duration::from_secs(60);

/// How long MongoDB is waited for when Redis has vouched for an older value.
const PATIENCE: Duration = Duration::from_millis(250);

/// Where to look for what is not in memory.
pub(super) struct Sources {
    pub sessions: Arc<Sessions>,
    pub shared: Arc<Shared>,
    is_probing: AtomicBool,
}

impl Inner {
    pub async fn room(&self, room: &RoomId) -> Result<Option<Room>> {
        let (sources, id) = (Arc::clone(&self.sources), room.clone());
        let ask = async move |held| {
            let key = sources.shared.room_key(&id);
            let sessions = Arc::clone(&sources.sessions);
            let read = async move { sessions.read_room(&id).await };
            sources.look_up(key, held, read).await
        };
        self.rooms.get(room, ask).await
    }

    pub async fn member(&self, room: &RoomId, user: &UserId) -> Result<Option<Member>> {
        let key = (room.clone(), user.clone());
        let (sources, id) = (Arc::clone(&self.sources), key.clone());
        let ask = async move |held| {
            let key = sources.shared.member_key(&id.0, &id.1);
            let sessions = Arc::clone(&sources.sessions);
            let read = async move { sessions.read_member(&id.0, &id.1).await };
            sources.look_up(key, held, read).await
        };
        // A membership is worth as much as its room.
        let (room, member) = tokio::try_join!(self.room(room), self.members.get(&key, ask))?;
        Ok(room.and(member))
    }
}

impl Sources {
    pub fn new(sessions: Arc<Sessions>, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            sessions,
            shared,
            is_probing: AtomicBool::new(false),
        })
    }

    /// What is true now, as far as anybody can tell. While MongoDB is away nothing changes without Redis knowing, so
    /// that what Redis vouches for is still true.
    async fn look_up<V: Kept + Send + 'static>(
        self: &Arc<Self>,
        key: String,
        held: Option<Held<V>>,
        read: impl Future<Output = Result<V>> + Send + 'static,
    ) -> Result<Held<V>> {
        let asked_at = Instant::now();
        let (known, patience, lease) = match self.shared.ask::<V>(key).await {
            Said::Good(value) => return Ok(Held::read(value, asked_at)),
            Said::Old(value, lease) => (Some(Held::read(value, asked_at)), PATIENCE, lease),
            Said::Nothing(lease) => (None, ANSWER_WITHIN, lease),
            Said::Changing => (None, ANSWER_WITHIN, None),
            Said::Silent => {
                let held = held.filter(|held| held.read_at.elapsed() < BELIEVED);
                (held, ANSWER_WITHIN, None)
            }
        };
        let is_away = self.sessions.mongo.breaker().is_open();
        let shared = Arc::clone(&self.shared);
        let reading = async move {
            let value = read.await?;
            if let Some(lease) = lease {
                shared.fill(lease, &value).await;
            }
            Ok(Held::read(value, asked_at))
        };
        let Some(known) = known else {
            return reading.await;
        };
        if is_away {
            // Nobody has to wait for what will not come.
            self.probe();
            return Ok(known.kept());
        }
        // Read to its end, so that it is noticed when MongoDB is away.
        match tokio::time::timeout(patience, tokio::spawn(reading)).await {
            Ok(Ok(Ok(read))) => Ok(read),
            Ok(Ok(Err(error))) if !matches!(error, Error::Unavailable { .. }) => Err(error),
            _ => Ok(known.kept()),
        }
    }

    /// Finds out, beside the callers, whether MongoDB is back.
    fn probe(self: &Arc<Self>) {
        if self.is_probing.swap(true, Ordering::Relaxed) {
            return;
        }
        let sources = Arc::clone(self);
        tokio::spawn(async move {
            let mongo = &sources.sessions.mongo;
            // The breaker keeps the answer.
            let _ = mongo
                .run(mongo.database().run_command(doc! { "ping": 1 }))
                .await;
            sources.is_probing.store(false, Ordering::Relaxed);
        });
    }
}
