//! MongoDB: one client for all of a process, with the concerns that the promises need.

use std::sync::Arc;
use std::time::Duration;

use ::mongodb as driver;
use driver::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, Tls, TlsOptions,
    WriteConcern,
};
use driver::{Client, Collection, Database};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Settings;
use super::breaker::Breaker;
use super::settings::{Endpoint, MONGODB};
use crate::{Error, Result};

/// How long a call looks for a primary. An election takes about two seconds; callers try again.
const SELECT_WITHIN: Duration = Duration::from_millis(1200);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A call that takes longer has failed.
const ANSWER_WITHIN: Duration = Duration::from_millis(1800);
/// Answers that another member, or the same one a little later, would not give: InterruptedAtShutdown,
/// InterruptedDueToReplStateChange, NotWritablePrimary, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary,
/// PrimarySteppedDown, ShutdownInProgress, HostNotFound, HostUnreachable, NetworkTimeout, SocketException,
/// ReadConcernMajorityNotAvailableYet, ExceededTimeLimit, MaxTimeMSExpired, Interrupted, CursorNotFound, CursorKilled.
const NOT_NOW: [i32; 17] = [
    11600, 11602, 10107, 13435, 13436, 189, 91, 7, 6, 89, 9001, 134, 262, 50, 11601, 43, 237,
];

const MIGRATING: &str = "the database is being made ready for this version";

/// A handle on MongoDB; cheap to clone.
#[derive(Clone)]
pub struct Mongo {
    client: Client,
    database: Database,
    app_name: Arc<str>,
    breaker: Arc<Breaker>,
    /// Calls wait until this says that the migrations are done.
    migrated: Option<watch::Receiver<bool>>,
}

impl Mongo {
    /// Prepares connections; the first is made by the first call.
    ///
    /// # Errors
    /// `Refused` when the URI cannot be used.
    pub async fn new(settings: &Settings) -> Result<Self> {
        Self::open(&settings.mongodb, &settings.namespace).await
    }

    /// As [`Mongo::new`], for who needs nothing else.
    ///
    /// # Errors
    /// As [`Mongo::new`].
    pub async fn open(endpoint: &Endpoint, namespace: &str) -> Result<Self> {
        let mut options = options(endpoint).await?;
        let app_name = options.app_name.get_or_insert_with(|| "darda".to_owned());
        let app_name = app_name.as_str().into();
        options.server_selection_timeout = Some(SELECT_WITHIN);
        options.connect_timeout = Some(CONNECT_WITHIN);
        options.max_pool_size.get_or_insert(32);
        let mut majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
        majority.journal = Some(true);
        options.write_concern = Some(majority);
        options.read_concern = Some(ReadConcern::majority());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        let name = options
            .default_database
            .clone()
            .unwrap_or_else(|| namespace.to_owned());
        let client = Client::with_options(options).map_err(refused)?;
        Ok(Self {
            database: client.database(&name),
            client,
            app_name,
            breaker: Arc::new(Breaker::new("mongodb")),
            migrated: None,
        })
    }

    /// The same handle for everything that needs the migrations: its calls wait until they are done.
    #[must_use]
    pub fn once_migrated(&self, migrated: watch::Receiver<bool>) -> Self {
        Self {
            migrated: Some(migrated),
            ..self.clone()
        }
    }

    /// The driver's client, for sessions and transactions.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn is_migrated(&self) -> bool {
        let migrated = self.migrated.as_ref();
        migrated.is_none_or(|migrated| *migrated.borrow())
    }

    /// Asks for a sign of life. `None` when all is well.
    pub async fn trouble(&self) -> Option<String> {
        if !self.is_migrated() {
            // No call is made: one that waits for the migrations says nothing about MongoDB.
            let away = self.breaker.trouble();
            return Some(away.unwrap_or_else(|| MIGRATING.to_owned()));
        }
        let answer = self.run(self.ping()).await;
        answer.err().map(|error| error.to_string())
    }

    fn ping(&self) -> driver::action::RunCommand<'_> {
        self.database.run_command(driver::bson::doc! { "ping": 1 })
    }

    /// What MongoDB knows this process and its like by.
    #[must_use]
    pub fn app_name(&self) -> &str {
        &self.app_name
    }

    /// The database of this installation.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// A collection, with typed documents.
    #[must_use]
    pub fn collection<T: Send + Sync>(&self, name: &str) -> Collection<T> {
        self.database.collection(name)
    }

    /// How MongoDB is, as the last calls found it.
    #[must_use]
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Waits for a call, within the time that a caller has.
    ///
    /// # Errors
    /// `Unavailable` when there is no answer in time or no primary.
    pub async fn run<T>(
        &self,
        call: impl IntoFuture<Output = driver::error::Result<T>>,
    ) -> Result<T> {
        self.run_within(ANSWER_WITHIN, call).await
    }

    /// As [`Mongo::run`] for work that may take longer, such as a batch of a worker.
    ///
    /// # Errors
    /// As [`Mongo::run`].
    pub async fn run_within<T>(
        &self,
        deadline: Duration,
        call: impl IntoFuture<Output = driver::error::Result<T>>,
    ) -> Result<T> {
        let answer = self.attempt_within(deadline, call).await?;
        answer.map_err(|e| trouble(&e))
    }

    /// As [`Mongo::run`] for callers who tell errors apart: the inner result is what the server refused.
    ///
    /// # Errors
    /// `Unavailable` when there is no answer in time or no primary.
    pub async fn attempt<T>(
        &self,
        call: impl IntoFuture<Output = driver::error::Result<T>>,
    ) -> Result<driver::error::Result<T>> {
        self.attempt_within(ANSWER_WITHIN, call).await
    }

    /// As [`Mongo::attempt`] for work that may take longer.
    ///
    /// # Errors
    /// As [`Mongo::attempt`].
    pub async fn attempt_within<T>(
        &self,
        deadline: Duration,
        call: impl IntoFuture<Output = driver::error::Result<T>>,
    ) -> Result<driver::error::Result<T>> {
        self.breaker.admit()?;
        let deadline = Instant::now() + deadline;
        if let Some(mut migrated) = self.migrated.clone().filter(|_| !self.is_migrated()) {
            let done = migrated.wait_for(|done| *done);
            if !matches!(timeout_at(deadline, done).await, Ok(Ok(_))) {
                return Err(Error::unavailable(format!("mongodb: {MIGRATING}")));
            }
        }
        let begun = Instant::now();
        let answer = timeout_at(deadline, call.into_future()).await;
        self.breaker.took(begun.elapsed());
        match answer {
            Err(_) => {
                self.breaker.failed("no answer in time");
                Err(Error::unavailable("mongodb: no answer in time"))
            }
            Ok(Err(error)) if is_away(&error) => {
                self.breaker.failed(why(&error));
                Err(trouble(&error))
            }
            Ok(answer) => {
                self.breaker.succeeded();
                Ok(answer)
            }
        }
    }
}

