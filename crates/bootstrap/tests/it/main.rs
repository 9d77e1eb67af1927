//! The program over real servers.

mod bench;
mod mongodb;
