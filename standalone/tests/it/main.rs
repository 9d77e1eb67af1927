//! The promises of the one-process server, broken on purpose: a real process, real sockets, a real disk.
//!
//! One file per promise; `docs/guarantees.md` says which is which. [`server`] starts and ends processes, [`chat`] talks
//! to them as a well-behaved client does, [`raw`] as none should.

mod chat;
mod http;
mod raw;
mod server;

mod bad_input;
mod crash;
mod disk;
mod drain;
mod idempotence;
mod metrics;
mod signals;
mod slow_reader;
mod start;
