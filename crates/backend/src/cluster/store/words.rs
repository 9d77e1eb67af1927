//! What is in the index of search: a batch before it is stored, and by a walk what was stored without it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use ::mongodb as driver;
use driver::Collection;
use driver::bson::doc;
use futures_util::TryStreamExt as _;
use protocol::{Event, EventBody, RoomId, Seq, UserId};
use serde::Deserialize;

use super::document::{Place, kind, seq};
use super::{EVENTS, Link, Store, place};
use crate::Result;
use crate::cluster::search::coverage::Coverage;
use crate::cluster::search::index::Head;
use crate::cluster::search::segment::{Entry, Term, digest, room_term, sender_term};
use crate::search::tokens;

impl Store {
    /// Adds the words of messages and of their edits to the index. What is not stored in the end does no harm there.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn index(&self, events: &[&Event]) -> Result<()> {
        let mut times: HashMap<(&RoomId, Seq), i64> = events
            .iter()
            .filter(|event| matches!(event.body, EventBody::Message { .. }))
            .map(|event| ((&event.room, event.seq), event.at.as_millis()))
            .collect();
        let edited: BTreeSet<(&RoomId, Seq)> = events
            .iter()
            .filter_map(|event| match &event.body {
                EventBody::Edit { target, .. } => Some((&event.room, *target)),
                _ => None,
            })
            .filter(|message| !times.contains_key(message))
            .collect();
        if !edited.is_empty() {
            times.extend(self.times(&edited).await?);
        }
        let mut messages: Vec<(Entry, Vec<Term>)> = Vec::new();
        for event in events {
            let (message, text) = match &event.body {
                EventBody::Message { text, .. } => (event.seq, text),
                EventBody::Edit { target, text } => (*target, text),
                _ => continue,
            };
            // An edit of what is no message changes nothing.
            let Some(at) = times.get(&(&event.room, message)) else {
                continue;
            };
            let entry = Entry {
                at: *at,
                room: digest(event.room.as_str()),
                seq: message.get(),
            };
            // Only who wrote a message may edit it.
            let sender = event.from.as_ref().map(UserId::as_str);
            messages.push((entry, terms(event.room.as_str(), sender, text)));
        }
        self.search.add(messages).await
    }

    /// When stored messages were written.
    async fn times<'a>(
        &self,
        messages: &BTreeSet<(&'a RoomId, Seq)>,
    ) -> Result<Vec<((&'a RoomId, Seq), i64)>> {
        let places: Vec<_> = messages
            .iter()
            .map(|(room, seq)| place(room, *seq))
            .collect();
        let find = self
            .links
            .find(doc! { "_id": { "$in": places } })
            .projection(Link::fields());
        let found = async { find.await?.try_collect::<Vec<_>>().await };
        let found = self
            .mongo
            .run_within(super::insert::BATCH_WITHIN, found)
            .await?;
        let mut stored = HashMap::with_capacity(found.len());
        for link in &found {
            stored.insert((&*link.place.room, seq(link.place.seq)?), link.at);
        }
        let times = messages.iter().filter_map(|(room, seq)| {
            let at = stored.get(&(room.as_str(), *seq))?;
            Some(((*room, *seq), *at))
        });
        Ok(times.collect())
    }

    /// Goes on with what is to be in the index and is not, if there is anything: a page of events, as one process at a
    /// time does it.
    ///
    /// # Errors
    /// `Unavailable`; then the same page comes again.
    pub async fn cover(&self) -> Result<Cover> {
        if let Some(coverage) = self.search.coverage().await?
            && coverage.is_complete
        {
            return Ok(Cover::Complete);
        }
        let Some(coverage) = self.search.to_walk().await? else {
            return Ok(Cover::Elsewhere);
        };
        if coverage.is_complete {
            return Ok(Cover::Complete);
        }
        let page = self.page(&coverage).await?;
        let Some(last) = page.last() else {
            self.search.complete(&coverage).await?;
            tracing::info!(events = coverage.walked, "the index of search is complete");
            return Ok(Cover::Complete);
        };
        self.search
            .add(page.iter().filter_map(Walked::message).collect())
            .await?;
        // A room that was closed meanwhile is left out again.
        let rooms = page.iter().map(|walked| &*walked.place.room).collect();
        self.purge_rooms(rooms).await?;
        let (room, seq) = (&last.place.room, last.place.seq);
        self.search
            .advance(&coverage, room, seq, page.len())
            .await?;
        Ok(Cover::Walked(page.len()))
    }

    /// The events after what was walked.
    async fn page(&self, coverage: &Coverage) -> Result<Vec<Walked>> {
        let after = doc! { "room": &coverage.room, "seq": coverage.seq };
        let events: Collection<Walked> = self.mongo.collection(EVENTS);
        let find = events
            .find(doc! { "_id": { "$gt": after } })
            .sort(doc! { "_id": 1 })
            .projection(doc! { "at": 1, "from": 1, "gone": 1, "body.kind": 1, "body.text": 1, "now.text": 1 })
            .limit(PAGE);
        let found = async { find.await?.try_collect::<Vec<_>>().await };
        self.mongo
            .run_within(super::insert::BATCH_WITHIN, found)
            .await
    }

    /// What there is to know about the index.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn look_at_index(&self) -> Result<Indexed> {
        let coverage = self.search.coverage().await?;
        let heads = self.search.heads().await?;
        Ok(Indexed {
            segments: heads.len(),
            messages: heads.iter().map(|head| head.count).sum(),
            bytes: heads.iter().map(|head| head.bytes).sum(),
            walked: coverage.as_ref().map_or(0, |coverage| coverage.walked),
            is_complete: coverage.is_some_and(|coverage| coverage.is_complete),
            heads,
        })
    }

    /// Has the index made anew, beside what goes on. Until that is done, the present one is searched.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn rebuild_index(&self) -> Result<()> {
        self.search.ask_for_rebuild().await
    }

    /// Makes one segment of the index of several, where there are enough of about the same size, and answers whether it
    /// did. Of all processes that call this, one at a time does it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn merge_index(&self, indexed: Indexed) -> Result<bool> {
        self.search.merge(indexed.heads).await
    }

    /// Removes from the index what broken-off merges have left, and then rooms whose logs are closed, so many at most.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn sweep_index(&self, rooms_max: usize) -> Result<()> {
        self.search.sweep().await?;
        let closed = self.to_leave_out(rooms_max).await?;
        if closed.is_empty() {
            return Ok(());
        }
        let rooms: Vec<String> = closed.iter().map(|closed| closed.room.clone()).collect();
        let segments = self.search.leave_out(&rooms).await?;
        tracing::info!(
            rooms = rooms.len(),
            segments,
            "rooms left the index of search"
        );
        self.left_out(closed).await
    }
}

