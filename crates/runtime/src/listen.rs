//! Where a service listens, and with which socket options.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde::Deserialize;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

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

/// Bytes in the kernel for each direction of a connection. Small: a client that does not read costs this much, not
/// megabytes, and at one write per some milliseconds nothing is lost by it.
const SOCKET_BUFFER: usize = 64 * 1024;
/// A client that acknowledges nothing for this long is gone (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Clients that come back all at once wait here until they are accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 8192;

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

/// A listening socket. Connections inherit its options, so they are set before the first can come.
///
/// # Errors
/// When the address cannot be had.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind(name: &str, addr: SocketAddr) -> Result<TcpListener, EnvError> {
    listen(addr).map_err(|error| EnvError::new(name, format!("cannot listen on {addr}: {error}")))
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
