//! The reads, over real sockets, from the embedded family.

mod access;
mod events;
mod export;
mod harness;
mod inbox;
mod messages;
mod process;
mod search;
mod trace;
