//! Announcements that wait to be taken to the log.
//!
//! Every process takes its own there at once, and those of others when they are old enough to be a crash's. So that a
//! room's log tells changes in their order, it takes what came before its own in the same rooms too. Two processes may
//! take the same one: its id is fixed, so that the log keeps it once.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::bson;
use mongodb::options::FindOptions;
use protocol::Timestamp;

use super::Inner;
use super::documents::{ANNOUNCEMENTS, AnnouncementDocument, binary};
use super::sessions::in_time;
use crate::Result;
use crate::log::Append;

/// After this time whoever made it has left it behind.
const LEFT_BEHIND: Duration = Duration::from_secs(2);
/// For so long after its start a process takes all it finds: what a crash left behind a moment ago may be its own.
const START: Duration = Duration::from_secs(10);
/// Announcements in one command.
const TOGETHER_MAX: usize = 1000;
/// Rooms in one query: so many that MongoDB still merges their parts of the index instead of sorting.
const ROOMS_MAX: usize = 100;

impl Inner {
    /// What waits, oldest first.
    pub async fn unannounced(&self, limit: usize) -> Result<Vec<Append>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let young = if self.begun.elapsed() < START {
            Duration::ZERO
        } else {
            LEFT_BEHIND
        };
        let before = Timestamp::now().as_millis() - i64::try_from(young.as_millis()).unwrap_or(0);
        let (mut waiting, mine) = tokio::try_join!(
            self.waiting(doc! { "at": { "$lte": before } }, limit),
            self.waiting(doc! { "maker": &*self.transactions.maker }, limit),
        )?;
        let rooms: BTreeSet<&str> = mine.iter().map(|mine| mine.room.as_str()).collect();
        let rooms: Vec<&str> = rooms.into_iter().collect();
        let last = mine.last().map_or(0, |mine| mine.at);
        for rooms in rooms.chunks(ROOMS_MAX) {
            let filter = doc! { "room": { "$in": rooms }, "at": { "$lte": last } };
            waiting.extend(self.waiting(filter, limit).await?);
        }
        waiting.sort_by(|a, b| (a.at, a.n, &a.room).cmp(&(b.at, b.n, &b.room)));
        waiting.dedup_by(|a, b| a.id == b.id);
        waiting.truncate(limit);
        waiting
            .into_iter()
            .map(AnnouncementDocument::append)
            .collect()
    }

    /// These are in the log.
    pub async fn announced(&self, done: &[Append]) -> Result<()> {
        for done in done.chunks(TOGETHER_MAX) {
            let ids: Vec<_> = done.iter().map(|append| binary(append.id)).collect();
            in_time(async {
                let _permit = self.sessions.permit().await?;
                let mut session = self.sessions.open().await?;
                let announcements = self.sessions.mongo.collection::<Document>(ANNOUNCEMENTS);
                let deleted = announcements
                    .delete_many(doc! { "_id": { "$in": ids } })
                    .session(&mut session);
                self.sessions.mongo.run(deleted).await?;
                self.sessions.changed(&session);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    async fn waiting(&self, filter: Document, limit: usize) -> Result<Vec<AnnouncementDocument>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let options = FindOptions::builder()
            .sort(doc! { "at": 1, "n": 1 })
            .limit(limit)
            .build();
        self.sessions.all(ANNOUNCEMENTS, filter, options).await
    }
}
