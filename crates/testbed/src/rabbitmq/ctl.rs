//! The operators' command of the node.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use super::RabbitMq;

/// It starts an Erlang of its own for every command.
const WITHIN: Duration = Duration::from_secs(60);

impl RabbitMq {
    /// Runs `rabbitmqctl` with these arguments; what it prints. For instance, `["set_vm_memory_high_watermark", "0.000001"]`
    /// blocks who publishes until it is `"0.4"` again.
    ///
    /// # Errors
    /// If the node does not run, refuses, or does not answer within a minute.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let command = Command::from(self.script("rabbitmqctl")?)
            .arg("--quiet")
            .args(arguments)
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
