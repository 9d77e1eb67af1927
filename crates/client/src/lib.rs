//! The Darda client.
//!
//! [`engine`] decides: a state machine without I/O that resumes rooms exactly and sends messages until they are
//! acknowledged. [`Client`] drives it over real sockets. [`Socket`] is one connection with typed frames and no memory at
//! all, for tests and measurements.
//!
//! TLS is not spoken here yet: a proxy in front of the server does that.

pub mod engine;

mod address;
mod connection;
mod socket;

pub use address::{Address, AddressError};
pub use connection::{Client, ClientConfig, Handle, Stopped, Update, Updates};
pub use socket::{Incoming, Socket, SocketError};
