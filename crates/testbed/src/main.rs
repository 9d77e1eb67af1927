//! `testbed`: servers for one command, or a whole cluster on this machine.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use testbed::Ports;

const USAGE: &str = "\
usage: testbed run -- <command>...   run a command with Redis, RabbitMQ and MongoDB beside it, which end with it
       testbed cluster               run a cluster of Darda with its data in data/cluster until Ctrl-C
       testbed cluster <new folder>  the same with its data there, on ports that are free";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match &arguments[..] {
        ["run", "--", command @ ..] if !command.is_empty() => run(command).await,
        ["cluster"] => cluster("data/cluster", Ok(Ports::usual())).await,
        ["cluster", folder] => cluster(folder, Ports::free()).await,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("testbed: {error:#}");
        ExitCode::FAILURE
    })
}

/// Ends as the command does.
async fn run(command: &[&str]) -> Result<ExitCode> {
    let status = testbed::run(command).await?;
    let code = status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

async fn cluster(folder: &str, ports: Result<Ports>) -> Result<ExitCode> {
    testbed::cluster(Path::new(folder), &ports?).await?;
    Ok(ExitCode::SUCCESS)
}
