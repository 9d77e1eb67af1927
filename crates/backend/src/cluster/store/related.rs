//! Events about messages.

use std::collections::{BTreeSet, HashMap};

use driver::bson::{Bson, Document as Fields, doc};
use protocol::{Event, EventBody, RoomId, Seq};

use super::document::{kind, number};
use super::{Store, WORK_MAX, count, driver, indexes};
use crate::log::{REACTIONS_MAX, REACTIONS_TOTAL_MAX, share_of_reactions};
use crate::{Error, Result};

/// As many events about messages are read at once; where there are more, message by message.
const AT_ONCE_MAX: usize = 1000;

impl Store {
    /// What is stored about the given messages, ascending, within the bounds of [`Log::related`](crate::Log::related).
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn related(&self, room: &RoomId, targets: &[Seq]) -> Result<Vec<Event>> {
        let targets: BTreeSet<i64> = targets.iter().copied().map(number).collect();
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.about(about(room, &targets), AT_ONCE_MAX + 1).await?;
        if found.len() > AT_ONCE_MAX {
            found = self.related_one_by_one(room, &targets).await?;
        } else {
            keep_newest(&mut found);
        }
        found.sort_unstable_by_key(|event| event.seq);
        Ok(found)
    }

    async fn related_one_by_one(
        &self,
        room: &RoomId,
        targets: &BTreeSet<i64>,
    ) -> Result<Vec<Event>> {
        let targets = self.with_related(room, targets).await?;
        let mut found = Vec::new();
        let mut left = REACTIONS_TOTAL_MAX;
        // People look at the last messages first, and so these choose first.
        for (others, target) in targets.iter().enumerate().rev() {
            let of = |kind: &str| {
                let mut about = about(room, &BTreeSet::from([*target]));
                about.insert("body.kind", kind);
                about
            };
            let share = share_of_reactions(left, others);
            let (edits, deletes, reactions) = tokio::try_join!(
                self.about(of(kind::EDIT), 1),
                self.about(of(kind::DELETE), 1),
                self.about(of(kind::REACTION), share),
            )?;
            left = left.saturating_sub(reactions.len());
            found.extend([edits, deletes, reactions].into_iter().flatten());
        }
        Ok(found)
    }

    /// Those of the messages about which there is anything.
    async fn with_related(&self, room: &RoomId, targets: &BTreeSet<i64>) -> Result<BTreeSet<i64>> {
        let distinct = self
            .events
            .distinct("body.target", about(room, targets))
            .max_time(WORK_MAX);
        let found = self.mongo.run(distinct).await?;
        found
            .into_iter()
            .map(|target| match target {
                Bson::Int64(target) => Ok(target),
                other => Err(Error::Corrupt(format!("{other} is no target"))),
            })
            .collect()
    }

    /// The newest events that `filter` finds by the index of targets: of each target and kind.
    async fn about(&self, filter: Fields, limit: usize) -> Result<Vec<Event>> {
        let find = self
            .events
            .find(filter)
            .sort(doc! { "_id.room": 1, "body.target": 1, "body.kind": 1, "_id.seq": -1 })
            .hint(driver::options::Hint::Name(indexes::TARGET.to_owned()))
            .limit(count(limit))
            .max_time(WORK_MAX);
        self.gather(find).await
    }
}

fn about(room: &RoomId, targets: &BTreeSet<i64>) -> Fields {
    let targets: Vec<i64> = targets.iter().copied().collect();
    doc! { "_id.room": room.as_str(), "body.target": { "$in": targets } }
}

/// Drops all edits and deletes of a message but the newest, and reactions past the bounds. They come newest first.
fn keep_newest(events: &mut Vec<Event>) {
    let mut seen: HashMap<(Seq, &'static str), usize> = HashMap::new();
    events.retain(|event| {
        let most = match event.body {
            EventBody::Reaction { .. } => REACTIONS_MAX,
            _ => 1,
        };
        let target = event.body.target().unwrap_or_default();
        let number = seen.entry((target, event.body.kind())).or_default();
        *number += 1;
        *number <= most
    });
}
