//! The judge: compares what senders were told, what readers were shown and what is kept.
//!
//! It knows nothing of how the server works. It knows the promises:
//!
//! - P1, every ack names a place in the log, and the act stands there.
//! - P2, the log is one chain; every reader was shown a piece of it, in its order, each event once, without a hole. Who
//!   sends after somebody else was acked comes after.
//! - P3, whatever anybody was shown is in the log, the same in every field.
//! - P4, all acks of an id name the same place, and an act stands in the log once at most, acked or not.
//! - P5, a reader that stayed knows the end of the log.
//! - P7, in the end everything was answered, and nothing right was refused for good.
//!
//! How long rooms could not be written is measured beside that: see [`Outage`].

mod acks;
mod log;
mod outage;
mod verdict;
mod views;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use protocol::{MessageId, UserId};

use crate::history::{History, Sent};

pub use outage::{Outage, RunOutage};
pub use verdict::{Column, KEPT_MAX, Kind, Messages, Verdict, Violation};

/// Judges a session.
#[must_use]
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let sent: HashMap<(&UserId, MessageId), &Sent> = history
        .sent
        .iter()
        .map(|sent| ((&sent.from, sent.id()), sent))
        .collect();
    let logs = history
        .logs
        .iter()
        .map(|(room, events)| (room, log::judge(room, events, &sent, &mut verdict)))
        .collect();
    acks::judge(history, &logs, &mut verdict);
    views::judge(history, &logs, &mut verdict);
    log::copies(history, &mut verdict);
    verdict.outage = outage::measure(history);
    verdict
}
