//! The variables of bootstrap.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use backend::cluster::settings::{self, Endpoint};
use backend::cluster::{Redis, Settings};
use lapin::uri::AMQPUri;
use mongodb::options::{AuthMechanism, ConnectionString, Credential};
use percent_encoding::percent_decode_str;
use runtime::env::{self, EnvError, Variable};
use runtime::telemetry;
use serde::Deserialize;
use url::Url;

/// Every variable of this program.
pub const VARIABLES: &[&[Variable]] = &[settings::VARIABLES, OWN, telemetry::VARIABLES];

const PREFIX: &str = "DARDA_BOOTSTRAP_";
const MEMBERS: &str = "DARDA_BOOTSTRAP_MONGODB_MEMBERS";
const SET: &str = "DARDA_BOOTSTRAP_MONGODB_SET";
pub(crate) const KEY: &str = "DARDA_BOOTSTRAP_MONGODB_KEY";
pub(crate) const ADMIN_URL: &str = "DARDA_BOOTSTRAP_RABBITMQ_ADMIN_URL";
pub(crate) const SECRET: &str = "DARDA_BOOTSTRAP_SECRET";
const REDIS_HOST: &str = "DARDA_BOOTSTRAP_REDIS_HOST";
const RABBITMQ_HOST: &str = "DARDA_BOOTSTRAP_RABBITMQ_HOST";

const OWN: &[Variable] = &[
    Variable {
        name: "DARDA_BOOTSTRAP_WAIT_SECS",
        default: "300",
        meaning: "How long a server, or a member of the replica set that is being filled, is waited for.",
    },
    Variable {
        name: MEMBERS,
        default: "",
        meaning: "Members that the replica set shall have, host:port separated by commas, 1 to 7; the first begins it. Not set: the set and its users are somebody else's.",
    },
    Variable {
        name: SET,
        default: "rs0",
        meaning: "The name of the replica set.",
    },
    Variable {
        name: KEY,
        default: "",
        meaning: "The contents of the key file by which the members know each other. Needed with the members.",
    },
    Variable {
        name: ADMIN_URL,
        default: "",
        meaning: "The management API of RabbitMQ with an administrator: http://admin:password@host:15672, or https:// with the certificates of RabbitMQ. Not set: its virtual host and users are somebody else's.",
    },
    Variable {
        name: SECRET,
        default: "",
        meaning: "Of `bootstrap secrets` alone: the Secret that gets what it lacks, in the namespace of the pod.",
    },
    Variable {
        name: REDIS_HOST,
        default: "",
        meaning: "Of `bootstrap secrets` alone: host:port of Redis in the URL that is made. Not set: Redis is somebody else's.",
    },
    Variable {
        name: RABBITMQ_HOST,
        default: "",
        meaning: "Of `bootstrap secrets` alone: host:port of RabbitMQ in the URLs that are made. Not set: RabbitMQ is somebody else's.",
    },
];

/// What `run` and `check` read.
#[derive(Clone, Debug)]
pub struct Config {
    pub settings: Settings,
    pub wait: Duration,
    /// `None`: somebody else's.
    pub replica_set: Option<ReplicaSet>,
    /// `None`: somebody else's.
    pub broker: Option<Broker>,
}

/// The replica set as it shall be, and its user.
#[derive(Clone, Debug)]
pub struct ReplicaSet {
    pub name: String,
    pub members: Vec<Host>,
    pub key: Secret,
    pub user: User,
}

/// A user of MongoDB, who may read and write one database.
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub password: Secret,
    /// Where the user is kept.
    pub source: String,
    pub database: String,
}

/// What is made in RabbitMQ, and who may make it.
#[derive(Clone, Debug)]
pub struct Broker {
    pub api: Api,
    pub vhost: String,
    pub user: String,
    pub password: Secret,
}

/// The management API.
#[derive(Clone, Debug)]
pub struct Api {
    /// Without credentials and without a slash at its end.
    pub url: String,
    pub user: String,
    pub password: Secret,
    /// Whose certificates are looked at in the way of the broker's own.
    pub trust: Endpoint,
}

/// What `secrets` reads.
#[derive(Clone, Debug)]
pub struct SecretConfig {
    pub secret: String,
    pub wait: Duration,
    pub hosts: Hosts,
}

/// Servers that a Secret has passwords of, where they are ours.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    pub redis: Option<Host>,
    pub rabbitmq: Option<Host>,
    /// None: the replica set is somebody else's.
    pub mongodb: Vec<Host>,
    pub replica_set: String,
}

/// Something that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// `host:port`, the host in lower case, since MongoDB compares it as text and the network does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host(String);

