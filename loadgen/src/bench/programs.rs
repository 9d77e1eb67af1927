//! Starts the programs that are measured, each on the first core, with the driver on the second.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::target::{Protocol, Target};

/// What to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Darda,
    /// The broadcaster on npm `ws`.
    Ws,
    Socketio,
    /// The bare epoll loop, which gathers up to this many frames in a write.
    Floor {
        frames: usize,
    },
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Places {
    pub standalone: PathBuf,
    pub reference: PathBuf,
    /// Folder for data; it decides which disk is measured.
    pub data: PathBuf,
    /// Whether there are two cores and `taskset`, so that server and driver get one each.
    pub pinned: bool,
}

/// A program that runs; it is killed when this is dropped.
pub struct Running {
    pub target: Target,
    pub pid: u32,
    child: Child,
    _folder: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Settings of the server under test beyond its defaults, as they stand in the report.
pub const DARDA_SETTINGS: [(&str, &str); 7] = [
    ("DARDA_HTTP_ADDR", "127.0.0.1:0"),
    ("DARDA_ADMIN_ADDR", "127.0.0.1:0"),
    ("DARDA_HTTP_WORKERS", "1"),
    ("DARDA_LIMIT_SENDS_PER_SEC", "1000000"),
    ("DARDA_LIMIT_SENDS_BURST", "1000000"),
    ("DARDA_LIMIT_CONNECTIONS_PER_USER", "100000"),
    ("DARDA_LIMIT_JOINS_PER_SEC", "1000000"),
];

/// Whether a command is there.
fn has(name: &str) -> bool {
    let mut command = Command::new(name);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Puts this process on the second core; answers whether that worked.
pub fn pin_driver() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores > 1
        && Command::new("taskset")
            .args(["-pc", "1", &std::process::id().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

impl Places {
    /// Installs the reference programs' packages if that has not been done.
    pub fn prepare_reference(&self) -> Result<()> {
        if self.reference.join("node_modules").exists() {
            return Ok(());
        }
        let status = Command::new("npm")
            .args(["ci", "--silent"])
            .current_dir(&self.reference)
            .status()
            .context("cannot run npm; the reference programs need Node.js")?;
        ensure!(
            status.success(),
            "npm ci failed in {}",
            self.reference.display()
        );
        Ok(())
    }

    pub fn start(&self, program: Program) -> Result<Running> {
        let folder = TempDir::with_prefix_in("darda-bench-", &self.data)?;
        let log = folder.path().join("output.log");
        let mut command = self.command(program)?;
        if program == Program::Darda {
            command
                .envs(DARDA_SETTINGS)
                .env("DARDA_DATA_DIR", folder.path().join("data"));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {program:?}"))?;
        let protocol = match program {
            Program::Darda => Protocol::Darda,
            Program::Socketio => Protocol::Socketio,
            Program::Ws | Program::Floor { .. } => Protocol::Echo,
        };
        let mut running = Running {
            target: Target::new(protocol, "127.0.0.1:1")?,
            pid: child.id(),
            child,
            _folder: folder,
        };
        running.target = Target::new(protocol, &wait_for_address(&mut running.child, &log)?)?;
        Ok(running)
    }

    fn command(&self, program: Program) -> Result<Command> {
        let (path, arguments) = match program {
            Program::Darda => (self.standalone.clone(), vec![]),
            Program::Ws => (
                "node".into(),
                vec![self.reference.join("ws.mjs").into_os_string()],
            ),
            Program::Socketio => (
                "node".into(),
                vec![self.reference.join("socketio.mjs").into_os_string()],
            ),
            Program::Floor { frames } => {
                let frames = format!("--frames={frames}");
                (
                    std::env::current_exe()?,
                    vec!["floor".into(), frames.into()],
                )
            }
        };
        // With `setpriv` the program ends when this one is killed.
        let wrappers: [(bool, &[&str]); 2] = [
            (self.pinned, &["taskset", "-c", "0"]),
            (has("setpriv"), &["setpriv", "--pdeathsig", "KILL"]),
        ];
        let mut words = wrappers
            .iter()
            .filter(|(wanted, _)| *wanted)
            .flat_map(|(_, words)| *words);
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(path);
                command
            }
            None => Command::new(path),
        };
        command.args(arguments);
        Ok(command)
    }
}

/// Waits until a program has printed where it listens.
fn wait_for_address(child: &mut Child, log: &Path) -> Result<String> {
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        let output = fs::read_to_string(log).unwrap_or_default();
        if let Some(address) = address(&output) {
            return Ok(address.to_owned());
        }
        if let Some(status) = child.try_wait()? {
            bail!("it ended ({status}): {}", output.trim());
        }
        ensure!(
            Instant::now() < give_up,
            "it did not say where it listens: {}",
            output.trim()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn address(output: &str) -> Option<&str> {
    // Only a whole line: the end of the port may not have been written yet.
    let (lines, _) = output.rsplit_once('\n')?;
    let at = lines.find("is listening on http://")? + "is listening on ".len();
    lines[at..].split_ascii_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn the_address_is_read_from_a_whole_line() {
        assert_eq!(address("Darda is listening on http://127.0.0.1:80"), None);
        assert_eq!(
            address("log\nDarda is listening on http://127.0.0.1:8080\nmore"),
            Some("http://127.0.0.1:8080")
        );
    }
}
