//! The two connections to the broker: one listens, one speaks. A broker that is short of memory or disk stops reading
//! from connections that publish, and listening must go on then.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ::lapin as driver;
use driver::message::Delivery;
use driver::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use driver::types::FieldTable;
use driver::{Channel, Connection, Consumer, Event};
use futures_util::future::{self, FutureExt as _};
use futures_util::stream::StreamExt as _;

use super::outbox::Message;
use super::wire::{self, Kind, Sent};
use super::{Inner, Upstream};
use crate::cluster::backoff::Backoff;
use crate::cluster::{envelope, topology};
use crate::{Error, Relay, Result};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long it may take until a new connection can be used: the broker makes queues on several nodes meanwhile.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Messages that the broker sends ahead. Without a bound the driver would keep whatever comes.
const AHEAD_MAX: u16 = 64;
/// Messages that are sent together, one per pod at most.
const ROUND_MAX: usize = 64;

/// Listens for as long as the process lives.
pub async fn listen(inner: Arc<Inner>, upstream: Arc<dyn Upstream>) {
    let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    let mut number = 0;
    loop {
        number += 1;
        let why = match ready(open_listener(&inner, number)).await {
            Err(error) => error,
            Ok((_connection, mut consumer)) => {
                inner.listening.store(true, Relaxed);
                backoff.reset();
                // Whatever was sent until now may have found no queue.
                upstream.lost();
                let why = receive(&inner, &*upstream, &mut consumer).await;
                inner.listening.store(false, Relaxed);
                inner.counters.reconnects.fetch_add(1, Relaxed);
                why
            }
        };
        pause(&inner, "hear from", &why, &mut backoff).await;
    }
}

/// Sends for as long as the process lives.
pub async fn speak(inner: Arc<Inner>) {
    let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    loop {
        let why = match ready(open_speaker(&inner)).await {
            Err(error) => error,
            Ok((connection, channel)) => {
                inner.outbox.tell_of_loss();
                *inner.speaker() = Some(connection.status().clone());
                backoff.reset();
                let why = send(&inner, &connection, &channel).await;
                *inner.speaker() = None;
                inner.counters.reconnects.fetch_add(1, Relaxed);
                why
            }
        };
        pause(&inner, "speak to", &why, &mut backoff).await;
    }
}

async fn pause(inner: &Inner, act: &str, why: &Error, backoff: &mut Backoff) {
    if backoff.is_fresh() {
        tracing::warn!(error = %why, "this pod cannot {act} others for now");
    }
    *inner.trouble() = Some(why.to_string());
    tokio::time::sleep(backoff.pause()).await;
}

async fn ready<T>(opening: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(READY_WITHIN, opening)
        .await
        .map_err(|_| Error::unavailable("rabbitmq: it is not ready in time"))?
}

/// A connection and a consumer of a queue that is only this connection's.
async fn open_listener(inner: &Inner, number: u64) -> Result<(Connection, Consumer)> {
    let (connection, channel) = open(inner, "darda relay in").await?;
    let pod = inner.pod.as_str();
    inner.topology.declare_relay(&channel, pod, number).await?;
    channel
        .basic_qos(AHEAD_MAX, BasicQosOptions::default())
        .await
        .map_err(|e| topology::trouble(&e))?;
    let options = BasicConsumeOptions {
        exclusive: true,
        ..BasicConsumeOptions::default()
    };
    let queue = inner.topology.relay_queue(pod, number);
    let consumer = channel
        .basic_consume(queue.into(), pod.into(), options, FieldTable::default())
        .await
        .map_err(|e| topology::trouble(&e))?;
    Ok((connection, consumer))
}

async fn open_speaker(inner: &Inner) -> Result<(Connection, Channel)> {
    open(inner, "darda relay out").await
}

async fn open(inner: &Inner, name: &str) -> Result<(Connection, Channel)> {
    let connection = topology::connect(&inner.rabbitmq, name).await?;
    let channel = connection
        .create_channel()
        .await
        .map_err(|e| topology::trouble(&e))?;
    inner.topology.declare(&channel).await?;
    Ok((connection, channel))
}

