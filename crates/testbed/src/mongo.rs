//! A MongoDB replica set of our own.

mod command;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};

use crate::certificates::{Certificate, write_secret};
use crate::process::{Data, Folder, Process};
use crate::{ports, programs};

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);
const ELECTION: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const SET: &str = "rs0";
const CACHE_MIB: u32 = 256;

/// What differs from a set of one that anybody may use.
#[derive(Debug, Clone)]
pub struct MongoOptions {
    /// 1 to 7.
    pub members: usize,
    /// Speak TLS at the same port, to whoever begins with it.
    pub certificate: Option<Certificate>,
    /// A user who may do everything, and their password; nobody else may do anything then. Not for a set that is started
    /// again with [`Data::Wiped`].
    pub user: Option<(String, String)>,
    /// Memory for data, of each member; 256 MiB is the least that MongoDB takes.
    pub cache_mib: u32,
}

impl Default for MongoOptions {
    fn default() -> Self {
        Self {
            members: 1,
            certificate: None,
            user: None,
            cache_mib: CACHE_MIB,
        }
    }
}

/// A running replica set that elects another primary about two seconds after it lost one.
pub struct Mongo {
    members: Vec<Member>,
}

/// One `mongod` of the set.
pub struct Member {
    process: Process,
    port: u16,
    certificate: Option<Certificate>,
    /// What members know each other by. With it only users may do something.
    key: Option<String>,
    cache_mib: u32,
}

impl Mongo {
    /// Starts members that have a key file and no user, and of which nobody made a set: who knows the key can.
    pub async fn start_bare(options: MongoOptions, key: &str) -> Result<Self> {
        let folders = vec![Folder::Private; options.members];
        let key = Some(key.to_owned());
        ports::retried(|| Self::spawn_in(folders.clone(), &[], &options, key.clone())).await
    }

    /// Starts a set of 1 to 7 members and waits until it has a primary.
    pub async fn start(members: usize) -> Result<Self> {
        let options = MongoOptions {
            members,
            ..MongoOptions::default()
        };
        Self::start_with(options).await
    }

    pub async fn start_with(options: MongoOptions) -> Result<Self> {
        let folders = vec![Folder::Private; options.members];
        ports::retried(|| Self::start_in(folders.clone(), &[], &options)).await
    }

    /// A member per folder; those with a port get that one. A set that exists in the folders keeps its data, and then the
    /// ports have to be those of before.
    pub(crate) async fn start_in(
        folders: Vec<Folder>,
        ports: &[u16],
        options: &MongoOptions,
    ) -> Result<Self> {
        let key = options.user.is_some().then(|| "members".repeat(8));
        let mongo = Self::spawn_in(folders, ports, options, key).await?;
        mongo.initiate().await?;
        let primary = mongo.wait_for_primary().await?;
        if let Some((user, password)) = &options.user {
            // As long as there is no user, somebody on this machine may make the first.
            let roles = ["root"];
            let user = doc! { "createUser": user, "pwd": password, "roles": roles };
            primary.admin(user).await?;
        }
        Ok(mongo)
    }

    /// The members, each of which answers.
    async fn spawn_in(
        folders: Vec<Folder>,
        ports: &[u16],
        options: &MongoOptions,
        key: Option<String>,
    ) -> Result<Self> {
        ensure!(
            (1..=7).contains(&folders.len()),
            "a replica set has 1 to 7 members"
        );
        let mut members = Vec::new();
        for (i, folder) in folders.into_iter().enumerate() {
            let process = Process::new(format!("mongod{i}"), folder)?;
            let port = ports.get(i).copied().map_or_else(ports::free, Ok)?;
            let member = Member {
                process,
                port,
                certificate: options.certificate.clone(),
                key: key.clone(),
                cache_mib: options.cache_mib,
            };
            member.spawn()?;
            members.push(member);
        }
        let mongo = Self { members };
        for member in &mongo.members {
            member.ready().await?;
        }
        Ok(mongo)
    }

