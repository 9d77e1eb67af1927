//! The variables of the gateway.

use std::net::SocketAddr;
use std::time::Duration;

use rest::auth::Auth;
use runtime::env::{self, EnvError, Variable};
use serde::Deserialize;

/// The longest text that can be allowed: an event must fit into every queue and document on its way with all that is
/// later made of it.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Everything chat-service reads besides addresses and telemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub gateway: Gateway,
    pub auth: Auth,
    pub limits: Limits,
}

/// The variables of [`Config`] beside those of [`rest::auth`].
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "DARDA_HTTP_WORKERS",
        default: "",
        meaning: "Threads that serve clients. One per processor when not set.",
    },
    Variable {
        name: "DARDA_ALLOWED_ORIGINS",
        default: "",
        meaning: "Origins whose pages may open sockets, such as https://chat.example.org, separated by commas. A page of this server on a loopback address always may.",
    },
    Variable {
        name: "DARDA_DRAIN_SECS",
        default: "20",
        meaning: "The longest time from SIGTERM until all clients were moved away. What is under way then gets up to 5 more to be flushed.",
    },
    Variable {
        name: "DARDA_DRAIN_WAIT_SECS",
        default: "0",
        meaning: "How much of it everything goes on with only /readyz red, for a balancer that has to notice. On Kubernetes the pre-stop hook waits instead.",
    },
    Variable {
        name: "DARDA_DRAIN_PER_SEC",
        default: "1000",
        meaning: "Clients that are moved away, or closed, per second, so that others are not overrun. More where the time would not be enough.",
    },
    Variable {
        name: "DARDA_HEARTBEAT_SECS",
        default: "25",
        meaning: "How often, at least 1, the server pings a client and tells it where its rooms end. A client that does not answer two pings is let go.",
    },
    Variable {
        name: "DARDA_LIMIT_FRAME_BYTES",
        default: "65536",
        meaning: "The largest WebSocket message a client may send. A larger one closes the connection (1009) before it is buffered.",
    },
    Variable {
        name: "DARDA_LIMIT_TEXT_BYTES",
        default: "16384",
        meaning: "The longest text of a message, in bytes of UTF-8.",
    },
    Variable {
        name: "DARDA_LIMIT_SUBSCRIPTIONS",
        default: "1000",
        meaning: "Rooms one connection may be subscribed to.",
    },
    Variable {
        name: "DARDA_LIMIT_CONNECTIONS_PER_USER",
        default: "50",
        meaning: "Connections one user may have open.",
    },
    Variable {
        name: "DARDA_LIMIT_SENDS_PER_SEC",
        default: "20",
        meaning: "Sends, edits, deletes and reactions of one user per second in the long run.",
    },
    Variable {
        name: "DARDA_LIMIT_SENDS_BURST",
        default: "100",
        meaning: "Sends, edits, deletes and reactions of one user at once.",
    },
    Variable {
        name: "DARDA_LIMIT_JOINS_PER_SEC",
        default: "5",
        meaning: "Rooms one user may join, make, open directly or add people to per second; ten times as many at once.",
    },
    Variable {
        name: "DARDA_LIMIT_HELLO_SECS",
        default: "5",
        meaning: "How long a connection may stay without signing in.",
    },
];

/// How the process serves sockets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Gateway {
    pub http_workers: Option<usize>,
    #[serde(default, deserialize_with = "env::list")]
    pub allowed_origins: Vec<String>,
    #[serde(
        default = "drain",
        deserialize_with = "env::secs",
        rename = "drain_secs"
    )]
    pub drain: Duration,
    #[serde(default, deserialize_with = "env::secs", rename = "drain_wait_secs")]
    pub drain_wait: Duration,
    #[serde(default = "drain_per_sec")]
    pub drain_per_sec: u32,
    #[serde(
        default = "heartbeat",
        deserialize_with = "env::secs",
        rename = "heartbeat_secs"
    )]
    pub heartbeat: Duration,
}

/// What clients may do, at most.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub frame_bytes: usize,
    pub text_bytes: usize,
    pub subscriptions: usize,
    pub connections_per_user: usize,
    pub sends_per_sec: u32,
    pub sends_burst: u32,
    pub joins_per_sec: u32,
    #[serde(deserialize_with = "env::secs", rename = "hello_secs")]
    pub hello: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 64 * 1024,
            text_bytes: 16 * 1024,
            subscriptions: 1000,
            connections_per_user: 50,
            sends_per_sec: 20,
            sends_burst: 100,
            joins_per_sec: 5,
            hello: Duration::from_secs(5),
        }
    }
}

/// What clients have to move in at least, once the balancer has noticed.
const MOVED_WITHIN_MIN: Duration = Duration::from_secs(3);

fn drain() -> Duration {
    Duration::from_secs(20)
}

fn drain_per_sec() -> u32 {
    1000
}

fn heartbeat() -> Duration {
    Duration::from_secs(25)
}

