//! The worker over real servers.

mod bench;
mod index;
mod outage;
mod parked;
mod shards;
mod store;
