//! How events came here.

use driver::bson::{Document as Bson, doc};
use futures_util::TryStreamExt as _;
use protocol::{Event, MessageId, RoomId, Timestamp};
use serde::Deserialize;

use super::document::{Document, Way};
use super::{EVENTS, Store, WORK_MAX, driver, uuid};
use crate::{Error, Result};

/// Events with the same id that one question finds.
const MOST: i64 = 100;

/// A stored event, and how it came here, where that was kept.
pub struct Stored {
    pub event: Event,
    pub way: Option<Kept>,
}

/// What is kept of an event's way.
pub struct Kept {
    pub pod: Option<String>,
    pub published_at: Option<Timestamp>,
    pub worker: String,
    pub delivered_at: Timestamp,
    pub stored_at: Timestamp,
}

impl Store {
    /// The events with an id in some rooms.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn ways(&self, id: MessageId, rooms: &[RoomId]) -> Result<Vec<Stored>> {
        let rooms: Vec<&str> = rooms.iter().map(RoomId::as_str).collect();
        let events = self.mongo.collection::<Bson>(EVENTS);
        let find = events
            .find(doc! { "id": uuid(id), "_id.room": { "$in": rooms } })
            .limit(MOST)
            .max_time(WORK_MAX);
        let found = async { find.await?.try_collect::<Vec<_>>().await };
        self.mongo.run(found).await?.into_iter().map(read).collect()
    }
}

fn read(found: Bson) -> Result<Stored> {
    #[derive(Deserialize)]
    struct OnlyWay {
        #[serde(default)]
        way: Option<Way<'static>>,
    }
    let corrupt = |error: driver::bson::error::Error| Error::Corrupt(format!("an event: {error}"));
    let way: OnlyWay = driver::bson::deserialize_from_document(found.clone()).map_err(corrupt)?;
    let document: Document<'static> =
        driver::bson::deserialize_from_document(found).map_err(corrupt)?;
    Ok(Stored {
        event: document.event()?,
        way: way.way.map(|way| Kept {
            pod: way.pod.map(|pod| pod.into_owned()),
            published_at: way.sent.map(Timestamp::from_millis),
            worker: way.worker.into_owned(),
            delivered_at: Timestamp::from_millis(way.got),
            stored_at: Timestamp::from_millis(way.put),
        }),
    })
}
