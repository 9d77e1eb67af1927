//! One of our own programs as an operator runs it: environment in, signals in, a log file out.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use client::Address;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a program may take to listen.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a program may take to end in order.
const END_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A program with all it needs to be started, again and again, at the same address.
pub struct Process {
    pub name: String,
    program: PathBuf,
    env: BTreeMap<String, String>,
    log: PathBuf,
    /// Where it listens when it has started.
    listens: SocketAddr,
    child: Option<Child>,
}

impl Process {
    /// A process that is not started yet. It listens at `listens` when it is ready; its output is added to a file in
    /// `folder`.
    #[must_use]
    pub fn new(
        name: &str,
        program: PathBuf,
        env: BTreeMap<String, String>,
        listens: SocketAddr,
        folder: &Path,
    ) -> Self {
        Self {
            name: name.to_owned(),
            program,
            env,
            log: folder.join(format!("{name}.log")),
            listens,
            child: None,
        }
    }

    /// Sets a variable, from its next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// The address of its HTTP port.
    ///
    /// # Panics
    /// Never: an address of a socket is one of a server.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::parse(&format!("http://{}", self.listens)).expect("a socket's address")
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it cannot be started, or ends, or does not listen in time.
    pub async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.ready().await
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started, or runs.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let child = Command::new(&self.program)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        let cannot = || format!("cannot start {}", self.program.display());
        self.child = Some(child.with_context(cannot)?);
        Ok(())
    }

    /// Runs the program once more, with the same environment, for a command of operators. Answers whether it went well
    /// and what it said.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub async fn command(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let command = Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(END_MAX, command).await;
        let output = output.with_context(|| format!("{arguments:?} does not end"))??;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((output.status.success(), said))
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// When it ends or does not listen in time.
    pub async fn ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(self.listens).await.is_err() {
            if let Some(status) = self.exited()? {
                bail!(
                    "{} ended with {status}; see {}",
                    self.name,
                    self.log.display()
                );
            }
            if begun.elapsed() > START_MAX {
                bail!("{} does not listen; see {}", self.name, self.log.display());
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Whether it was started and has not been ended from here.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// How it ended, if it did by itself.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Ends it as a power switch would (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When the system cannot.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Freezes it (SIGSTOP): its connections stay open and nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end (SIGTERM) and does not wait.
    pub fn begin_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to end (SIGTERM), as Kubernetes does, and waits for that.
    ///
    /// # Errors
    /// When it does not end in time or not well; then it is killed.
    pub async fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let Ok(status) = timeout(END_MAX, child.wait()).await else {
            child.kill().await?;
            bail!("{} does not end; see {}", self.name, self.log.display());
        };
        let status = status?;
        ensure!(
            status.success(),
            "{} ended with {status}; see {}",
            self.name,
            self.log.display()
        );
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id);
        let pid = pid
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // One that has ended needs no signal, and its id is not given away before it was waited for.
            let _ = kill_process(pid, signal);
        }
    }
}
