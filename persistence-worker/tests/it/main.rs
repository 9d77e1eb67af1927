//! The worker over real servers.

mod bench;
mod outage;
mod parked;
mod store;
