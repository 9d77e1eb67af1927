//! Inserting batches, as often as needed, with the same outcome.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ::mongodb as driver;
use driver::Collection;
use driver::bson::doc;
use driver::error::{ErrorKind, IndexedWriteError};
use futures_util::TryStreamExt as _;
use protocol::{Event, RoomId, Seq, Timestamp};
use tokio::time::Instant;

use super::document::{Document, Way};
use super::{EVENTS, Store};
use crate::cluster::envelope::Origin;
use crate::cluster::mongo::trouble;
use crate::{Error, Result};

/// How long MongoDB may take for a batch, however large.
pub(super) const BATCH_WITHIN: Duration = Duration::from_secs(10);
/// How often, and after which pauses, a clash is looked up that nobody can see yet: what is in its way was written but
/// is not on the majority of members.
const LOOKS: u32 = 20;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// A segment of the index is kept through a rebuild for longer than this after it was written. Who was stopped in the
/// middle of a batch for as long writes it again.
const INDEX_HOLDS: Duration = Duration::from_secs(300);

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Inserted {
    /// Events that cannot be, with the reason: another event has their place, or their act has another place, or MongoDB
    /// refuses them for good. They were left out.
    pub violations: Vec<(Event, String)>,
}

/// How an event came to a worker.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub origin: Origin,
    /// When the broker gave it out.
    pub at: Timestamp,
}

/// An event, and how it came to a worker, if it did.
pub type Arrival<'a> = (&'a Event, Option<&'a Delivered>);

impl Delivered {
    fn way<'a>(&'a self, worker: &'a str, put: i64) -> Way<'a> {
        Way {
            pod: self.origin.pod.as_deref().map(Cow::Borrowed),
            sent: self.origin.at.map(Timestamp::as_millis),
            worker: worker.into(),
            got: self.at.as_millis(),
            put,
        }
    }
}

impl Store {
    /// Stores events in their order, on disk of the majority of members. What is stored already, the same, is fine.
    ///
    /// # Errors
    /// `Unavailable`; then a beginning may be stored, and the same call does the rest.
    pub async fn insert(&self, events: &[Event]) -> Result<Inserted> {
        let events: Vec<Arrival<'_>> = events.iter().map(|event| (event, None)).collect();
        self.insert_arrivals(&events, "").await
    }

    /// As [`Store::insert`], for a worker that also keeps how each event came to it, as far as that is known.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn insert_arrivals(
        &self,
        arrivals: &[Arrival<'_>],
        worker: &str,
    ) -> Result<Inserted> {
        let events: Vec<&Event> = arrivals.iter().map(|(event, _)| *event).collect();
        let begun = Instant::now();
        // First: what is stored can be found, whoever dies when.
        self.index(&events).await?;
        let inserted = self.insert_events(arrivals, worker).await?;
        if begun.elapsed() > INDEX_HOLDS {
            self.index(&events).await?;
        }
        Ok(inserted)
    }

