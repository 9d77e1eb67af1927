//! Where a server is.

use std::fmt;

use protocol::UserId;

/// The address of a server: `http://host[:port][/prefix]`. Says where its socket and its REST paths are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `host[:port][/prefix]`, without a slash at the end.
    rest: String,
}

/// An address that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error(
        "'{0}': TLS is not spoken by this client yet; use http:// to the server itself or to a proxy on this machine"
    )]
    Tls(String),
    #[error("'{0}' is no server address; it looks like http://127.0.0.1:8080")]
    Form(String),
}

impl Address {
    /// Reads `http://…` or `ws://…`.
    ///
    /// # Errors
    /// When it is an address of another kind, or asks for TLS.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.to_owned());
        let (scheme, rest) = text.trim().split_once("://").ok_or_else(form)?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => {}
            "https" | "wss" => return Err(AddressError::Tls(text.to_owned())),
            _ => return Err(form()),
        }
        let rest = rest.trim_end_matches('/');
        let strange = |c: char| c.is_whitespace() || c.is_control() || "?#@\\".contains(c);
        let host = rest.split('/').next().unwrap_or_default();
        if host.is_empty() || host.starts_with(':') || rest.contains(strange) {
            return Err(form());
        }
        Ok(Self {
            rest: rest.to_owned(),
        })
    }

    /// The URL of a path such as `/v1/rooms`.
    #[must_use]
    pub fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.rest)
    }

    /// The URL of the socket.
    #[must_use]
    pub fn socket(&self) -> String {
        format!("ws://{}/v1/ws", self.rest)
    }

    /// The URL of the socket that signs `user` in at once, in `open` mode.
    #[must_use]
    pub fn socket_as(&self, user: &UserId) -> String {
        format!("{}?id={user}", self.socket())
    }

    /// The address without its scheme: a name for files about this server.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.rest
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.rest)
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_both_protocols() {
        let address = Address::parse("http://127.0.0.1:8080/").unwrap();
        assert_eq!(address.socket(), "ws://127.0.0.1:8080/v1/ws");
        assert_eq!(address.http("/v1/rooms"), "http://127.0.0.1:8080/v1/rooms");
        let prefixed = Address::parse("WS://chat.test/darda").unwrap();
        assert_eq!(prefixed.socket(), "ws://chat.test/darda/v1/ws");
    }

    #[test]
    fn tls_and_nonsense_are_told_apart() {
        for tls in ["https://chat.test", "wss://chat.test"] {
            assert!(matches!(Address::parse(tls), Err(AddressError::Tls(_))));
        }
        for bad in [
            "",
            "chat.test",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a b",
            "http://a?b",
        ] {
            assert!(
                matches!(Address::parse(bad), Err(AddressError::Form(_))),
                "{bad}"
            );
        }
    }
}
