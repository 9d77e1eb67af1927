//! Places of events that are parked: a void keeps them, so that the chain has no hole.

use driver::bson::doc;
use protocol::{Event, EventBody, RoomId, Seq, Timestamp};

use super::document::Document;
use super::{Inserted, Store, driver, place};
use crate::cluster::mongo::{is_duplicate, trouble};
use crate::{Error, Result};

impl Store {
    /// Puts a void where nothing is, for an event that is parked.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn keep_place(
        &self,
        room: &RoomId,
        seq: Seq,
        prev: Option<Seq>,
        at: Timestamp,
    ) -> Result<()> {
        let void = Event {
            room: room.clone(),
            seq,
            prev,
            at,
            from: None,
            id: None,
            body: EventBody::Void {},
        };
        let document = Document {
            parked: true,
            ..Document::new(&void)
        };
        let kept = self
            .mongo
            .attempt(self.mongo.collection(super::EVENTS).insert_one(document))
            .await?;
        match kept {
            Ok(_) => Ok(()),
            Err(error) if is_duplicate(&error) => Ok(()),
            Err(error) => match trouble(&error) {
                away @ Error::Unavailable { .. } => Err(away),
                // Such as a validator of somebody's own. A place that is not kept shows as a hole; a shard that stands
                // still would be worse.
                refused => {
                    tracing::error!(error = %refused, room.id = %room, seq = seq.get(), "a place could not be kept");
                    Ok(())
                }
            },
        }
    }

    /// As [`Store::insert`], for one event that was parked and is sent again: it may take the place that was kept for it.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn insert_again(&self, event: &Event) -> Result<Inserted> {
        self.index(&[event]).await?;
        let kept = doc! { "_id": place(&event.room, event.seq), "parked": true };
        let events = self.mongo.collection::<Document<'_>>(super::EVENTS);
        let replace = events.replace_one(kept, Document::new(event));
        match self.mongo.attempt(replace).await? {
            // Its act has another place: inserting finds out which.
            Err(error) if !is_duplicate(&error) => return Err(trouble(&error)),
            _ => {}
        }
        let inserted = self.insert(std::slice::from_ref(event)).await?;
        // It may have been changed or taken back while it was parked.
        let about = self.related(&event.room, &[event.seq]).await?;
        let mut about: Vec<&Event> = about.iter().collect();
        self.keep_present(&about).await?;
        about.push(event);
        self.index(&about).await?;
        Ok(inserted)
    }
}
