//! `darda` processes of a test.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// The command for a user at a server. Its state is kept in `state`.
pub fn darda(url: &str, user: &str, state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darda"));
    command
        .env("DARDA_URL", url)
        .env("DARDA_USER", user)
        .env("XDG_STATE_HOME", state)
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end with some input.
pub fn run(command: &mut Command, input: &str) -> Output {
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    // A program that does not read its input closes it.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    process.wait_with_output().unwrap()
}

/// The standard output of a command that must succeed.
pub fn output(command: &mut Command) -> String {
    let output = run(command, "");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// A `darda chat` that somebody types into.
pub struct Chat {
    process: Child,
    input: Option<ChildStdin>,
    said: mpsc::Receiver<String>,
    noted: mpsc::Receiver<String>,
}

impl Chat {
    pub fn start(command: &mut Command) -> Self {
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        Self {
            input: process.stdin.take(),
            said: lines(process.stdout.take().unwrap()),
            noted: lines(process.stderr.take().unwrap()),
            process,
        }
    }

    pub fn type_line(&mut self, line: &str) {
        writeln!(self.input.as_ref().unwrap(), "{line}").unwrap();
    }

    /// Waits for a line of the conversation that contains `part`, and returns all lines up to it.
    pub fn hears(&self, part: &str) -> Vec<String> {
        wait_for(&self.said, part)
    }

    /// Waits for a line on the standard error.
    pub fn notes(&self, part: &str) -> Vec<String> {
        wait_for(&self.noted, part)
    }

    /// Kills the process in the middle of whatever it does.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks the process to end, as a system that shuts down does.
    #[cfg(unix)]
    pub fn terminate(&self) {
        let id = self.process.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(status.success());
    }

    /// Ends the input and waits for the end; returns the rest of the conversation.
    pub fn leave(mut self) -> (ExitStatus, Vec<String>) {
        drop(self.input.take());
        let end = Instant::now() + PATIENCE;
        let mut rest = Vec::new();
        loop {
            match self
                .said
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => rest.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end"),
            }
        }
        (self.process.wait().unwrap(), rest)
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }
}

fn lines(source: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn wait_for(lines: &mpsc::Receiver<String>, part: &str) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    let mut before = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) => {
                let found = line.contains(part);
                before.push(line);
                if found {
                    return before;
                }
            }
            Err(_) => panic!("no line with {part:?} after {before:#?}"),
        }
    }
}