impl Host {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the port.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit_once(':').map_or(&self.0, |(name, _)| name)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "must be host:port, such as mongodb-0.mongodb:27017";
        let (name, port) = text.rsplit_once(':').ok_or(WRONG)?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        let is_bare = name.starts_with('[') || !name.contains(':');
        let is_name = !name.is_empty() && !name.contains(['@', '/', '?', '#', ' ']);
        if is_port && is_bare && is_name {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(WRONG)
        }
    }
}

#[derive(Deserialize)]
struct Flat {
    #[serde(default = "wait", deserialize_with = "env::secs", rename = "wait_secs")]
    wait: Duration,
    #[serde(default, deserialize_with = "env::list")]
    mongodb_members: Vec<Host>,
    #[serde(default = "set")]
    mongodb_set: String,
    mongodb_key: Option<String>,
    rabbitmq_admin_url: Option<String>,
    secret: Option<String>,
    redis_host: Option<String>,
    rabbitmq_host: Option<String>,
}

fn wait() -> Duration {
    Duration::from_secs(300)
}

fn set() -> String {
    "rs0".to_owned()
}

impl Config {
    /// # Errors
    /// When one of [`VARIABLES`] is bad or missing.
    pub fn from_env() -> Result<Self, EnvError> {
        let flat: Flat = env::read(PREFIX)?;
        Self::check(Settings::from_env()?, flat)
    }

    fn check(settings: Settings, flat: Flat) -> Result<Self, EnvError> {
        flat.check_members()?;
        Redis::new(&settings).map_err(|why| EnvError::new("DARDA_REDIS_URL", why.to_string()))?;
        let uri = mongodb_uri(&settings)?;
        let amqp = amqp_uri(&settings)?;
        Ok(Self {
            wait: flat.wait,
            replica_set: flat.replica_set(&settings, uri)?,
            broker: flat.broker(&settings, amqp)?,
            settings,
        })
    }
}

impl SecretConfig {
    /// # Errors
    /// When one of [`VARIABLES`] is bad or missing.
    pub fn from_env() -> Result<Self, EnvError> {
        Self::check(env::read(PREFIX)?)
    }

    fn check(flat: Flat) -> Result<Self, EnvError> {
        flat.check_members()?;
        let host = |name, text: &Option<String>| {
            let text = text.as_deref().map(str::parse::<Host>);
            text.transpose().map_err(|why| EnvError::new(name, why))
        };
        let hosts = Hosts {
            redis: host(REDIS_HOST, &flat.redis_host)?,
            rabbitmq: host(RABBITMQ_HOST, &flat.rabbitmq_host)?,
            mongodb: flat.mongodb_members,
            replica_set: flat.mongodb_set,
        };
        let secret = flat
            .secret
            .ok_or_else(|| EnvError::new(SECRET, "must name the Secret to fill"))?;
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        if !secret.chars().all(is_name) {
            let reason = "must be the name of a Secret: a-z, 0-9, - and .";
            return Err(EnvError::new(SECRET, reason));
        }
        Ok(Self {
            secret,
            wait: flat.wait,
            hosts,
        })
    }
}

