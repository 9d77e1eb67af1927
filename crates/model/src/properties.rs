//! The promises, and signs that something happens at all.

use stateright::Property;

use crate::Log;
use crate::state::{FENCE, Flight, State};

/// P1: what was acknowledged is stored or in the queue, before any fence that closes its place.
pub const ACKED_IS_KEPT: &str = "P1 acked is kept";
/// P2: what the reader was shown is the log up to there, without a hole.
pub const ONE_ORDER: &str = "P2 one order";
/// P3: what the reader was shown is stored or in the queue.
pub const SEEN_IS_DURABLE: &str = "P3 seen is durable";
/// P4: a message is in the log once, and all its acknowledgements say the same.
pub const SEND_AGAIN: &str = "P4 send again safely";
/// The worker never meets something that contradicts what is stored.
pub const NOTHING_IS_PARKED: &str = "nothing is parked";

/// P1 to P4.
pub const PROMISES: [&str; 4] = [ACKED_IS_KEPT, ONE_ORDER, SEEN_IS_DURABLE, SEND_AGAIN];

pub fn all() -> Vec<Property<Log>> {
    vec![
        Property::always(ACKED_IS_KEPT, |_, state: &State| acked_is_kept(state)),
        Property::always(ONE_ORDER, |_, state: &State| one_order(state)),
        Property::always(SEEN_IS_DURABLE, |_, state: &State| seen_is_durable(state)),
        Property::always(SEND_AGAIN, |_, state: &State| send_again(state)),
        Property::always(NOTHING_IS_PARKED, |_, state: &State| {
            !state.durable().has_parked
        }),
        Property::sometimes("an ack", |_, state: &State| {
            state.clients.acks.iter().any(|seq| *seq > 0)
        }),
        Property::sometimes("an ack given again", |_, state: &State| state.clients.again),
        Property::sometimes("an event helped through", |_, state: &State| {
            is_helped(state)
        }),
        Property::sometimes("a second generation open", |_, state: &State| {
            state.mongo.record.generation > 0 && state.mongo.record.is_open
        }),
        Property::sometimes("a fence shown", |_, state: &State| {
            state.reader.seen.iter().any(|event| event.id == FENCE)
        }),
        Property::sometimes("all messages shown", |log, state: &State| {
            let shown = state.reader.seen.iter().filter(|event| event.id != FENCE);
            shown.count() == usize::from(log.config.messages)
        }),
    ]
}

fn acked_is_kept(state: &State) -> bool {
    let acks = &state.clients.acks;
    if acks.iter().all(|seq| *seq == 0) {
        return true;
    }
    let durable = state.durable();
    (1..).zip(acks).all(|(id, seq)| {
        *seq == 0
            || durable
                .events
                .iter()
                .any(|event| event.id == id && event.seq == *seq)
    })
}

fn one_order(state: &State) -> bool {
    let seen = &state.reader.seen;
    if seen.is_empty() {
        return true;
    }
    let position = state.reader.position();
    let durable = state.durable();
    let mut upto = durable.events.iter().filter(|event| event.seq <= position);
    upto.all(|event| seen.contains(event)) && seen.is_sorted_by(|a, b| a.seq < b.seq)
}

fn seen_is_durable(state: &State) -> bool {
    let seen = &state.reader.seen;
    seen.is_empty() || {
        let durable = state.durable();
        seen.iter().all(|event| durable.events.contains(event))
    }
}

fn send_again(state: &State) -> bool {
    !state.clients.contradiction && !state.durable().has_twice
}

/// A helper has a message in the queue that nobody else publishes.
fn is_helped(state: &State) -> bool {
    state.pods.iter().any(|pod| {
        pod.help.is_some_and(|help| {
            help.event.id != FENCE
                && help.flight == Flight::Confirmed
                && state
                    .broker
                    .queue
                    .iter()
                    .filter(|event| **event == help.event)
                    .count()
                    == 1
        })
    })
}
