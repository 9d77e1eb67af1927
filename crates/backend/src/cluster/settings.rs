//! Where the servers of the cluster family are, and what all of its processes must agree on.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use runtime::env::{self, EnvError, Variable};
use serde::Deserialize;

use super::trust;

/// A server, and how far it is trusted.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// With credentials; never logged.
    pub url: String,
    /// Whether a certificate must be good.
    pub verify: bool,
    /// Authorities to trust instead of the public ones, PEM.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("verify", &self.verify)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// The settings of the cluster family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub redis: Endpoint,
    pub rabbitmq: Endpoint,
    pub mongodb: Endpoint,
    /// The beginning of every key, queue and exchange.
    pub namespace: String,
    /// Queues that rooms are spread over. The same in all processes, for good.
    pub shards: u16,
    /// Events of a room that may wait to be stored.
    pub backlog_max: u64,
}

/// The variables of [`Settings`].
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "DARDA_REDIS_URL",
        default: "",
        meaning: "Where Redis is: redis:// or rediss:// (TLS). Needed by the cluster family.",
    },
    Variable {
        name: "DARDA_REDIS_TLS_VERIFY",
        default: "on",
        meaning: "Whether Redis must show a good certificate. off: any will do, and a warning says so.",
    },
    Variable {
        name: "DARDA_REDIS_CA_FILE",
        default: "",
        meaning: "A PEM file of the authorities to trust for Redis instead of the public ones (Mozilla's list).",
    },
    Variable {
        name: "DARDA_RABBITMQ_URL",
        default: "",
        meaning: "Where RabbitMQ is: amqp:// or amqps:// (TLS). Needed by the cluster family.",
    },
    Variable {
        name: "DARDA_RABBITMQ_TLS_VERIFY",
        default: "on",
        meaning: "Whether RabbitMQ must show a good certificate. off: any will do, and a warning says so.",
    },
    Variable {
        name: "DARDA_RABBITMQ_CA_FILE",
        default: "",
        meaning: "A PEM file of the authorities to trust for RabbitMQ instead of the public ones (Mozilla's list).",
    },
    Variable {
        name: "DARDA_MONGODB_URI",
        default: "",
        meaning: "Where the MongoDB replica set is: mongodb:// or mongodb+srv://; its path names the database (otherwise DARDA_NAMESPACE does). Needed by the cluster family.",
    },
    Variable {
        name: "DARDA_MONGODB_TLS_VERIFY",
        default: "on",
        meaning: "Whether MongoDB must show a good certificate when its URI says tls=true. off: any will do, and a warning says so.",
    },
    Variable {
        name: "DARDA_MONGODB_CA_FILE",
        default: "",
        meaning: "A PEM file of the authorities to trust for MongoDB instead of the public ones (Mozilla's list).",
    },
    Variable {
        name: "DARDA_NAMESPACE",
        default: "darda",
        meaning: "The beginning of all keys, queues and exchanges, so that several installations can share servers.",
    },
    Variable {
        name: "DARDA_SHARDS",
        default: "8",
        meaning: "Queues that rooms are spread over, 1 to 256. The same in all processes; it cannot change once there is data.",
    },
    Variable {
        name: "DARDA_LIMIT_BACKLOG",
        default: "100000",
        meaning: "Events of one room that may wait to be stored before sends are refused with overloaded.",
    },
];

#[derive(Deserialize)]
struct Flat {
    redis_url: Option<String>,
    #[serde(default)]
    redis_tls_verify: Verify,
    redis_ca_file: Option<PathBuf>,
    rabbitmq_url: Option<String>,
    #[serde(default)]
    rabbitmq_tls_verify: Verify,
    rabbitmq_ca_file: Option<PathBuf>,
    mongodb_uri: Option<String>,
    #[serde(default)]
    mongodb_tls_verify: Verify,
    mongodb_ca_file: Option<PathBuf>,
    #[serde(default = "namespace")]
    namespace: String,
    #[serde(default = "shards")]
    shards: u16,
    #[serde(default = "backlog")]
    limit_backlog: u64,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Verify {
    #[default]
    On,
    Off,
}

fn namespace() -> String {
    "darda".to_owned()
}

fn shards() -> u16 {
    8
}

fn backlog() -> u64 {
    100_000
}

impl Settings {
    /// # Errors
    /// When one of [`VARIABLES`] is bad or missing.
    pub fn from_env() -> Result<Self, EnvError> {
        Self::check(env::read("DARDA_")?)
    }

    /// As [`Settings::from_env`], from other variables than those of this process.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, EnvError> {
        Self::check(env::read_from("DARDA_", variables)?)
    }