impl Config {
    /// Reads and checks all of it. `http` is the address that clients reach.
    ///
    /// # Errors
    /// Names the variable that is bad.
    pub fn from_env(http: SocketAddr) -> Result<Self, EnvError> {
        let config = Self {
            gateway: env::read("DARDA_")?,
            auth: Auth::from_env(http)?,
            limits: env::read("DARDA_LIMIT_")?,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), EnvError> {
        let positive = [
            ("DARDA_LIMIT_FRAME_BYTES", self.limits.frame_bytes),
            ("DARDA_LIMIT_TEXT_BYTES", self.limits.text_bytes),
            ("DARDA_LIMIT_SUBSCRIPTIONS", self.limits.subscriptions),
            (
                "DARDA_LIMIT_CONNECTIONS_PER_USER",
                self.limits.connections_per_user,
            ),
            (
                "DARDA_LIMIT_SENDS_PER_SEC",
                self.limits.sends_per_sec as usize,
            ),
            ("DARDA_LIMIT_SENDS_BURST", self.limits.sends_burst as usize),
            (
                "DARDA_LIMIT_JOINS_PER_SEC",
                self.limits.joins_per_sec as usize,
            ),
            ("DARDA_HTTP_WORKERS", self.gateway.http_workers.unwrap_or(1)),
            ("DARDA_DRAIN_PER_SEC", self.gateway.drain_per_sec as usize),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(EnvError::new(name, "must be at least 1"));
            }
        }
        if self.gateway.heartbeat < Duration::from_secs(1) {
            return Err(EnvError::new("DARDA_HEARTBEAT_SECS", "must be at least 1"));
        }
        let wait_max = self.gateway.drain.saturating_sub(MOVED_WITHIN_MIN);
        if self.gateway.drain_wait > wait_max {
            return Err(EnvError::new(
                "DARDA_DRAIN_WAIT_SECS",
                format!(
                    "must be at most {}: it is a part of DARDA_DRAIN_SECS, and clients need the rest to move",
                    wait_max.as_secs()
                ),
            ));
        }
        if self.limits.text_bytes > TEXT_BYTES_MAX {
            return Err(EnvError::new(
                "DARDA_LIMIT_TEXT_BYTES",
                format!("must be at most {TEXT_BYTES_MAX}"),
            ));
        }
        if self.limits.text_bytes.saturating_add(1024) > self.limits.frame_bytes {
            return Err(EnvError::new(
                "DARDA_LIMIT_TEXT_BYTES",
                "must leave 1 KiB of DARDA_LIMIT_FRAME_BYTES for the rest of the frame",
            ));
        }
        for origin in &self.gateway.allowed_origins {
            let host = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
                return Err(EnvError::new(
                    "DARDA_ALLOWED_ORIGINS",
                    format!("'{origin}' is no origin; write it as https://chat.example.org"),
                ));
            }
        }
        Ok(())
    }

    /// Threads that serve clients.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.gateway.http_workers.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        })
    }

    /// The part of the limits that clients are told.
    #[must_use]
    pub fn wire_limits(&self) -> protocol::Limits {
        protocol::Limits {
            frame_bytes: self.limits.frame_bytes,
            text_bytes: self.limits.text_bytes,
            subscriptions: self.limits.subscriptions,
            sends_per_sec: self.limits.sends_per_sec,
            sends_burst: self.limits.sends_burst,
            ..protocol::Limits::default()
        }
    }
}

impl Default for Config {
    /// What holds when no variable is set.
    fn default() -> Self {
        Self {
            gateway: Gateway {
                http_workers: None,
                allowed_origins: Vec::new(),
                drain: drain(),
                drain_wait: Duration::ZERO,
                drain_per_sec: drain_per_sec(),
                heartbeat: heartbeat(),
            },
            auth: Auth::default(),
            limits: Limits::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_time_left_after_the_balancer_noticed() {
        let mut config = Config::default();
        config.gateway.drain_wait = config.gateway.drain - Duration::from_secs(2);
        let error = config.check().unwrap_err();
        assert_eq!(error.name, "DARDA_DRAIN_WAIT_SECS");
        assert!(error.to_string().contains("at most 17"), "{error}");
        config.gateway.drain_wait -= Duration::from_secs(1);
        config.check().unwrap();
        config.gateway.drain_per_sec = 0;
        assert_eq!(config.check().unwrap_err().name, "DARDA_DRAIN_PER_SEC");
    }

    #[test]
    fn a_limit_of_nothing_is_refused_by_name() {
        let mut config = Config::default();
        config.limits.subscriptions = 0;
        let error = config.check().unwrap_err();
        assert_eq!(error.name, "DARDA_LIMIT_SUBSCRIPTIONS");
        config.limits.subscriptions = 1;
        config.limits.frame_bytes = 2 * TEXT_BYTES_MAX;
        config.limits.text_bytes = TEXT_BYTES_MAX + 1;
        let error = config.check().unwrap_err();
        assert_eq!(error.name, "DARDA_LIMIT_TEXT_BYTES");
        config.limits.frame_bytes = 65_536;
        config.limits.text_bytes = 65_536;
        let error = config.check().unwrap_err();
        assert_eq!(error.name, "DARDA_LIMIT_TEXT_BYTES");
    }

    #[test]
    fn origins_are_origins() {
        let mut config = Config::default();
        for (origin, ok) in [
            ("https://chat.example.org", true),
            ("http://localhost:5173", true),
            ("chat.example.org", false),
            ("https://chat.example.org/", false),
            ("*", false),
        ] {
            config.gateway.allowed_origins = vec![origin.to_owned()];
            let result = config.check();
            assert_eq!(result.is_ok(), ok, "{origin}");
        }
    }
}
