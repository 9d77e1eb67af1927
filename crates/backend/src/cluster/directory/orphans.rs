//! Transactions that nobody will end: their process was killed, or frozen, or cut off. MongoDB keeps such a one, and
//! with it the room that it was about to change, for a minute and longer; whoever it holds up ends it.

use std::time::Duration;

use bson::{Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::bson;
use mongodb::options::ReadConcern;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::Mongo;
use super::transaction::DONE_WITHIN;

/// A process that lives has ended its transactions by then. Should it live nevertheless, it begins the changes anew.
const OPEN_MAX: Duration = DONE_WITHIN.saturating_add(Duration::from_millis(250));
/// Between two looks of one process.
const EVERY: Duration = Duration::from_millis(400);
/// How long a look may take.
const LOOK_WITHIN: Duration = Duration::from_millis(500);

/// Looks for them, one look at a time.
#[derive(Default)]
pub(super) struct Orphans {
    looked: Mutex<Option<Instant>>,
}

impl Orphans {
    /// Ends what is too old. Without a right to look, or an answer in time, nothing is ended.
    pub async fn end(&self, mongo: &Mongo) {
        let Ok(mut looked) = self.looked.try_lock() else {
            return;
        };
        if looked.is_some_and(|looked| looked.elapsed() < EVERY) {
            return;
        }
        match mongo.run_within(LOOK_WITHIN, end_old(mongo)).await {
            Ok(0) => {}
            Ok(count) => {
                tracing::warn!(count, "transactions that a process left open were ended");
            }
            Err(error) => tracing::debug!(%error, "old transactions cannot be ended"),
        }
        *looked = Some(Instant::now());
    }
}

/// Any user may see and end their own sessions, and all processes have the same one.
async fn end_old(mongo: &Mongo) -> mongodb::error::Result<usize> {
    let admin = mongo.client().database("admin");
    let micros = i64::try_from(OPEN_MAX.as_micros()).unwrap_or(i64::MAX);
    let look = [
        doc! { "$currentOp": { "idleSessions": true } },
        doc! { "$match": {
            "type": "idleSession",
            "appName": mongo.app_name(),
            "transaction.timeOpenMicros": { "$gt": micros },
        } },
        doc! { "$project": { "lsid.id": 1 } },
    ];
    let found = admin.aggregate(look).read_concern(ReadConcern::local());
    let found: Vec<Document> = found.await?.try_collect().await?;
    let sessions: Vec<Document> = found
        .iter()
        .filter_map(|found| {
            Some(doc! { "id": found.get_document("lsid").ok()?.get("id")?.clone() })
        })
        .collect();
    if !sessions.is_empty() {
        admin
            .run_command(doc! { "killSessions": &sessions })
            .await?;
    }
    Ok(sessions.len())
}
