//! One connection to Redis for all of a process, made again when it is lost, with a deadline for every call.
//!
//! What Redis does atomically is done by functions (Redis 7): one library, loaded by whoever finds it missing. Its name
//! carries a digest of its text, so that processes of different versions do not disturb each other.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ::redis as driver;
use driver::aio::MultiplexedConnection;
use driver::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, Pipeline, TlsCertificates,
};
use tokio::sync::Mutex;

use super::Settings;
use super::breaker::Breaker;
use super::settings::{Endpoint, REDIS};
use crate::{Error, Result};

/// A call that takes longer has failed, and its connection with it.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// The functions, a file per area. `@` stands for the end of every name.
const FUNCTIONS: &str = concat!(
    include_str!("functions/log.lua"),
    "\n",
    include_str!("functions/presence.lua"),
    "\n",
    include_str!("functions/directory.lua"),
);

/// The digest of the functions.
static DIGEST: LazyLock<String> =
    LazyLock::new(|| format!("{:08x}", crc32fast::hash(FUNCTIONS.as_bytes())));

/// The text of the library.
fn library() -> String {
    let body = FUNCTIONS.replace('@', &format!("_{}", *DIGEST));
    format!("#!lua name=darda_{}\n{body}", *DIGEST)
}

/// Which Redis answers: changes when another takes its place or when it lost what it had in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub run_id: String,
    /// The replication id.
    pub replid: String,
}

/// A connection that was greeted.
#[derive(Clone)]
pub struct Session {
    connection: MultiplexedConnection,
    pub identity: Identity,
    /// Counts the connections of this process.
    pub number: u64,
}

/// A handle on Redis; cheap to clone.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    namespace: String,
    breaker: Breaker,
    /// Held while connecting, so that one does it for all.
    session: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    session: Option<Session>,
    made: u64,
}

impl Redis {
    /// Prepares connections; the first is made by the first call.
    ///
    /// # Errors
    /// `Refused` when the URL or the certificates of the authority cannot be used.
    pub fn new(settings: &Settings) -> Result<Self> {
        let client =
            client(&settings.redis).map_err(|e| Error::Refused(format!("DARDA_REDIS_URL: {e}")))?;
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                namespace: settings.namespace.clone(),
                breaker: Breaker::new("redis"),
                session: Mutex::default(),
            }),
        })
    }

    /// How Redis is, as the last calls found it.
    #[must_use]
    pub fn breaker(&self) -> &Breaker {
        &self.inner.breaker
    }

    /// A key of this installation.
    #[must_use]
    pub fn key(&self, rest: impl std::fmt::Display) -> String {
        format!("{}:{rest}", self.inner.namespace)
    }

    /// A key of a room. All keys of a room are in one hash slot.
    #[must_use]
    pub fn room_key(&self, room: &protocol::RoomId, what: &str) -> String {
        format!("{}:room:{{{room}}}:{what}", self.inner.namespace)
    }

    /// The present connection, or a new one.
    ///
    /// # Errors
    /// `Unavailable` while Redis cannot be reached, is loading or is a replica.
    pub async fn session(&self) -> Result<Session> {
        let mut slot = self.inner.session.lock().await;
        if let Some(session) = &slot.session {
            return Ok(session.clone());
        }
        self.inner.breaker.admit()?;
        match connect(&self.inner.client).await {
            Ok((connection, identity)) => {
                slot.made += 1;
                let session = Session {
                    connection,
                    identity,
                    number: slot.made,
                };
                slot.session = Some(session.clone());
                Ok(session)
            }
            Err(why) => {
                let why = REDIS.explain(&why);
                self.inner.breaker.failed(why.as_str());
                Err(Error::unavailable(format!("redis: {why}")))
            }
        }
    }

    /// Calls a function of the library: `area_verb`, without the end of its name.
    ///
    /// # Errors
    /// `Unavailable` when there is no answer within a second; `Overloaded` when Redis has no memory left.
    pub async fn call<T: FromRedisValue>(
        &self,
        function: &str,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T> {
        let session = self.session().await?;
        self.call_in(&session, function, keys, arguments).await
    }

    /// As [`Redis::call`], over a connection that the caller has looked at.
    ///
    /// # Errors
    /// As [`Redis::call`].
    pub async fn call_in<T: FromRedisValue>(
        &self,
        session: &Session,
        function: &str,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T> {
        let mut command = driver::cmd("FCALL");
        command
            .arg(format!("{function}_{}", *DIGEST))
            .arg(keys.len())
            .arg(keys);
        for argument in arguments {
            command.arg(*argument);
        }
        match self.query_in(session, &command).await {
            Err(Error::NotFound(_)) => {
                self.load(session).await?;
                self.query_in(session, &command).await
            }
            answer => answer,
        }
    }

    /// Sends one command.
    ///
    /// # Errors
    /// As [`Redis::call`].
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let session = self.session().await?;
        self.query_in(&session, command).await
    }

    /// As [`Redis::query`], over a connection that the caller has looked at.
    ///
    /// # Errors
    /// As [`Redis::call`].
    pub async fn query_in<T: FromRedisValue>(&self, session: &Session, command: &Cmd) -> Result<T> {
        let mut connection = session.connection.clone();
        let begun = Instant::now();
        let answer = command.query_async(&mut connection).await;
        self.inner.breaker.took(begun.elapsed());
        self.judge(session, answer).await
    }

    /// Sends several commands at once.
    ///
    /// # Errors
    /// As [`Redis::call`].
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T> {
        let session = self.session().await?;
        let mut connection = session.connection.clone();
        let begun = Instant::now();
        let answer = pipeline.query_async(&mut connection).await;
        self.inner.breaker.took(begun.elapsed());
        self.judge(&session, answer).await
    }

    async fn load(&self, session: &Session) -> Result<()> {
        let mut command = driver::cmd("FUNCTION");
        command.arg("LOAD").arg("REPLACE").arg(library());
        self.query_in::<()>(session, &command).await
    }

    /// Looks whether the present connection still leads to the same primary with the same data: a server can be demoted and
    /// promoted again under it.
    ///
    /// # Errors
    /// As [`Redis::call`].
    pub async fn look_again(&self) -> Result<()> {
        let session = self.session().await?;
        let info: String = self.query_in(&session, &driver::cmd("INFO")).await?;
        if identify(&info).as_ref() != Ok(&session.identity) {
            tracing::warn!("the primary of Redis is another one now");
            self.forget(&session).await;
        }
        Ok(())
    }

    /// Gives up a connection: the next call makes a new one.
    pub async fn forget(&self, session: &Session) {
        self.drop_session(session.number).await;
    }

    async fn drop_session(&self, number: u64) {
        let mut slot = self.inner.session.lock().await;
        if slot.session.as_ref().is_some_and(|s| s.number == number) {
            slot.session = None;
        }
    }

    async fn judge<T>(&self, session: &Session, answer: driver::RedisResult<T>) -> Result<T> {
        let error = match answer {
            Ok(answer) => {
                self.inner.breaker.succeeded();
                return Ok(answer);
            }
            Err(error) => error,
        };
        let detail = error.to_string();
        if error.code() == Some("OOM") {
            return Err(Error::overloaded("redis has no memory left"));
        }
        if detail.contains("Function not found") {
            return Err(Error::NotFound(detail));
        }
        let is_answer = error.code().is_some_and(|code| {
            !matches!(
                code,
                "READONLY"
                    | "LOADING"
                    | "MASTERDOWN"
                    | "MISCONF"
                    | "NOREPLICAS"
                    | "NOAUTH"
                    | "BUSY"
            )
        });
        if is_answer {
            self.inner.breaker.succeeded();
            return Err(Error::Corrupt(format!("redis: {detail}")));
        }
        self.drop_session(session.number).await;
        self.inner.breaker.failed(&detail);
        Err(Error::unavailable(format!("redis: {detail}")))
    }
}

