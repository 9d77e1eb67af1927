//! The operators' command of the node.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Generation, RabbitMq};
use crate::programs::{self, Trixie, installed};

/// It starts an Erlang of its own for every command.
const WITHIN: Duration = Duration::from_secs(60);

impl RabbitMq {
    /// Runs `rabbitmqctl` with these arguments; what it prints.
    ///
    /// # Errors
    /// If the node does not run, refuses, or does not answer within a minute.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let folder = self.process.folder();
        let beside = |server: std::path::PathBuf| server.with_file_name("rabbitmqctl");
        let (command, inside) = match self.generation {
            Generation::Installed => {
                let program = programs::rabbitmq_server().map(beside);
                installed("rabbitmq-server", program, folder)?
            }
            Generation::V4 => Trixie::command("/usr/lib/rabbitmq/bin/rabbitmqctl", folder)?,
        };
        let command = Command::from(command)
            .args(["-q", "-n", "darda@localhost"])
            .args(arguments)
            .env("HOME", &inside)
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", inside.join("env.conf"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(WITHIN, command)
            .await
            .with_context(|| format!("rabbitmqctl {arguments:?} takes too long"))??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }
}
