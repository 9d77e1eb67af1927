//! How long rooms could not be written.

use std::collections::BTreeMap;

use protocol::RoomId;
use serde::{Deserialize, Serialize};

use crate::history::{History, Injection, Micros};

const SECOND: Micros = 1_000_000;

/// Times without acks. Senders go on trying all the time, so what they are not told is what users could not do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outage {
    /// Seconds of the clock in which no send of a room was acked, in the room that had most.
    pub unavailable_secs: u64,
    /// The longest time between two acks in a row in a room.
    pub longest_gap_ms: u64,
    /// From the end of a fault to the first ack in the room that waited longest.
    pub slowest_recovery_ms: u64,
    /// The longest time from an act's first try to its first ack.
    pub slowest_ack_ms: u64,
    /// The same per fault of the session.
    pub runs: Vec<RunOutage>,
}

/// What one fault did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunOutage {
    pub run: u32,
    pub unavailable_secs: u64,
    pub longest_gap_ms: u64,
    /// None when no ack came before the next fault or the end.
    pub recovery_ms: Option<u64>,
}

/// Measures the outages.
#[must_use]
pub(super) fn measure(history: &History) -> Outage {
    let acks = acks_by_room(history);
    let (begin, end) = history.sending;
    let mut outage = Outage {
        unavailable_secs: worst(&acks, |acks| unavailable_secs(acks, begin, end)),
        longest_gap_ms: worst(&acks, |acks| longest_gap(acks, begin, end)) / 1000,
        slowest_ack_ms: slowest_ack(history) / 1000,
        ..Outage::default()
    };
    for (index, injection) in history.faults.iter().enumerate() {
        let until = history.faults.get(index + 1).map_or(end, |next| next.at);
        let run = of_run(injection, until.max(injection.at), &acks);
        outage.slowest_recovery_ms = outage.slowest_recovery_ms.max(
            run.recovery_ms
                .unwrap_or((until.saturating_sub(injection.healed)) / 1000),
        );
        outage.runs.push(run);
    }
    outage
}

/// When first acks came in each room that was sent to, ascending.
fn acks_by_room(history: &History) -> BTreeMap<&RoomId, Vec<Micros>> {
    let mut acks: BTreeMap<&RoomId, Vec<Micros>> = BTreeMap::new();
    for sent in &history.sent {
        if let Some(room) = sent.room() {
            acks.entry(room).or_default().extend(sent.first_ack());
        }
    }
    for times in acks.values_mut() {
        times.sort_unstable();
    }
    acks
}

fn of_run(
    injection: &Injection,
    until: Micros,
    acks: &BTreeMap<&RoomId, Vec<Micros>>,
) -> RunOutage {
    let recovery = |acks: &[Micros]| {
        let first = acks.get(acks.partition_point(|at| *at < injection.healed))?;
        (*first <= until).then_some(first - injection.healed)
    };
    let recoveries: Option<Vec<Micros>> = acks.values().map(|acks| recovery(acks)).collect();
    RunOutage {
        run: injection.run,
        unavailable_secs: worst(acks, |acks| unavailable_secs(acks, injection.at, until)),
        longest_gap_ms: worst(acks, |acks| longest_gap(acks, injection.at, until)) / 1000,
        recovery_ms: recoveries.and_then(|all| Some(all.into_iter().max()? / 1000)),
    }
}

fn worst(acks: &BTreeMap<&RoomId, Vec<Micros>>, of: impl Fn(&[Micros]) -> u64) -> u64 {
    acks.values().map(|acks| of(acks)).max().unwrap_or(0)
}

/// Whole seconds after `begin` in which nothing was acked.
fn unavailable_secs(acks: &[Micros], begin: Micros, end: Micros) -> u64 {
    let seconds = end.saturating_sub(begin) / SECOND;
    let is_silent = |second: &u64| {
        let (from, to) = (begin + second * SECOND, begin + (second + 1) * SECOND);
        let next = acks.get(acks.partition_point(|at| *at < from));
        next.is_none_or(|at| *at >= to)
    };
    (0..seconds).filter(is_silent).count() as u64
}

/// The longest time without an ack, the edges included.
fn longest_gap(acks: &[Micros], begin: Micros, end: Micros) -> Micros {
    let mut last = begin;
    let mut longest = 0;
    for at in acks.iter().copied().filter(|at| (begin..=end).contains(at)) {
        longest = longest.max(at - last);
        last = at;
    }
    longest.max(end.saturating_sub(last))
}

fn slowest_ack(history: &History) -> Micros {
    let wait =
        |sent: &crate::history::Sent| Some(sent.first_ack()?.saturating_sub(sent.first_try()?));
    history.sent.iter().filter_map(wait).max().unwrap_or(0)
}
