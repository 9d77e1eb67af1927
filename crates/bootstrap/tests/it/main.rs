//! The program over real servers.

mod bench;
mod mongodb;
mod rabbitmq;
mod redis;
mod secrets;
mod variables;
