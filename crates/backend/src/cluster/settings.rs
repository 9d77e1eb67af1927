//! Where the servers of the cluster family are, and what all of its processes must agree on.

use std::fmt;
use std::path::PathBuf;

use runtime::env::{self, EnvError, Variable};
use serde::Deserialize;

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
        meaning: "A PEM file of the authorities to trust for Redis instead of the public ones.",
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
        meaning: "A PEM file of the authorities to trust for RabbitMQ instead of the public ones.",
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
        meaning: "A PEM file of the authorities to trust for MongoDB instead of the public ones.",
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
        let flat: Flat = env::read("DARDA_")?;
        flat.check()?;
        let rabbitmq = flat.rabbitmq()?;
        Ok(Self {
            redis: endpoint(
                "DARDA_REDIS_URL",
                &["redis://", "rediss://"],
                flat.redis_url,
                flat.redis_tls_verify,
                flat.redis_ca_file,
            )?,
            rabbitmq,
            mongodb: endpoint(
                "DARDA_MONGODB_URI",
                &["mongodb://", "mongodb+srv://"],
                flat.mongodb_uri,
                flat.mongodb_tls_verify,
                flat.mongodb_ca_file,
            )?,
            namespace: flat.namespace,
            shards: flat.shards,
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
        let flat: Flat = env::read("DARDA_")?;
        flat.check()?;
        Ok(Self {
            rabbitmq: flat.rabbitmq()?,
            namespace: flat.namespace,
            shards: flat.shards,
        })
    }
}

impl Flat {
    fn check(&self) -> Result<(), EnvError> {
        if self.shards == 0 || self.shards > 256 {
            return Err(EnvError::new("DARDA_SHARDS", "must be from 1 to 256"));
        }
        if !is_namespace(&self.namespace) {
            return Err(EnvError::new(
                "DARDA_NAMESPACE",
                "must be 1 to 40 of a-z, 0-9, - and _",
            ));
        }
        if self.limit_backlog == 0 {
            return Err(EnvError::new("DARDA_LIMIT_BACKLOG", "must be at least 1"));
        }
        Ok(())
    }

    fn rabbitmq(&self) -> Result<Endpoint, EnvError> {
        endpoint(
            "DARDA_RABBITMQ_URL",
            &["amqp://", "amqps://"],
            self.rabbitmq_url.clone(),
            self.rabbitmq_tls_verify,
            self.rabbitmq_ca_file.clone(),
        )
    }
}

fn endpoint(
    name: &str,
    schemes: &[&str],
    url: Option<String>,
    verify: Verify,
    ca_file: Option<PathBuf>,
) -> Result<Endpoint, EnvError> {
    let expected = schemes.join(" or ");
    let url = url.ok_or_else(|| {
        EnvError::new(
            name,
            format!("the cluster family needs it, starting with {expected}"),
        )
    })?;
    if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
        return Err(EnvError::new(name, format!("must start with {expected}")));
    }
    let verify = verify == Verify::On;
    if !verify {
        tracing::warn!(
            "{name}: certificates are not verified; whoever is on the way can read and change everything"
        );
    }
    Ok(Endpoint {
        url,
        verify,
        ca_file,
    })
}

fn is_namespace(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}