/// What the URI says, with the trust that is configured.
///
/// # Errors
/// `Refused` when the URI cannot be used.
pub async fn options(endpoint: &Endpoint) -> Result<ClientOptions> {
    let mut options = ClientOptions::parse(&endpoint.url).await.map_err(refused)?;
    if let Some(Tls::Enabled(tls)) = &mut options.tls {
        trust(tls, endpoint);
    }
    Ok(options)
}

fn refused(error: driver::error::Error) -> Error {
    Error::Refused(format!("{}: {error}", MONGODB.url))
}

fn trust(tls: &mut TlsOptions, endpoint: &Endpoint) {
    // What the URI itself says of that has no say.
    tls.allow_invalid_certificates = Some(!endpoint.verify);
    if let Some(file) = &endpoint.ca_file {
        tls.ca_file_path = Some(file.clone());
    }
}

fn why(error: &driver::error::Error) -> String {
    MONGODB.explain(&error.kind.to_string())
}

/// Whether it is not known what became of the call.
fn is_away(error: &driver::error::Error) -> bool {
    use driver::error::ErrorKind;
    match error.kind.as_ref() {
        ErrorKind::Io(_)
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::Authentication { .. }
        | ErrorKind::Shutdown => true,
        // A member that is starting, ending or no primary any more.
        ErrorKind::Command(error) if NOT_NOW.contains(&error.code) => true,
        _ => {
            error.contains_label(driver::error::RETRYABLE_WRITE_ERROR)
                || error.contains_label(driver::error::UNKNOWN_TRANSACTION_COMMIT_RESULT)
        }
    }
}

/// Whether a write was refused because a key that must be unique exists.
#[must_use]
pub fn is_duplicate(error: &driver::error::Error) -> bool {
    use driver::error::{ErrorKind, WriteFailure};
    match error.kind.as_ref() {
        ErrorKind::Command(command) => command.code == 11_000,
        ErrorKind::Write(WriteFailure::WriteError(write)) => write.code == 11_000,
        _ => false,
    }
}

/// What a caller can do about an error of the driver.
#[must_use]
pub fn trouble(error: &driver::error::Error) -> Error {
    if is_away(error) || error.contains_label(driver::error::TRANSIENT_TRANSACTION_ERROR) {
        Error::unavailable(format!("mongodb: {}", why(error)))
    } else {
        Error::Corrupt(format!("mongodb: {}", error.kind))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A database that nothing else uses, where there is a server for tests.
    pub(in super::super) async fn open() -> Option<Mongo> {
        if let Some(what) = testbed::missing() {
            testbed::skipped(&what);
            return None;
        }
        Some(Mongo::new(&settings().await).await.expect("a handle"))
    }

    /// Of an installation that nothing else uses.
    pub(in super::super) async fn settings() -> Settings {
        let endpoint = |url: &str| Endpoint {
            url: url.to_owned(),
            verify: true,
            ca_file: None,
        };
        let servers = testbed::shared().await;
        Settings {
            redis: endpoint(&servers.redis_url),
            rabbitmq: endpoint(&servers.rabbitmq_url),
            mongodb: endpoint(&servers.mongodb_uri),
            namespace: testbed::namespace(),
            shards: 1,
            backlog_max: 1,
        }
    }

    #[tokio::test]
    async fn calls_wait_for_the_migrations_and_nobody_takes_that_for_an_outage() {
        let Some(mongo) = open().await else {
            return;
        };
        let (migrated, is_migrated) = watch::channel(false);
        let mongo = mongo.once_migrated(is_migrated);
        for _ in 0..20 {
            let sign = mongo
                .breaker()
                .hear(Duration::from_millis(900), mongo.trouble());
            assert_eq!(sign.await.as_deref(), Some(MIGRATING));
        }
        assert!(!mongo.breaker().is_open());
        let late = mongo.run_within(Duration::from_millis(20), mongo.ping());
        assert!(matches!(late.await, Err(Error::Unavailable { .. })));
        let (answer, _) = tokio::join!(mongo.run(mongo.ping()), async {
            migrated.send_replace(true);
        });
        answer.expect("an answer after the migrations");
        assert_eq!(mongo.trouble().await, None);
    }
}
