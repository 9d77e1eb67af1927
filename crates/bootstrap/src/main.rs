//! `bootstrap`: the process.

use std::process::ExitCode;

use anyhow::bail;
use bootstrap::{Config, SecretConfig, VARIABLES, check, run, secrets};
use runtime::env::{self, EnvError};
use runtime::{shutdown, telemetry};
use tracing::{error, warn};

const USAGE: &str = "\
bootstrap: makes Redis, RabbitMQ and MongoDB ready for Darda

Usage: bootstrap run | check | secrets | --help | --version

  run      makes what is lacking, and waits for servers that are not there yet
  check    says what run would do, and does nothing
  secrets  makes the passwords that a Secret of Kubernetes lacks; runs in a pod

All of them may run again at any time. The exit code is 0 if everything is as it should be, 1 if it is not and running
again may help, 2 if a variable is bad or missing.
";

enum Command {
    Run(Config),
    Check(Config),
    Secrets(SecretConfig),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run"] => prepare(|| Config::from_env().map(Command::Run)),
        ["check"] => prepare(|| Config::from_env().map(Command::Check)),
        ["secrets"] => prepare(|| SecretConfig::from_env().map(Command::Secrets)),
        ["--help" | "-h"] => {
            println!("{USAGE}\n{}", env::described(VARIABLES).trim_end());
            return ExitCode::SUCCESS;
        }
        ["--version" | "-V"] => {
            println!("bootstrap {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match command {
        Ok(command) => finish(carry_out(command).await),
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(2)
        }
    }
}

fn prepare(read: impl FnOnce() -> Result<Command, EnvError>) -> Result<Command, EnvError> {
    // To look for a queue is an error to the driver if there is none.
    telemetry::init_without(&["lapin"])?;
    for warning in env::unknown(VARIABLES) {
        warn!("{warning}");
    }
    read()
}

async fn carry_out(command: Command) -> anyhow::Result<()> {
    // The first process of a container is not ended by a signal that it does not listen to.
    let shutdown = shutdown::on_signals()?;
    let work = async {
        match &command {
            Command::Run(config) => run(config).await,
            Command::Check(config) => check(config).await,
            Command::Secrets(config) => {
                secrets::run(config, &secrets::ServiceAccount::of_pod()?).await
            }
        }
    };
    tokio::select! {
        done = work => done,
        () = shutdown.cancelled() => bail!("ended by a signal; the next run goes on"),
    }
}

fn finish(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("{why:#}");
            ExitCode::from(1)
        }
    }
}
