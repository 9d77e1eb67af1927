//! One command with servers beside it: how `scripts/test` gives one set to all test programs.

use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::shared::{Started, not_installed};

/// Starts the servers that the environment does not name, runs the command with variables that name them, and ends them
/// when it has ended. What is not installed is left out: a test says so.
pub async fn run(command: &[&str]) -> Result<ExitStatus> {
    // The terminal tells the command too; what is asked of this process alone is passed on.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    if let Some(missing) = not_installed() {
        eprintln!("testbed: going on without {missing}");
    }
    let started = tokio::select! {
        started = Started::start() => started?,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("told to end"),
    };
    let (program, arguments) = command.split_first().context("no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(started.variables())
        .stdin(Stdio::inherit())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => tell(&child),
        }
    }
}

fn tell(child: &tokio::process::Child) {
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // One that has ended by now is about to be waited for.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}
