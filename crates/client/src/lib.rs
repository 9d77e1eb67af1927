//! The Darda client: a resume engine without I/O, and a WebSocket connection that drives it.

pub mod engine;
