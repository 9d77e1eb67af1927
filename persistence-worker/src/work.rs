//! A batch on its way into the store. Whatever step fails, the same batch is tried again and goes on where it was.

use std::collections::VecDeque;

use backend::Result;
use backend::cluster::envelope::Broken;
use backend::cluster::parked::Unfit;
use backend::cluster::store::Inserted;
use protocol::{Event, RoomId, Seq, Timestamp};
use serde::Deserialize;
use tracing::error;

use crate::Worker;
use crate::batch::{Batch, EVENTS_MAX};
use crate::marks::Link;

pub struct Work {
    batch: Batch,
    /// How many of the events, and of those sent again, are done.
    stored: usize,
    stored_again: usize,
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
    pub fn new(mut batch: Batch) -> Self {
        let broken = std::mem::take(&mut batch.broken);
        let links = Vec::with_capacity(batch.events.len());
        Self {
            batch,
            stored: 0,
            stored_again: 0,
            unfit: broken.into_iter().map(Outcast::broken).collect(),
            links,
        }
    }

    /// Does what is left.
    pub async fn go_on(&mut self, worker: &Worker) -> Result<()> {
        while self.stored < self.batch.events.len() {
            let end = (self.stored + EVENTS_MAX).min(self.batch.events.len());
            let chunk = &self.batch.events[self.stored..end];
            let deliveries = &self.batch.deliveries[self.stored..end];
            let inserted = worker
                .store
                .insert_delivered(chunk, &worker.name, deliveries)
                .await?;
            self.links.extend(links(chunk, &inserted));
            self.stored = end;
            self.judge(worker, inserted);
        }
        while let Some(event) = self.batch.again.get(self.stored_again) {
            let inserted = worker.store.insert_again(event).await?;
            self.links
                .extend(links(std::slice::from_ref(event), &inserted));
            self.stored_again += 1;
            self.judge(worker, inserted);
        }
        while let Some(outcast) = self.unfit.front_mut() {
            outcast.settle(worker).await?;
            self.unfit.pop_front();
        }
        Ok(())
    }

    /// What was stored, and the batch to acknowledge.
    pub fn done(self) -> (Batch, Vec<Link>) {
        (self.batch, self.links)
    }

    fn judge(&mut self, worker: &Worker, inserted: Inserted) {
        for (event, reason) in inserted.violations {
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
fn links(events: &[Event], inserted: &Inserted) -> Vec<Link> {
    let violates = |event: &Event| {
        let mut violations = inserted.violations.iter();
        violations.any(|(other, _)| other == event)
    };
    events
        .iter()
        .filter(|event| inserted.violations.is_empty() || !violates(event))
        .map(|event| Link {
            room: event.room.clone(),
            prev: event.prev,
            seq: event.seq,
        })
        .collect()
}