impl Flat {
    fn check_members(&self) -> Result<(), EnvError> {
        let members = &self.mongodb_members;
        let different: HashSet<&Host> = members.iter().collect();
        if different.len() < members.len() {
            return Err(EnvError::new(MEMBERS, "names a member twice"));
        }
        // More may not vote.
        if members.len() > 7 {
            return Err(EnvError::new(MEMBERS, "must be 1 to 7 members"));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !self.mongodb_set.chars().all(is_name) {
            let reason = "must be letters, digits, -, _ and .";
            return Err(EnvError::new(SET, reason));
        }
        Ok(())
    }

    fn replica_set(
        &self,
        settings: &Settings,
        uri: ConnectionString,
    ) -> Result<Option<ReplicaSet>, EnvError> {
        if self.mongodb_members.is_empty() {
            return Ok(None);
        }
        let wrong = |reason: &str| EnvError::new("DARDA_MONGODB_URI", reason);
        let nobody = || wrong("must name a user and a password, which are then made");
        let credential = uri.credential.ok_or_else(nobody)?;
        let name = credential.username.clone().ok_or_else(nobody)?;
        let password = Secret(credential.password.clone().ok_or_else(nobody)?);
        if !is_password(&credential) {
            return Err(wrong("must ask for a password (SCRAM)"));
        }
        if uri
            .replica_set
            .is_some_and(|named| named != self.mongodb_set)
        {
            let reason = format!("names another replicaSet than {SET}");
            return Err(wrong(&reason));
        }
        let database = uri.default_database;
        let source = credential.source.or_else(|| database.clone());
        Ok(Some(ReplicaSet {
            name: self.mongodb_set.clone(),
            members: self.mongodb_members.clone(),
            key: self.key()?,
            user: User {
                name,
                password,
                source: source.unwrap_or_else(|| "admin".to_owned()),
                database: database.unwrap_or_else(|| settings.namespace.clone()),
            },
        }))
    }

    /// As mongod reads its key file: white space does not count.
    fn key(&self) -> Result<Secret, EnvError> {
        let reason = format!("must be the key file of the members, since {MEMBERS} is set");
        let key = self.mongodb_key.as_ref();
        let key = key.ok_or_else(|| EnvError::new(KEY, reason))?;
        let key: String = key.split_whitespace().collect();
        let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
        if !(6..=1024).contains(&key.len()) || !key.bytes().all(is_base64) {
            let reason = "must be 6 to 1024 letters, digits, +, / and =";
            return Err(EnvError::new(KEY, reason));
        }
        Ok(Secret(key))
    }

    fn broker(&self, settings: &Settings, uri: AMQPUri) -> Result<Option<Broker>, EnvError> {
        let Some(url) = &self.rabbitmq_admin_url else {
            return Ok(None);
        };
        let api = admin_url(url, &settings.rabbitmq)
            .map_err(|reason| EnvError::new(ADMIN_URL, reason))?;
        let user = uri.authority.userinfo;
        if !settings.rabbitmq.url.contains('@') || user.password.is_empty() {
            let reason = "must name a user and a password, which are then made";
            return Err(EnvError::new("DARDA_RABBITMQ_URL", reason));
        }
        // It would lose its right to administer.
        if user.username == api.user {
            let reason = format!("must name another user than {ADMIN_URL}");
            return Err(EnvError::new("DARDA_RABBITMQ_URL", reason));
        }
        Ok(Some(Broker {
            api,
            vhost: uri.vhost,
            user: user.username,
            password: Secret(user.password),
        }))
    }
}

fn is_password(credential: &Credential) -> bool {
    matches!(
        credential.mechanism,
        None | Some(AuthMechanism::ScramSha1 | AuthMechanism::ScramSha256)
    )
}

/// The driver's words about what is wrong may hold a part of the password.
fn mongodb_uri(settings: &Settings) -> Result<ConnectionString, EnvError> {
    ConnectionString::parse(&settings.mongodb.url).map_err(|_| {
        let reason = "must be like mongodb://user:password@host:27017/database?replicaSet=rs0&authSource=admin; \
                      in a user or password everything but letters and digits is written as %40 and so on";
        EnvError::new("DARDA_MONGODB_URI", reason)
    })
}

fn amqp_uri(settings: &Settings) -> Result<AMQPUri, EnvError> {
    settings.rabbitmq.url.parse().map_err(|_| {
        let reason = "must be like amqp://user:password@host:5672/vhost; in a user or password everything but \
                      letters and digits is written as %40 and so on";
        EnvError::new("DARDA_RABBITMQ_URL", reason)
    })
}

fn admin_url(text: &str, trust: &Endpoint) -> Result<Api, &'static str> {
    const WRONG: &str = "must be like http://admin:password@host:15672, or https:// for TLS";
    let mut url = Url::parse(text).map_err(|_| WRONG)?;
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
    let user = decode(url.username()).map_err(|_| WRONG)?;
    let password = decode(url.password().unwrap_or_default()).map_err(|_| WRONG)?;
    let is_http = matches!(url.scheme(), "http" | "https");
    if !is_http || url.host_str().is_none() || user.is_empty() || password.is_empty() {
        return Err(WRONG);
    }
    url.set_username("").map_err(|()| WRONG)?;
    url.set_password(None).map_err(|()| WRONG)?;
    Ok(Api {
        url: url.as_str().trim_end_matches('/').to_owned(),
        user,
        password: Secret(password),
        trust: trust.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: [(&str, &str); 3] = [
        ("DARDA_REDIS_URL", "redis://:r3dis@r"),
        ("DARDA_RABBITMQ_URL", "amqp://darda:r%40bbit@b:5672/darda"),
        (
            "DARDA_MONGODB_URI",
            "mongodb://darda:m%40ngo@m:27017/chat?replicaSet=rs0&authSource=admin",
        ),
    ];
    const OURS: [(&str, &str); 3] = [
        (MEMBERS, "M-0.m:27017, m-1.m:27017"),
        (KEY, "abc+\ndef/ \n"),
        (ADMIN_URL, "http://admin:s3c%2Fret@b:15672/"),
    ];

    /// Settings with other values than those above; an empty one is not set.
    fn config(variables: &[(&str, &str)]) -> Result<Config, EnvError> {
        let mut all = [SERVERS, OURS].concat();
        all.retain(|(name, _)| variables.iter().all(|(other, _)| other != name));
        all.extend_from_slice(variables);
        let all = || {
            let all = all.iter();
            all.map(|(name, value)| ((*name).into(), (*value).into()))
        };
        let settings = Settings::from_variables(all())?;
        Config::check(settings, env::read_from(PREFIX, all())?)
    }

    #[test]
    fn the_urls_say_what_is_made() {
        let config = config(&[]).unwrap();
        let set = config.replica_set.unwrap();
        let members: Vec<_> = set.members.iter().map(Host::as_str).collect();
        assert_eq!(members, ["m-0.m:27017", "m-1.m:27017"]);
        assert_eq!(set.key.0, "abc+def/");
        assert_eq!(set.user.name, "darda");
        assert_eq!(set.user.password.0, "m@ngo");
        assert_eq!(
            (set.user.source, set.user.database),
            ("admin".into(), "chat".into())
        );
        let broker = config.broker.unwrap();
        assert_eq!(
            (broker.user.as_str(), broker.vhost.as_str()),
            ("darda", "darda")
        );
        assert_eq!(broker.password.0, "r@bbit");
        assert_eq!(broker.api.url, "http://b:15672");
        assert_eq!(broker.api.password.0, "s3c/ret");
    }

    #[test]
    fn what_is_not_ours_needs_no_more() {
        let none = config(&[(MEMBERS, ""), (KEY, ""), (ADMIN_URL, "")]).unwrap();
        assert!(none.replica_set.is_none() && none.broker.is_none());
    }

    #[test]
    fn a_user_is_kept_in_its_database_unless_it_is_said() {
        let of = |uri| {
            let config = config(&[("DARDA_MONGODB_URI", uri)]).unwrap();
            let user = config.replica_set.unwrap().user;
            (user.source, user.database)
        };
        let both = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(of("mongodb://u:p@m/chat"), both("chat", "chat"));
        assert_eq!(of("mongodb://u:p@m"), both("admin", "darda"));
        assert_eq!(of("mongodb://u:p@m/?authSource=x"), both("x", "darda"));
    }

    #[test]
    fn what_is_bad_is_named_and_not_repeated() {
        for (name, value) in [
            (MEMBERS, "s3cret"),
            (MEMBERS, "m:0"),
            (MEMBERS, "m:1,M:1"),
            (MEMBERS, "a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1"),
            (SET, "a/b"),
            (KEY, ""),
            (KEY, "s3c"),
            (KEY, "s3cret!!"),
            (ADMIN_URL, "b:15672"),
            (ADMIN_URL, "http://b:15672"),
            (ADMIN_URL, "http://admin:s3c/ret@b:15672"),
            ("DARDA_BOOTSTRAP_WAIT_SECS", "s3cret"),
            ("DARDA_REDIS_URL", "redis://:s3c/ret@r"),
            ("DARDA_RABBITMQ_URL", "amqp://b/darda"),
            ("DARDA_RABBITMQ_URL", "amqp://admin:s3cret@b/darda"),
            ("DARDA_RABBITMQ_URL", "amqp://u:s3c/ret@b/darda"),
            ("DARDA_MONGODB_URI", "mongodb://m/chat"),
            ("DARDA_MONGODB_URI", "mongodb://u:s3c/ret@m/chat"),
            (
                "DARDA_MONGODB_URI",
                "mongodb://u:s3cret@m/chat?replicaSet=rs1",
            ),
            (
                "DARDA_MONGODB_URI",
                "mongodb://u@m/?authMechanism=MONGODB-X509&tls=true",
            ),
        ] {
            let Err(error) = config(&[(name, value)]) else {
                panic!("{name}={value} is taken");
            };
            assert_eq!(error.name, name, "{error}");
            assert!(!error.to_string().contains("s3c"), "{error}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let shown = format!("{:?}", config(&[]).unwrap());
        for secret in ["r3dis", "r@bbit", "m@ngo", "s3c", "abc"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn a_secret_is_named_and_hosts_have_ports() {
        let read = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(n, v)| (n.into(), v.into()));
            SecretConfig::check(env::read_from(PREFIX, variables)?)
        };
        let config = read(&[(SECRET, "darda"), (REDIS_HOST, "r:6379")]).unwrap();
        assert_eq!(config.hosts.redis.unwrap().name(), "r");
        assert!(config.hosts.rabbitmq.is_none() && config.hosts.mongodb.is_empty());
        for (name, value) in [
            (SECRET, ""),
            (SECRET, "a/b"),
            (REDIS_HOST, "r"),
            (RABBITMQ_HOST, "b:x"),
        ] {
            let mut variables = vec![(SECRET, "darda")];
            variables.retain(|(known, _)| *known != name);
            variables.push((name, value));
            assert_eq!(read(&variables).unwrap_err().name, name);
        }
    }
}
