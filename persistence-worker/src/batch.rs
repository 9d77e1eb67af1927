//! What a shard stores at once.

use std::time::Duration;

use backend::cluster::envelope::{self, Broken, Origin, Traces};
use backend::cluster::parked::REPLAY_HEADER;
use backend::cluster::store::{Arrival, Delivered};
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{Acker, Consumer};

use lapin::message::Delivery;
use protocol::{Event, Timestamp};
use runtime::trace::{self, TARGET};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, field, info_span};

use crate::metrics::InHand;

/// A batch is complete when it has this many events,
const EVENTS_MAX: usize = 1000;
/// or was gathered from this many envelopes,
pub const ENVELOPES_MAX: u16 = 256;
/// or when this much time has passed since its first.
const GATHER_WITHIN: Duration = Duration::from_millis(30);

/// Deliveries that are stored and acknowledged together.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order of the queue.
    pub events: Vec<Event>,
    /// How each of them came here.
    pub deliveries: Vec<Delivered>,
    /// Lines that are no events.
    pub broken: Vec<Broken>,
    /// Events that a person sent again.
    pub again: Vec<Event>,
    /// What traced events of it are traced by, from their arrival to their acknowledgement.
    pub spans: Vec<Span>,
    envelopes: u16,
    /// The last delivery; its acknowledgement is that of all.
    last: Option<Acker>,
}

/// Why there is no batch.
pub enum Ended {
    /// It is time to end.
    Shutdown,
    /// The channel is gone.
    Lost(Option<lapin::Error>),
}

impl Batch {
    /// Waits for a delivery and takes what else is there or comes soon.
    pub async fn gather(
        consumer: &mut Consumer,
        in_hand: &InHand,
        shutdown: &CancellationToken,
    ) -> Result<Self, Ended> {
        let first = match consumer.next().now_or_never() {
            Some(first) => first,
            None => {
                in_hand.release();
                tokio::select! {
                    first = consumer.next() => first,
                    () = shutdown.cancelled() => return Err(Ended::Shutdown),
                }
            }
        };
        if shutdown.is_cancelled() {
            return Err(Ended::Shutdown);
        }
        let mut batch = Self::default();
        batch.add(delivered(first)?);
        if let Some(oldest) = batch.oldest() {
            in_hand.hold(oldest);
        }
        let deadline = Instant::now() + GATHER_WITHIN;
        while batch.len() < EVENTS_MAX && batch.envelopes < ENVELOPES_MAX {
            match tokio::time::timeout_at(deadline, consumer.next()).await {
                Ok(next) => batch.add(delivered(next)?),
                Err(_) => break,
            }
        }
        Ok(batch)
    }

    fn add(&mut self, delivery: Delivery) {
        let is_again = delivery
            .properties
            .headers()
            .as_ref()
            .is_some_and(|headers| headers.contains_key(REPLAY_HEADER));
        let delivered = Delivered {
            origin: Origin::of(&delivery.properties),
            at: Timestamp::now(),
        };
        let traces = match trace::is_on() {
            true => Traces::said(&delivery.properties),
            false => Traces::default(),
        };
        for (number, line) in envelope::decode(&delivery.data).into_iter().enumerate() {
            if let (Ok(event), Some(traceparent)) = (&line, traces.of_line(number)) {
                self.spans.push(span_of(event, traceparent));
            }
            match line {
                Ok(event) if is_again => self.again.push(event),
                Ok(event) => {
                    self.events.push(event);
                    self.deliveries.push(delivered.clone());
                }
                Err(broken) => self.broken.push(broken),
            }
        }
        self.envelopes += 1;
        self.last = Some(delivery.acker);
    }

    /// The events, each with how it came here.
    pub fn arrivals(&self) -> impl Iterator<Item = Arrival<'_>> {
        self.events.iter().zip(self.deliveries.iter().map(Some))
    }

    fn len(&self) -> usize {
        self.events.len() + self.broken.len() + self.again.len()
    }

    /// The time of the first event.
    fn oldest(&self) -> Option<Timestamp> {
        self.events.first().map(|event| event.at)
    }

    /// Tells the broker that all of it is stored or parked.
    pub async fn ack(&self) -> lapin::Result<()> {
        if let Some(last) = &self.last {
            let all = lapin::options::BasicAckOptions { multiple: true };
            last.ack(all).await?;
        }
        Ok(())
    }
}

/// A traced event, from its arrival here.
fn span_of(event: &Event, traceparent: &str) -> Span {
    trace::follow(traceparent, || {
        info_span!(
            target: TARGET,
            parent: None,
            "store",
            otel.kind = "consumer",
            messaging.system = "rabbitmq",
            trace_id = field::Empty,
            room.id = %event.room,
            room.seq = event.seq.get(),
            tries = field::Empty,
        )
    })
}

fn delivered(next: Option<lapin::Result<Delivery>>) -> Result<Delivery, Ended> {
    match next {
        Some(Ok(delivery)) => Ok(delivery),
        Some(Err(error)) => Err(Ended::Lost(Some(error))),
        None => Err(Ended::Lost(None)),
    }
}