    async fn insert_events(&self, arrivals: &[Arrival<'_>], worker: &str) -> Result<Inserted> {
        let mut inserted = Inserted::default();
        let (batch, deliveries): (Vec<&Event>, Vec<Option<&Delivered>>) =
            distinct(arrivals, &mut inserted).into_iter().unzip();
        let put = Timestamp::now().as_millis();
        let documents: Vec<Document<'_>> = batch
            .iter()
            .zip(deliveries)
            .map(|(event, delivered)| Document {
                way: delivered.map(|delivered| delivered.way(worker, put)),
                ..Document::new(event)
            })
            .collect();
        let mut left: Vec<usize> = (0..batch.len()).collect();
        let mut looks = 0;
        while !left.is_empty() {
            let Some((stored, clash)) = self.insert_documents(&documents, &left).await? else {
                break;
            };
            left.drain(..stored);
            let clashing = left[0];
            match clash {
                Clash::Duplicate => {
                    let before = left.len();
                    self.settle(&batch, &mut left, &mut inserted).await?;
                    if left.len() < before {
                        looks = 0;
                    }
                    if left.first() == Some(&clashing) {
                        looks += 1;
                        pause(looks).await?;
                    }
                }
                Clash::Refused(reason) => {
                    left.remove(0);
                    inserted.violate(batch[clashing], reason);
                }
            }
        }
        let of_messages: Vec<&Event> = batch
            .iter()
            .copied()
            .filter(|event| event.body.target().is_some())
            .filter(|event| {
                !inserted
                    .violations
                    .iter()
                    .any(|(left_out, _)| left_out == *event)
            })
            .collect();
        self.keep_present(&of_messages).await?;
        let rooms: BTreeSet<&str> = batch.iter().map(|event| event.room.as_str()).collect();
        if !rooms.is_empty() {
            self.purge_rooms(rooms).await?;
        }
        Ok(inserted)
    }

    /// Inserts until one is refused. Answers how many were inserted before it, and why it was not.
    async fn insert_documents(
        &self,
        documents: &[Document<'_>],
        left: &[usize],
    ) -> Result<Option<(usize, Clash)>> {
        let events: Collection<Document<'_>> = self.mongo.collection(EVENTS);
        let insert = events.insert_many(left.iter().map(|index| &documents[*index]));
        let answer = self
            .mongo
            .attempt_within(BATCH_WITHIN, insert.ordered(true))
            .await?;
        let Err(error) = answer else {
            return Ok(None);
        };
        let ErrorKind::InsertMany(failure) = error.kind.as_ref() else {
            return Err(trouble(&error));
        };
        if let Some(concern) = &failure.write_concern_error {
            return Err(Error::unavailable(format!("mongodb: {}", concern.message)));
        }
        match failure.write_errors.as_deref() {
            Some([first, ..]) => Ok(Some((first.index, Clash::new(first)?))),
            _ => Err(Error::unavailable(format!("mongodb: {}", error.kind))),
        }
    }

    /// Takes out of `left` what is stored already, and what never can be.
    async fn settle(
        &self,
        batch: &[&Event],
        left: &mut Vec<usize>,
        inserted: &mut Inserted,
    ) -> Result<()> {
        let known = self.known(left.iter().map(|index| batch[*index])).await?;
        let (places, acts) = (by_place(&known), by_act(&known));
        left.retain(|&index| {
            let event = batch[index];
            if let Some(stored) = places.get(&(&event.room, event.seq)) {
                if **stored != *event {
                    inserted.violate(
                        event,
                        format!("its place holds another event: {}", name(stored)),
                    );
                }
                return false;
            }
            if let Some(stored) = act(event).and_then(|act| acts.get(&act)) {
                inserted.violate(
                    event,
                    format!("its act has another place: {}", name(stored)),
                );
                return false;
            }
            true
        });
        Ok(())
    }

    /// What is stored at the places of these events or with their ids. On the majority of members: what is not may
    /// still vanish.
    async fn known(&self, events: impl Iterator<Item = &Event>) -> Result<Vec<Event>> {
        let (mut places, mut ids) = (Vec::new(), Vec::new());
        for event in events {
            places.push(super::place(&event.room, event.seq));
            ids.extend(event.id.map(super::uuid));
        }
        let at_place = doc! { "_id": { "$in": places } };
        let of_act = doc! { "id": { "$in": ids } };
        let find = self.events.find(doc! { "$or": [at_place, of_act] });
        let found = async { find.await?.try_collect::<Vec<_>>().await };
        let found = self.mongo.run_within(BATCH_WITHIN, found).await?;
        found.into_iter().map(Document::event).collect()
    }
}

impl Inserted {
    fn violate(&mut self, event: &Event, reason: String) {
        self.violations.push((event.clone(), reason));
    }
}

/// Why a document was not inserted.
enum Clash {
    /// A key of it exists.
    Duplicate,
    /// It would not be taken another time either.
    Refused(String),
}

impl Clash {
    fn new(error: &IndexedWriteError) -> Result<Self> {
        // BadValue, InvalidBSON, DocumentValidationFailure, BSONObjectTooLarge, too large for the storage engine.
        const FOR_GOOD: [i32; 5] = [2, 22, 121, 10_334, 17_419];
        match error.code {
            11_000 => Ok(Self::Duplicate),
            code if FOR_GOOD.contains(&code) => Ok(Self::Refused(format!(
                "mongodb refuses it: {}",
                error.message
            ))),
            _ => Err(Error::unavailable(format!("mongodb: {}", error.message))),
        }
    }
}

/// The events of a batch, each once.
fn distinct<'a>(arrivals: &[Arrival<'a>], inserted: &mut Inserted) -> Vec<Arrival<'a>> {
    let mut places: HashMap<(&RoomId, Seq), &Event> = HashMap::with_capacity(arrivals.len());
    let mut batch = Vec::with_capacity(arrivals.len());
    for &(event, delivered) in arrivals {
        match places.entry((&event.room, event.seq)) {
            Entry::Vacant(place) => {
                place.insert(event);
                batch.push((event, delivered));
            }
            Entry::Occupied(first) if *first.get() != event => inserted.violate(
                event,
                "its place has another event in the same batch".to_owned(),
            ),
            Entry::Occupied(_) => {}
        }
    }
    batch
}

type Act<'a> = (
    &'a RoomId,
    Option<&'a protocol::UserId>,
    protocol::MessageId,
);

fn act(event: &Event) -> Option<Act<'_>> {
    Some((&event.room, event.from.as_ref(), event.id?))
}

fn by_place(events: &[Event]) -> HashMap<(&RoomId, Seq), &Event> {
    events
        .iter()
        .map(|event| ((&event.room, event.seq), event))
        .collect()
}

fn by_act(events: &[Event]) -> HashMap<Act<'_>, &Event> {
    events
        .iter()
        .filter_map(|event| Some((act(event)?, event)))
        .collect()
}

/// An event for the operator's eyes: nothing of what people wrote.
fn name(event: &Event) -> String {
    let id = event.id.map(|id| format!(", id {id}")).unwrap_or_default();
    format!("{} {} of {}{id}", event.body.kind(), event.seq, event.room)
}

async fn pause(looks: u32) -> Result<()> {
    if looks > LOOKS {
        return Err(Error::unavailable(
            "mongodb: what is in the way of an event is not on the majority of members",
        ));
    }
    tokio::time::sleep(LOOK_PAUSE).await;
    Ok(())
}