/// Events of a page of the walk: few enough that their texts fit into memory, whatever their length.
const PAGE: i64 = 500;

/// What a step of the walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// All that is stored is in the index.
    Complete,
    /// So many more events are.
    Walked(usize),
    /// Another process is at it.
    Elsewhere,
}

/// The index, as it is.
#[derive(Debug)]
pub struct Indexed {
    pub segments: usize,
    /// Some may count twice until segments are merged.
    pub messages: i64,
    pub bytes: i64,
    /// Events that the walk has behind it.
    pub walked: i64,
    /// Whether everything stored can be found.
    pub is_complete: bool,
    heads: Vec<Head>,
}

/// An event, as far as the index is concerned.
#[derive(Deserialize)]
struct Walked {
    #[serde(rename = "_id")]
    place: Place<'static>,
    at: i64,
    from: Option<String>,
    #[serde(default)]
    gone: bool,
    body: WalkedBody,
    now: Option<Text>,
}

#[derive(Deserialize)]
struct WalkedBody {
    kind: String,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

impl Walked {
    /// What it is found by, with its present text; nothing when it is no message, or is gone.
    fn message(&self) -> Option<(Entry, Vec<Term>)> {
        if self.gone || self.body.kind != kind::MESSAGE {
            return None;
        }
        let now = self.now.as_ref().map(|now| &now.text);
        let text = now.or(self.body.text.as_ref())?;
        let entry = Entry {
            at: self.at,
            room: digest(&self.place.room),
            seq: u64::try_from(self.place.seq).ok()?,
        };
        Some((entry, terms(&self.place.room, self.from.as_deref(), text)))
    }
}

/// All that a message can be found by.
fn terms(room: &str, sender: Option<&str>, text: &str) -> Vec<Term> {
    let words = tokens(text).into_iter().map(String::into_bytes);
    let sender = sender.map(sender_term);
    words.chain(sender).chain([room_term(room)]).collect()
}