    fn check(flat: Flat) -> Result<Self, EnvError> {
        let broker = flat.broker()?;
        if flat.limit_backlog == 0 {
            return Err(EnvError::new("DARDA_LIMIT_BACKLOG", "must be at least 1"));
        }
        Ok(Self {
            redis: REDIS.read(flat.redis_url, flat.redis_tls_verify, flat.redis_ca_file)?,
            rabbitmq: broker.rabbitmq,
            mongodb: MONGODB.read(
                flat.mongodb_uri,
                flat.mongodb_tls_verify,
                flat.mongodb_ca_file,
            )?,
            namespace: broker.namespace,
            shards: broker.shards,
            backlog_max: flat.limit_backlog,
        })
    }

    /// The part that says where the broker is and how its queues are called.
    #[must_use]
    pub fn broker(&self) -> Broker {
        Broker {
            rabbitmq: self.rabbitmq.clone(),
            namespace: self.namespace.clone(),
            shards: self.shards,
        }
    }
}

/// The broker alone, for programs that need nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub rabbitmq: Endpoint,
    pub namespace: String,
    pub shards: u16,
}

impl Broker {
    /// # Errors
    /// When one of the [`VARIABLES`] about the broker is bad or missing.
    pub fn from_env() -> Result<Self, EnvError> {
        env::read::<Flat>("DARDA_")?.broker()
    }
}

/// Where the database is, for commands that need nothing else.
#[derive(Clone, Debug)]
pub struct Database {
    pub mongodb: Endpoint,
    pub namespace: String,
}

impl Database {
    /// # Errors
    /// Names the variable that is missing or bad.
    pub fn from_env() -> Result<Self, EnvError> {
        let flat: Flat = env::read("DARDA_")?;
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        flat.check_namespace()?;
        Ok(Self {
            mongodb: MONGODB.read(
                flat.mongodb_uri,
                flat.mongodb_tls_verify,
                flat.mongodb_ca_file,
            )?,
            namespace: flat.namespace,
        })
    }
}

impl Flat {
    fn check_namespace(&self) -> Result<(), EnvError> {
        if is_namespace(&self.namespace) {
            return Ok(());
        }
        let reason = "must be 1 to 40 of a-z, 0-9, - and _";
        Err(EnvError::new("DARDA_NAMESPACE", reason))
    }

    fn broker(&self) -> Result<Broker, EnvError> {
        // The drivers take whichever is installed; the second time it is there already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        if self.shards == 0 || self.shards > 256 {
            return Err(EnvError::new("DARDA_SHARDS", "must be from 1 to 256"));
        }
        self.check_namespace()?;
        Ok(Broker {
            rabbitmq: RABBITMQ.read(
                self.rabbitmq_url.clone(),
                self.rabbitmq_tls_verify,
                self.rabbitmq_ca_file.clone(),
            )?,
            namespace: self.namespace.clone(),
            shards: self.shards,
        })
    }
}

