//! One server as a process with a folder, which both end with the value that holds them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);
/// How much of the log an error shows, in bytes.
const TAIL: u64 = 4_096;
const OUTPUT: &str = "output.log";

/// What a server that is started again finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    Kept,
    Wiped,
}

/// Where a server keeps its files.
#[derive(Debug, Clone)]
pub(crate) enum Folder {
    /// A new one, removed at the end.
    Private,
    /// This one, which stays; only the log of the last time does not.
    Kept(PathBuf),
}

/// A process group of one server: started, signalled, waited for and ended as one.
pub(crate) struct Process {
    name: String,
    folder: PathBuf,
    state: Mutex<State>,
}

struct State {
    child: Option<Child>,
    watcher: Watcher,
}

impl Process {
    /// A folder for a server that is not started yet.
    pub(crate) fn new(name: impl Into<String>, folder: Folder) -> Result<Self> {
        let name = name.into();
        let (folder, private) = match folder {
            Folder::Private => {
                let folder = tempfile::Builder::new()
                    .prefix(&format!("darda-{name}-"))
                    .tempdir()?;
                (folder.keep(), true)
            }
            Folder::Kept(folder) => {
                fs::create_dir_all(&folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
                let folder = fs::canonicalize(folder)?;
                File::create(folder.join(OUTPUT))?;
                (folder, false)
            }
        };
        let watcher = Watcher::start(private.then_some(&folder))?;
        let state = Mutex::new(State {
            child: None,
            watcher,
        });
        Ok(Self {
            name,
            folder,
            state,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that the server's output goes to, if it has no other log.
    pub(crate) fn output(&self) -> PathBuf {
        self.folder.join(OUTPUT)
    }

    /// Starts the server; what it prints goes to its log. One that still runs is killed first.
    pub(crate) fn spawn(&self, mut command: Command) -> Result<()> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.output())?;
        command.stdout(output.try_clone()?).stderr(output);
        self.spawn_as(&mut command)
    }

    /// Starts it as the command says where its output goes.
    pub(crate) fn spawn_as(&self, command: &mut Command) -> Result<()> {
        let mut state = self.state();
        end(&mut state);
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}: {}",
                    self.name,
                    command.get_program().display()
                )
            })?;
        let pid = child.id();
        state.child = Some(child);
        state.watcher.watch(Some(pid))
    }

    /// Waits until `probe` says yes, at most for `within`. Ends early if the process does.
    pub(crate) async fn ready(
        &self,
        within: Duration,
        mut probe: impl AsyncFnMut() -> bool,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                bail!(
                    "{} ended with {status}; its log:\n{}",
                    self.name,
                    self.tail()
                );
            }
            if probe().await {
                return Ok(());
            }
            if begun.elapsed() > within {
                bail!(
                    "{} was not ready after {within:?}; its log:\n{}",
                    self.name,
                    self.tail()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The id of the process, which is also that of its group.
    ///
    /// # Panics
    /// If the process was ended.
    pub(crate) fn pid(&self) -> u32 {
        self.state()
            .child
            .as_ref()
            .map(Child::id)
            .unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    /// Ends the whole group at once, as a crash would (SIGKILL), and waits until it is gone.
    pub(crate) fn kill(&self) {
        end(&mut self.state());
    }

    /// Freezes the whole group (SIGSTOP): connections stay open and nothing is answered.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen group go on (SIGCONT).
    pub(crate) fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks the process to end in order (SIGTERM) and waits for it, at most for `within`; then it is killed and this fails.
    pub(crate) async fn terminate(&self, within: Duration) -> Result<()> {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        while self.exited()?.is_none() {
            if begun.elapsed() > within {
                let tail = self.tail();
                self.kill();
                bail!(
                    "{} did not end within {within:?}; its log:\n{tail}",
                    self.name
                );
            }
            tokio::time::sleep(POLL).await;
        }
        self.kill(); // What else is in the group.
        Ok(())
    }

    /// How the process ended, if it did by itself.
    pub(crate) fn exited(&self) -> Result<Option<ExitStatus>> {
        match &mut self.state().child {
            Some(child) => Ok(child.try_wait()?),
            None => bail!("{} does not run", self.name),
        }
    }

    /// What the server logged last.
    pub(crate) fn tail(&self) -> String {
        tail(&self.output()).unwrap_or_else(|error| format!("(none: {error})"))
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.state().child {
            // A group that is gone needs no signal.
            let _ = kill_process_group(pid(child), signal);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut state = self.state();
        end(&mut state);
        state.watcher.end();
    }
}

fn end(state: &mut State) {
    if let Some(mut child) = state.child.take() {
        // The leader is waited for last: until then its id cannot become that of another group.
        let _ = kill_process_group(pid(&child), Signal::KILL);
        let _ = child.wait();
        // If the watcher is gone, nobody is left to be told.
        let _ = state.watcher.watch(None);
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A shell that outlives this process for a moment. Its input is a pipe which the kernel closes when this process ends, in
/// whatever way; then it kills the group it was told last and removes the folder.
struct Watcher {
    shell: Child,
    tell: Option<ChildStdin>,
}

const WATCH: &str = r#"
trap '' HUP INT TERM
group=
while read -r line; do group=$line; done
[ -z "$group" ] || kill -s KILL -- "-$group" 2>/dev/null
[ -n "$1" ] || exit 0
tries=0 # What was killed may write for a moment.
until rm -rf -- "$1" 2>/dev/null || [ "$tries" -ge 100 ]; do
  tries=$((tries + 1))
  sleep 0.05
done
"#;

impl Watcher {
    /// `folder` is removed at the end.
    fn start(folder: Option<&PathBuf>) -> Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", WATCH, "watcher"])
            .arg(folder.map_or(Path::new(""), |folder| folder))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        let tell = shell.stdin.take();
        Ok(Self { shell, tell })
    }

    /// From now on this group is the one to be ended.
    fn watch(&mut self, group: Option<u32>) -> Result<()> {
        let line = group.map(|group| group.to_string()).unwrap_or_default();
        let tell = self.tell.as_mut().context("the watcher has ended")?;
        writeln!(tell, "{line}").context("the watcher has ended")
    }

    fn end(&mut self) {
        self.tell = None;
        let _ = self.shell.wait();
    }
}
