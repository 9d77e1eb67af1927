//! Real servers for tests and for a cluster on one machine: Redis, RabbitMQ and a MongoDB replica set, each a process of
//! its own with a private folder and free ports on 127.0.0.1, and a TCP proxy that can be cut.
//!
//! Most tests share three servers and keep apart by a [`namespace`]:
//!
//! ```no_run
//! # async fn test() {
//! if let Some(what) = testbed::missing() {
//!     testbed::skipped(&what);
//!     return;
//! }
//! let servers = testbed::shared().await;
//! let (url, namespace) = (&servers.redis_url, testbed::namespace());
//! # }
//! ```
//!
//! A test that kills a server starts its own: [`Redis::start`], [`RabbitMq::start`], [`Mongo::start`]. Everything that was
//! started ends with the value that holds it, and also when the test is killed. Starting is bounded in time; the error
//! says what the server's log ended with.
//!
//! Not here: containers, servers of several nodes other than the replica set, anything that is shipped.

mod certificates;
mod cluster;
mod mongo;
mod ports;
mod process;
mod programs;
mod prometheus;
mod proxy;
mod rabbitmq;
mod redis;
mod run;
mod shared;

pub use certificates::{Authority, Certificate};
pub use cluster::{Ports, cluster};
pub use mongo::{Member, Mongo, MongoOptions};
pub use process::Data;
pub use prometheus::{Prometheus, promtool};
pub use proxy::Proxy;
pub use rabbitmq::{Generation, RabbitMq, RabbitMqOptions};
pub use redis::{Flavour, Redis, RedisOptions};
pub use run::run;
pub use shared::{Servers, missing, namespace, shared, skipped};
