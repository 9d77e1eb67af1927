//! Where a service listens.

use std::net::{SocketAddr, TcpListener};

use serde::Deserialize;

use crate::env::{self, EnvError, Variable};

/// The variables of [`Listen`].
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "DARDA_HTTP_ADDR",
        default: "127.0.0.1:8080",
        meaning: "Address and port for clients. Port 0 takes a free one.",
    },
    Variable {
        name: "DARDA_ADMIN_ADDR",
        default: "127.0.0.1:9090",
        meaning: "Address and port for /metrics, /healthz and /readyz, for operators only. Port 0 takes a free one.",
    },
];

/// The addresses of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listen {
    #[serde(default = "http")]
    pub http_addr: SocketAddr,
    #[serde(default = "admin")]
    pub admin_addr: SocketAddr,
}

fn http() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn admin() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9090))
}

impl Listen {
    /// # Errors
    /// When one of [`VARIABLES`] is bad.
    pub fn from_env() -> Result<Self, EnvError> {
        env::read("DARDA_")
    }

    /// Binds the port for operators.
    ///
    /// # Errors
    /// Names the variable, when the address cannot be had.
    pub fn bind_admin(&self) -> Result<TcpListener, EnvError> {
        bind("DARDA_ADMIN_ADDR", self.admin_addr)
    }

    /// Binds the port for clients.
    ///
    /// # Errors
    /// Names the variable, when the address cannot be had.
    pub fn bind_http(&self) -> Result<TcpListener, EnvError> {
        bind("DARDA_HTTP_ADDR", self.http_addr)
    }
}

fn bind(name: &str, addr: SocketAddr) -> Result<TcpListener, EnvError> {
    TcpListener::bind(addr)
        .map_err(|error| EnvError::new(name, format!("cannot listen on {addr}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_named() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = taken.local_addr().unwrap();
        let listen = Listen {
            http_addr: addr,
            admin_addr: addr,
        };
        let error = listen.bind_admin().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("DARDA_ADMIN_ADDR: cannot listen on {addr}: ")),
            "{error}"
        );
        assert!(listen.bind_http().is_err());
    }
}