    /// What has to be installed to start one.
    pub fn missing() -> Option<&'static str> {
        programs::mongod().is_none().then_some("mongod")
    }

    /// All members, without a database.
    pub fn url(&self) -> String {
        let addrs: Vec<_> = self
            .members
            .iter()
            .map(|member| member.addr().to_string())
            .collect();
        format!("mongodb://{}/?replicaSet={SET}", addrs.join(","))
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member that takes writes now, if there is one.
    pub async fn primary(&self) -> Option<&Member> {
        for member in &self.members {
            if member.is_primary().await {
                return Some(member);
            }
        }
        None
    }

    /// The member that takes writes, as soon as there is one.
    pub async fn wait_for_primary(&self) -> Result<&Member> {
        let begun = Instant::now();
        loop {
            if let Some(primary) = self.primary().await {
                return Ok(primary);
            }
            if begun.elapsed() > ELECTION {
                let logs: Vec<_> = self
                    .members
                    .iter()
                    .map(|member| member.process.tail())
                    .collect();
                bail!(
                    "no primary after {ELECTION:?}; the logs:\n{}",
                    logs.join("\n\n")
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Makes the primary give up its role; it does not come back to it for `secs` seconds unless it is alone.
    pub async fn step_down(&self, secs: u32) -> Result<()> {
        let primary = self.wait_for_primary().await?;
        let forced = self.members.len() == 1;
        let command = doc! { "replSetStepDown": secs, "secondaryCatchUpPeriodSecs": secs.min(5), "force": forced };
        primary.admin(command).await.map(drop)
    }

    /// Ends all members as a power cut would (SIGKILL).
    pub fn kill(&self) {
        self.members.iter().for_each(Member::kill);
    }

    /// Freezes all members (SIGSTOP).
    pub fn stop(&self) {
        self.members.iter().for_each(Member::stop);
    }

    /// Lets all members go on (SIGCONT).
    pub fn cont(&self) {
        self.members.iter().for_each(Member::cont);
    }

    /// Asks all members to end (SIGTERM) and waits for that.
    pub async fn terminate(&self) -> Result<()> {
        for member in &self.members {
            member.terminate().await?;
        }
        Ok(())
    }

    /// Starts all members again at the same ports, after killing those that run, and waits for a primary.
    pub async fn restart(&self, data: Data) -> Result<()> {
        self.kill();
        for member in &self.members {
            member.wipe_if(data)?;
            member.spawn()?;
        }
        for member in &self.members {
            member.ready().await?;
        }
        self.initiate().await?;
        self.wait_for_primary().await.map(drop)
    }

    /// Makes the set, unless there is one.
    async fn initiate(&self) -> Result<()> {
        let numbered = self.members.iter().enumerate();
        let members: Vec<_> = numbered
            .map(|(i, member)| doc! { "_id": i as i32, "host": member.addr().to_string() })
            .collect();
        let settings = doc! { "electionTimeoutMillis": 2_000, "heartbeatIntervalMillis": 500 };
        let config = doc! { "_id": SET, "members": members, "settings": settings };
        let result = self.members[0]
            .admin(doc! { "replSetInitiate": config })
            .await;
        match result {
            Err(error) if error.to_string().contains("AlreadyInitialized") => Ok(()),
            result => result.map(drop).context("cannot make the replica set"),
        }
    }
}

impl Member {
    /// A URL of this member alone.
    pub fn url(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.addr())
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it as a crash would (SIGKILL).
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing is answered.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Lets it go on (SIGCONT).
    pub fn cont(&self) {
        self.process.cont();
    }

    /// Asks it to end (SIGTERM) and waits for that. A primary hands its role over first.
    pub async fn terminate(&self) -> Result<()> {
        self.process.terminate(STOP).await
    }

    /// Starts it again at the same port, after killing it if it runs. The member of a set of one cannot be wiped alone:
    /// see [`Mongo::restart`].
    pub async fn restart(&self, data: Data) -> Result<()> {
        self.kill();
        self.wipe_if(data)?;
        self.spawn()?;
        self.ready().await
    }

    /// Whether it takes writes.
    pub async fn is_primary(&self) -> bool {
        let hello = self.admin(doc! { "hello": 1 }).await;
        hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
    }

    /// Runs a command on this member's database `admin`.
    ///
    /// # Errors
    /// If it does not answer within 10 s, or says no.
    pub async fn admin(&self, command: Document) -> Result<Document> {
        command::run(self.addr(), "admin", command).await
    }

    /// How it ended, if it did by itself.
    pub(crate) fn exited(&self) -> Result<Option<ExitStatus>> {
        self.process.exited()
    }

    async fn ready(&self) -> Result<()> {
        self.process
            .ready(START, async || self.admin(doc! { "ping": 1 }).await.is_ok())
            .await
    }

    fn wipe_if(&self, data: Data) -> Result<()> {
        let folder = self.process.folder().join("db");
        if data == Data::Wiped && folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        Ok(())
    }

    fn spawn(&self) -> Result<()> {
        let folder = self.process.folder().join("db");
        fs::create_dir_all(&folder)?;
        let mut command = Command::new(programs::mongod().context("mongod is not installed")?);
        command.arg("--dbpath").arg(&folder).args([
            "--port",
            &self.port.to_string(),
            "--bind_ip",
            "127.0.0.1",
        ]);
        command.args([
            "--replSet",
            SET,
            "--wiredTigerCacheSizeGB",
            &(f64::from(self.cache_mib) / 1024.0).to_string(),
            "--oplogSize",
            "128",
        ]);
        command.args([
            "--nounixsocket",
            "--setParameter",
            "diagnosticDataCollectionEnabled=false",
        ]);
        if let Some(certificate) = &self.certificate {
            command
                .args(["--tlsMode", "preferTLS"])
                .arg("--tlsAllowConnectionsWithoutCertificates")
                .arg("--tlsCAFile")
                .arg(certificate.authority())
                .arg("--tlsCertificateKeyFile")
                .arg(certificate.both());
        }
        if let Some(key) = &self.key {
            let file = self.process.folder().join("key");
            write_secret(&file, key)?;
            command.arg("--keyFile").arg(file);
        }
        self.process.spawn(command)
    }
}
