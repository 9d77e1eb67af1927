//! What each Darda process needs at birth: configuration from the environment, the command line, telemetry, shutdown,
//! health and metrics. Depends on nothing else of Darda's.

pub mod admin;
pub mod cli;
pub mod env;
pub mod health;
pub mod listen;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;
pub mod trace;

pub use env::{EnvError, Variable};
pub use health::Readiness;
pub use listen::Listen;
pub use metrics::Metrics;
