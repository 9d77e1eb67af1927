//! The checker: many senders and readers over several processes, faults, and a judge that compares what was
//! acknowledged, what was shown and what is kept.
//!
//! [`history`] is what a session's clients write down, [`judge`] what decides over it.

pub mod crowd;
pub mod fault;
pub mod history;
pub mod http;
pub mod judge;
pub mod matrix;
pub mod process;
pub mod report;
pub mod system;
pub mod watch;
pub mod workload;
