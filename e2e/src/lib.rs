//! The checker: many senders and readers over several processes, faults, and a judge that compares what was
//! acknowledged, what was shown and what is kept.
//!
//! [`history`] is what a session's clients write down, [`judge`] what decides over it.

pub mod history;
pub mod judge;