/// The variables of one server, and how its addresses begin.
pub struct Server {
    pub(super) url: &'static str,
    verify: &'static str,
    pub(super) ca_file: &'static str,
    schemes: [&'static str; 2],
    /// Whether an address asks for TLS.
    is_tls: fn(&str) -> bool,
}

pub const REDIS: Server = Server {
    url: "DARDA_REDIS_URL",
    verify: "DARDA_REDIS_TLS_VERIFY",
    ca_file: "DARDA_REDIS_CA_FILE",
    schemes: ["redis://", "rediss://"],
    is_tls: |url| url.starts_with("rediss://"),
};

pub const RABBITMQ: Server = Server {
    url: "DARDA_RABBITMQ_URL",
    verify: "DARDA_RABBITMQ_TLS_VERIFY",
    ca_file: "DARDA_RABBITMQ_CA_FILE",
    schemes: ["amqp://", "amqps://"],
    is_tls: |url| url.starts_with("amqps://"),
};

pub const MONGODB: Server = Server {
    url: "DARDA_MONGODB_URI",
    verify: "DARDA_MONGODB_TLS_VERIFY",
    ca_file: "DARDA_MONGODB_CA_FILE",
    schemes: ["mongodb://", "mongodb+srv://"],
    is_tls: |url| {
        let options = url.split_once('?').map_or("", |(_, options)| options);
        let options = options.to_ascii_lowercase();
        let mut options = options.split('&');
        let off = ["tls=false", "ssl=false"];
        let on = ["tls=true", "ssl=true"];
        match url.starts_with("mongodb+srv://") {
            true => !options.any(|option| off.contains(&option)),
            false => options.any(|option| on.contains(&option)),
        }
    },
};

impl Server {
    fn read(
        &self,
        url: Option<String>,
        verify: Verify,
        ca_file: Option<PathBuf>,
    ) -> Result<Endpoint, EnvError> {
        let expected = self.schemes.join(" or ");
        let Some(url) = url else {
            let reason = format!("the cluster family needs it, starting with {expected}");
            return Err(EnvError::new(self.url, reason));
        };
        if !self.schemes.iter().any(|scheme| url.starts_with(scheme)) {
            let reason = format!("must start with {expected}");
            return Err(EnvError::new(self.url, reason));
        }
        let is_tls = (self.is_tls)(&url);
        // Whoever names an authority does not want to talk in the open.
        if ca_file.is_some() && !is_tls {
            let reason = format!("is set, but {} does not ask for TLS", self.url);
            return Err(EnvError::new(self.ca_file, reason));
        }
        if let Some(file) = &ca_file {
            trust::authorities(file).map_err(|why| EnvError::new(self.ca_file, why))?;
        }
        let verify = verify == Verify::On;
        if is_tls && !verify {
            tracing::warn!(
                "{}=off: certificates are not verified; whoever is on the way can read and change everything",
                self.verify
            );
        }
        Ok(Endpoint {
            url,
            verify,
            ca_file,
        })
    }
}

fn is_namespace(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: [(&str, &str); 3] = [
        ("DARDA_REDIS_URL", "redis://r"),
        ("DARDA_RABBITMQ_URL", "amqp://b"),
        ("DARDA_MONGODB_URI", "mongodb://m"),
    ];

    /// Settings with other values than [`SERVERS`]; an empty one is not set.
    fn settings(variables: &[(&str, &str)]) -> Result<Settings, EnvError> {
        let mut all = SERVERS.to_vec();
        all.retain(|(name, _)| variables.iter().all(|(other, _)| other != name));
        all.extend_from_slice(variables);
        let all = all
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Settings::from_variables(all)
    }

    #[test]
    fn three_servers_are_enough() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.redis.url, "redis://r");
        assert!(settings.redis.verify);
        assert_eq!((settings.namespace.as_str(), settings.shards), ("darda", 8));
    }

    #[test]
    fn what_is_bad_is_named() {
        for (name, value) in [
            ("DARDA_REDIS_URL", ""),
            ("DARDA_REDIS_URL", "http://r"),
            ("DARDA_RABBITMQ_URL", ""),
            ("DARDA_MONGODB_URI", "postgres://m"),
            ("DARDA_REDIS_TLS_VERIFY", "maybe"),
            ("DARDA_NAMESPACE", "Darda"),
            ("DARDA_SHARDS", "0"),
            ("DARDA_SHARDS", "257"),
            ("DARDA_LIMIT_BACKLOG", "0"),
        ] {
            let error = settings(&[(name, value)]).unwrap_err();
            assert_eq!(error.name, name, "{error}");
        }
    }

    #[test]
    fn an_authority_is_for_tls() {
        let authority = testbed::Authority::new().unwrap();
        let (file, other) = (authority.file(), authority.file().with_extension("txt"));
        std::fs::write(&other, "no certificate").unwrap();
        let (good, bad) = (file.display().to_string(), other.display().to_string());
        for (url, ca_file, secure) in [
            ("DARDA_REDIS_URL", "DARDA_REDIS_CA_FILE", "rediss://r"),
            ("DARDA_RABBITMQ_URL", "DARDA_RABBITMQ_CA_FILE", "amqps://b"),
            (
                "DARDA_MONGODB_URI",
                "DARDA_MONGODB_CA_FILE",
                "mongodb://m/?TLS=true",
            ),
            (
                "DARDA_MONGODB_URI",
                "DARDA_MONGODB_CA_FILE",
                "mongodb+srv://m",
            ),
        ] {
            let error = settings(&[(ca_file, &good)]).unwrap_err();
            assert_eq!(error.name, ca_file);
            settings(&[(ca_file, &good), (url, secure)]).unwrap();
            for file in [bad.as_str(), "/nowhere/ca.pem"] {
                let error = settings(&[(ca_file, file), (url, secure)]).unwrap_err();
                assert_eq!(error.name, ca_file, "{error}");
            }
        }
        let ca_file = ("DARDA_REDIS_CA_FILE", good.as_str());
        let settings = settings(&[ca_file, ("DARDA_REDIS_URL", "rediss://r")]).unwrap();
        assert_eq!(settings.redis.ca_file, Some(file));
    }

    #[test]
    fn no_credentials_are_shown() {
        let url = ("DARDA_REDIS_URL", "redis://:s3cret@r");
        let settings = settings(&[url]).unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
    }
}
