//! A batch on its way into the store. Whatever step fails, the same batch is tried again and goes on where it was.

use std::collections::VecDeque;
use std::sync::Arc;

use backend::Result;
use backend::cluster::envelope::Broken;
use backend::cluster::parked::Unfit;
use protocol::{Event, RoomId, Seq, Timestamp};
use serde::Deserialize;
use tracing::error;

use crate::Worker;
use crate::batch::Batch;
use crate::commit::Violation;
use crate::marks::Link;

pub struct Work {
    batch: Arc<Batch>,
    /// Whether the events are stored, and how many of those sent again.
    is_stored: bool,
    stored_again: usize,
    /// A try has failed.
    has_failed: bool,
    unfit: VecDeque<Outcast>,
    /// What was stored, for the marks.
    links: Vec<Link>,
}

/// Something to park.
struct Outcast {
    unfit: Unfit,
    /// Where a void goes.
    place: Option<Place>,
    is_parked: bool,
}

/// What a line says about its place, whatever else is wrong with it.
#[derive(Deserialize)]
struct Place {
    room: RoomId,
    seq: Seq,
    /// Null at a fence. A void with such a `prev` would be taken for one.
    prev: Seq,
    #[serde(default)]
    at: Option<Timestamp>,
}

impl Work {
    /// Says in the traces that it was not done, after so many tries. Whoever gets it next says what became of it.
    pub fn given_up(&self, tries: u64) {
        for span in &self.batch.spans {
            span.record("tries", tries);
            runtime::trace::fail(span);
        }
    }

    pub fn new(mut batch: Batch) -> Self {
        let broken = std::mem::take(&mut batch.broken);
        let links = Vec::with_capacity(batch.events.len());
        Self {
            is_stored: batch.events.is_empty(),
            stored_again: 0,
            has_failed: false,
            unfit: broken.into_iter().map(Outcast::broken).collect(),
            links,
            batch: Arc::new(batch),
        }
    }

    /// Does what is left.
    pub async fn go_on(&mut self, worker: &Worker) -> Result<()> {
        let done = self.try_to_go_on(worker).await;
        self.has_failed |= done.is_err();
        done
    }

    async fn try_to_go_on(&mut self, worker: &Worker) -> Result<()> {
        let batch = Arc::clone(&self.batch);
        if !self.is_stored {
            let stored = worker.commits.store(Arc::clone(&batch), self.has_failed);
            self.note(worker, &batch.events, stored.await?);
            self.is_stored = true;
        }
        while let Some(event) = batch.again.get(self.stored_again) {
            let inserted = worker.store.insert_again(event).await?;
            self.note(worker, std::slice::from_ref(event), inserted.violations);
            self.stored_again += 1;
        }
        while let Some(outcast) = self.unfit.front_mut() {
            outcast.settle(worker).await?;
            self.unfit.pop_front();
        }
        Ok(())
    }

    /// What was stored, and the batch to acknowledge.
    pub fn done(self) -> (Arc<Batch>, Vec<Link>) {
        (self.batch, self.links)
    }

    fn note(&mut self, worker: &Worker, events: &[Event], violations: Vec<Violation>) {
        self.links.extend(links(events, &violations));
        for (event, reason) in violations {
            worker.metrics.violations.inc();
            self.unfit.push_back(Outcast::violation(&event, reason));
        }
    }
}

impl Outcast {
    fn broken(broken: Broken) -> Self {
        let place: Option<Place> = serde_json::from_slice(&broken.line).ok();
        Self {
            unfit: Unfit {
                reason: format!("no event: {}", broken.reason),
                room: place.as_ref().map(|place| place.room.clone()),
                seq: place.as_ref().map(|place| place.seq),
                line: broken.line,
            },
            place,
            is_parked: false,
        }
    }

    fn violation(event: &Event, reason: String) -> Self {
        Self {
            unfit: Unfit {
                line: protocol::encode_event(event),
                reason,
                room: Some(event.room.clone()),
                seq: Some(event.seq),
            },
            place: event.prev.map(|prev| Place {
                room: event.room.clone(),
                seq: event.seq,
                prev,
                at: Some(event.at),
            }),
            is_parked: false,
        }
    }

    /// Parks it, and keeps its place if nothing is there.
    async fn settle(&mut self, worker: &Worker) -> Result<()> {
        if !self.is_parked {
            worker.lot.park(&self.unfit).await?;
            self.is_parked = true;
            worker.metrics.parked.inc();
            let Unfit { room, seq, .. } = &self.unfit;
            error!(
                room.id = room.as_ref().map(RoomId::as_str),
                seq = seq.map(Seq::get),
                "a line cannot be stored and is parked; see `persistence-worker parked list`"
            );
        }
        if let Some(Place {
            room,
            seq,
            prev,
            at,
        }) = &self.place
        {
            let at = at.unwrap_or_else(Timestamp::now);
            worker.store.keep_place(room, *seq, Some(*prev), at).await?;
        }
        Ok(())
    }
}

/// The links of what was inserted.
fn links(events: &[Event], violations: &[Violation]) -> impl Iterator<Item = Link> {
    let violates = |event: &&Event| violations.iter().any(|(other, _)| other == *event);
    events
        .iter()
        .filter(move |event| violations.is_empty() || !violates(event))
        .map(|event| Link {
            room: event.room.clone(),
            prev: event.prev,
            seq: event.seq,
        })
}
