//! Which pages may talk to this server (RFC 6454).

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HOST;
use actix_web::middleware::Next;
use protocol::ErrorCode;
use rest::Refusal;

/// The origins that may.
#[derive(Clone, Debug)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Those on the list, besides the server's own page on a loopback address.
    #[must_use]
    pub fn new(listed: &[String]) -> Self {
        Self(
            listed
                .iter()
                .map(|origin| origin.to_ascii_lowercase())
                .collect(),
        )
    }

    /// Whether a page of `origin` may, on a request for `host`.
    ///
    /// A page whose origin merely equals the host is not enough: a hostile name can be made to point at 127.0.0.1, and
    /// then both would be that name. Loopback names cannot be taken over so.
    #[must_use]
    pub fn allow(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.0.contains(&origin) {
            return true;
        }
        let Some(page) = origin.strip_prefix("http://") else {
            return false;
        };
        is_loopback(page) && host.is_some_and(|host| host.eq_ignore_ascii_case(page))
    }

    /// Whether a server on a loopback address should answer a request for `host`. A page under a hostile name that was
    /// made to point here sends that name, and its requests carry no origin because they seem to be its own.
    fn knows(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        is_loopback(&host)
            || self.0.iter().any(|origin| {
                origin
                    .split_once("://")
                    .is_some_and(|(_, listed)| listed == host)
            })
    }

    /// The middleware of a server that only this machine can reach: refuses requests for other machines' names.
    ///
    /// # Errors
    /// Those of inner services.
    pub async fn guard<B: MessageBody + 'static>(
        self,
        request: ServiceRequest,
        next: Next<B>,
    ) -> Result<ServiceResponse<B>, Error> {
        let host = request.headers().get(HOST);
        let known = host
            .map(|host| host.to_str().is_ok_and(|host| self.knows(host)))
            // HTTP/1.0 without a name cannot come from a page.
            .unwrap_or(true);
        if known {
            return next.call(request).await;
        }
        let text =
            "this server answers to localhost, 127.0.0.1 and the hosts of DARDA_ALLOWED_ORIGINS";
        Err(Refusal::new(ErrorCode::Forbidden, text).into())
    }
}

/// Whether a host, with or without a port, is this machine by its very name.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    matches!(name, "localhost" | "127.0.0.1" | "::1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_page_on_loopback_may_and_a_rebound_name_may_not() {
        let origins = Origins::new(&["https://chat.example.org".to_owned()]);
        for (origin, host, may) in [
            ("http://localhost:8080", "localhost:8080", true),
            ("http://127.0.0.1:9000", "127.0.0.1:9000", true),
            ("http://[::1]:9000", "[::1]:9000", true),
            ("http://localhost:5173", "localhost:8080", false),
            ("http://evil.example:8080", "evil.example:8080", false),
            (
                "http://localhost.evil.example",
                "localhost.evil.example",
                false,
            ),
            ("null", "localhost:8080", false),
            ("https://chat.example.org", "10.0.0.1:8080", true),
            ("https://chat.example.org.evil", "10.0.0.1:8080", false),
        ] {
            assert_eq!(origins.allow(origin, Some(host)), may, "{origin} at {host}");
        }
        assert!(!origins.allow("http://localhost:1", None));
        for (host, known) in [
            ("localhost:8080", true),
            ("127.0.0.1", true),
            ("[::1]:80", true),
            ("chat.example.org", true),
            ("evil.example:8080", false),
        ] {
            assert_eq!(origins.knows(host), known, "{host}");
        }
    }
}