fn client(endpoint: &Endpoint) -> driver::RedisResult<Client> {
    use driver::IntoConnectionInfo as _;
    let info = endpoint.url.as_str().into_connection_info()?;
    // What the URL itself says of that has no say.
    let addr = match info.addr().clone() {
        ConnectionAddr::TcpTls {
            host,
            port,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: !endpoint.verify,
            tls_params,
        },
        addr => addr,
    };
    let info = info.set_addr(addr);
    let info = info.set_tcp_settings(driver::io::tcp::TcpSettings::default().set_nodelay(true));
    let Some(ca_file) = &endpoint.ca_file else {
        return Client::open(info);
    };
    let root_cert = std::fs::read(ca_file)?;
    Client::build_with_tls(
        info,
        TlsCertificates {
            client_tls: None,
            root_cert: Some(root_cert),
        },
    )
}

async fn connect(
    client: &Client,
) -> std::result::Result<(MultiplexedConnection, Identity), String> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN));
    let connected = client
        .get_multiplexed_async_connection_with_config(&config)
        .await;
    let mut connection = connected.map_err(|e| e.to_string())?;
    let info: String = driver::cmd("INFO")
        .query_async(&mut connection)
        .await
        .map_err(|e| e.to_string())?;
    let identity = identify(&info)?;
    Ok((connection, identity))
}

/// Which primary this is, as `INFO` says.
fn identify(info: &str) -> std::result::Result<Identity, String> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
            .ok_or_else(|| format!("INFO says no {name}"))
    };
    let role = field("role")?;
    if role != "master" {
        return Err(format!("it is a {role}, not the primary"));
    }
    if info.lines().any(|line| line.trim() == "loading:1") {
        return Err("it is still loading its data".to_owned());
    }
    Ok(Identity {
        run_id: field("run_id")?,
        replid: field("master_replid")?,
    })
}
