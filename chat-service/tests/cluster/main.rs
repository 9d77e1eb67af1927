//! The program over the cluster family: real processes, real servers.
#![cfg(feature = "cluster")]

mod chat;
mod metrics;
mod outages;
mod people;
mod stage;
mod trace;
