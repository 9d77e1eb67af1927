//! The cluster family: any number of processes share one chat over Redis, RabbitMQ and MongoDB.
//!
//! An event is appended in Redis ([`log`]), published to a shard queue and, once the broker has confirmed it, it is in
//! the log for good: the sender is answered, local readers and other pods ([`relay`]) are told, and the persistence
//! worker stores it ([`store`]). What Redis loses is fenced off by generations ([`generation`]).

pub mod backoff;
pub mod breaker;
pub mod envelope;
pub mod migrations;
pub mod mongo;
pub mod redis;
pub mod relay;
pub mod settings;
pub mod store;
pub mod topology;

pub use mongo::Mongo;
pub use redis::Redis;
pub use settings::Settings;
pub use store::Store;