/// Takes messages until there are no more; says why.
async fn receive(inner: &Inner, upstream: &dyn Upstream, consumer: &mut Consumer) -> Error {
    let ended = || Error::unavailable("rabbitmq: the queue or the connection is gone");
    loop {
        let mut delivery = match consumer.next().await {
            None => return ended(),
            Some(Err(error)) => return topology::trouble(&error),
            Some(Ok(delivery)) => delivery,
        };
        inner.take(upstream, &delivery);
        // Those that are here already are acknowledged together.
        for _ in 1..AHEAD_MAX / 2 {
            match consumer.next().now_or_never() {
                Some(Some(Ok(next))) => delivery = next,
                Some(Some(Err(error))) => return topology::trouble(&error),
                Some(None) => return ended(),
                None => break,
            }
            inner.take(upstream, &delivery);
        }
        let acked = delivery.acker.ack(BasicAckOptions { multiple: true });
        if let Err(error) = acked.await {
            return topology::trouble(&error);
        }
    }
}

/// Sends in rounds, a message per pod: what comes during a round travels together in the next.
async fn send(inner: &Inner, connection: &Connection, channel: &Channel) -> Error {
    let events = connection.events_listener();
    let errors = events.filter_map(|event| async {
        match event {
            Event::Error(error) => Some(topology::trouble(&error)),
            _ => None,
        }
    });
    let mut errors = pin!(errors);
    loop {
        tokio::select! {
            () = inner.outbox.filled() => {}
            // A connection that is not used says nothing otherwise.
            error = errors.next() => {
                return error.unwrap_or_else(|| Error::unavailable("rabbitmq: the connection is gone"));
            }
        }
        inner.sending.store(true, Relaxed);
        let messages = inner.outbox.take(ROUND_MAX);
        let sending = messages
            .iter()
            .map(|message| publish(inner, channel, message));
        for (sent, message) in future::join_all(sending).await.into_iter().zip(&messages) {
            let counters = &inner.counters;
            if let Err(error) = sent {
                let lost = messages.iter().map(|message| message.lines).sum();
                counters.unsent.fetch_add(lost, Relaxed);
                return error;
            }
            match message.kind {
                Kind::Events => counters.events_sent.fetch_add(message.lines, Relaxed),
                Kind::Signals => counters.signals_sent.fetch_add(message.lines, Relaxed),
                Kind::Missed => 0,
            };
        }
        inner.sending.store(false, Relaxed);
        inner.sent.notify_waiters();
    }
}

/// Done when the message is written to the socket. Waits while the broker does not read.
async fn publish(inner: &Inner, channel: &Channel, message: &Message) -> Result<()> {
    channel
        .basic_publish(
            inner.topology.relay_exchange().into(),
            message.pod.as_str().into(),
            BasicPublishOptions::default(),
            &message.body,
            wire::properties(message.kind, inner.pod.as_str()),
        )
        .await
        .map(drop)
        .map_err(|e| topology::trouble(&e))
}

impl Inner {
    /// Hands a message on.
    fn take(&self, upstream: &dyn Upstream, delivery: &Delivery) {
        if wire::is_own(&delivery.properties, self.pod.as_str()) {
            return;
        }
        let broken = match Kind::of(&delivery.properties) {
            Some(Kind::Events) => self.take_events(upstream, &delivery.data),
            Some(Kind::Signals) => self.take_signals(&delivery.data),
            Some(Kind::Missed) => {
                upstream.lost();
                0
            }
            None => 1,
        };
        if broken > 0 {
            self.counters.broken.fetch_add(broken, Relaxed);
            tracing::debug!(broken, "lines from another pod say nothing to this version");
        }
    }

    fn take_events(&self, upstream: &dyn Upstream, message: &[u8]) -> u64 {
        let lines = envelope::decode(message);
        let count = lines.len();
        let events: Vec<_> = lines
            .into_iter()
            .filter_map(|line| line.ok().map(Arc::new))
            .collect();
        let broken = (count - events.len()) as u64;
        self.counters
            .events_received
            .fetch_add(events.len() as u64, Relaxed);
        if !events.is_empty() {
            upstream.remote(events);
        }
        broken
    }

    fn take_signals(&self, message: &[u8]) -> u64 {
        let (signals, broken) = wire::signals(message);
        self.counters
            .signals_received
            .fetch_add(signals.len() as u64, Relaxed);
        for Sent { signal, version } in signals {
            match version {
                Some(version) => self.announce(signal, version),
                None => self.local.signal(signal),
            }
        }
        broken
    }
}
