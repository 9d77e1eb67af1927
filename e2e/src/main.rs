//! `checker`: the command.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use client::Address;
use e2e::fault::{self, Family};
use e2e::history::History;
use e2e::matrix;
use e2e::system::{Programs, Servers};
use e2e::workload::Plan;
use e2e::{judge, watch};
use testbed::Generation;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Many senders and readers, faults, and a judge that compares what was acknowledged, what was shown and what is kept.
///
/// Exits with 1 when a promise was broken, with 2 when something else went wrong.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Broker {
    /// The one of this machine.
    #[default]
    Installed,
    /// The 4.0 of Debian 13, as `scripts/setup test` unpacks it.
    #[value(name = "4")]
    V4,
}

impl From<Broker> for Generation {
    fn from(broker: Broker) -> Self {
        match broker {
            Broker::Installed => Self::Installed,
            Broker::V4 => Self::V4,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Starts a system, breaks it again and again, and prints a table.
    Matrix {
        /// One process, or a cluster over Redis, RabbitMQ and MongoDB; both when not given.
        #[arg(long, value_enum)]
        family: Option<Family>,
        /// Everything random follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// No session begins after this time.
        #[arg(long, default_value_t = 1200)]
        seconds: u64,
        /// Which faults; all when not given.
        #[arg(long, value_delimiter = ',')]
        faults: Vec<String>,
        /// How often each.
        #[arg(long, default_value_t = 20)]
        runs: u32,
        /// New messages and other acts per second.
        #[arg(long, default_value_t = 100.0)]
        rate: f64,
        /// Which RabbitMQ a cluster has.
        #[arg(long, value_enum, default_value_t)]
        rabbitmq: Broker,
        /// Where our programs are; beside this one when not given.
        #[arg(long)]
        programs: Option<PathBuf>,
        /// Where logs and histories are kept when a promise was broken.
        #[arg(long, default_value = "target/checker")]
        folder: PathBuf,
        /// Keeps those of clean sessions too.
        #[arg(long)]
        keep: bool,
        /// Writes the result as JSON to this file too; `-` prints it instead of the table.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Lists the faults.
    Faults {
        #[arg(long, value_enum)]
        family: Option<Family>,
    },
    /// Sends to and reads from servers that run already, and judges; whatever breaks them comes from outside.
    Watch {
        /// A server, or several to be used in turn.
        #[arg(long, required = true, value_delimiter = ',')]
        addr: Vec<Address>,
        /// How long; the longest with --events.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Reads from the input what happens, a line when something begins and an empty one when it is over, until the input
        /// ends. Prints a table instead of JSON.
        #[arg(long)]
        events: bool,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// New messages and other acts per second. A user may do 20, where nothing else is set.
        #[arg(long, default_value_t = 50.0)]
        rate: f64,
        #[arg(long, default_value_t = 10)]
        senders: usize,
        #[arg(long, default_value_t = 6)]
        readers: usize,
        #[arg(long, default_value_t = 4)]
        rooms: usize,
        /// So many more connections, which only read what little is written in rooms of their own, and have to come back whenever
        /// they lose a server. Of four, three move when they are asked to and one stays until it is closed.
        #[arg(long, default_value_t = 0)]
        crowd: usize,
        /// No more of the crowd may be moved or closed within a second by servers that leave; any number when not given.
        #[arg(long, requires = "crowd")]
        leaves_per_sec_max: Option<usize>,
        /// How long everything may take to be answered and read when the time is over.
        #[arg(long, default_value_t = 120)]
        patience: u64,
        /// Where the history is written when a promise was broken.
        #[arg(long, default_value = "target/checker")]
        folder: PathBuf,
    },
    /// Judges a history that was kept.
    Judge { history: PathBuf },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = tokio::select! {
        done = run(Cli::parse().command) => done,
        // What was started ends with what holds it.
        signal = told_to_end() => signal.context("no signals").and(Ok(false)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("checker: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The lines of the input. A thread of its own reads them: the runtime would wait for its last read at the end.
fn lines() -> mpsc::Receiver<String> {
    let (to_lines, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if to_lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

async fn told_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// Whether every promise was kept.
async fn run(command: Command) -> Result<bool> {
    match command {
        Command::Matrix {
            family,
            seed,
            seconds,
            faults,
            runs,
            rate,
            rabbitmq,
            programs,
            folder,
            keep,
            json,
        } => {
            let options = matrix::Options {
                programs: programs.map_or_else(Programs::beside_this, |at| Ok(Programs::of(at)))?,
                seed,
                budget: Duration::from_secs(seconds),
                faults: possible(family, named(family, &faults)?, rabbitmq.into())?,
                runs,
                per_sec: rate,
                rabbitmq: rabbitmq.into(),
                folder: absolute(folder)?,
                keep,
            };
            let table = matrix::run(&options, &mut |line| eprintln!("{line}")).await?;
            let text = serde_json::to_string_pretty(&table)?;
            match json {
                Some(path) if path.as_os_str() == "-" => println!("{text}"),
                json => {
                    println!("{}", table.markdown());
                    if let Some(path) = json {
                        fs::write(&path, text)
                            .with_context(|| format!("cannot write {}", path.display()))?;
                    }
                }
            }
            if table.is_cut_short {
                eprintln!("the time was over before every fault had its {runs} runs");
            }
            Ok(table.is_clean())
        }
        Command::Faults { family } => {
            for (family, fault) in named(family, &[])? {
                println!("{} {fault}", family.name());
            }
            Ok(true)
        }
        Command::Watch {
            addr,
            seconds,
            events,
            seed,
            rate,
            senders,
            readers,
            rooms,
            crowd,
            leaves_per_sec_max,
            patience,
            folder,
        } => {
            // Its rooms are there already when it was run before.
            let name = format!("watch-{:x}", rand::random::<u32>());
            let plan = Plan {
                rooms,
                senders,
                per_sec: rate,
                readers,
                patience: Duration::from_secs(patience),
                ..Plan::new(seed, name)
            };
            let options = watch::Options {
                plan,
                crowd,
                leaves_per_sec_max,
                time: Duration::from_secs(seconds),
            };
            let told = events.then(lines);
            let (summary, histories) = watch::run(&options, &addr, told, || {
                eprintln!("every room takes messages")
            })
            .await?;
            if events {
                println!("{}", summary.markdown());
            } else {
                println!("{}", serde_json::to_string_pretty(&summary)?);
            }
            if !summary.is_clean {
                fs::create_dir_all(&folder)?;
                for (name, history) in &histories {
                    let path = folder.join(format!("{name}.json"));
                    fs::write(&path, serde_json::to_vec(history)?)?;
                    eprintln!("kept in {}", path.display());
                }
            }
            Ok(summary.is_clean)
        }
        Command::Judge { history } => {
            let text = fs::read(&history);
            let text = text.with_context(|| format!("cannot read {}", history.display()))?;
            let history: History = serde_json::from_slice(&text)?;
            let verdict = judge::judge(&history);
            println!("{}", serde_json::to_string_pretty(&verdict)?);
            Ok(verdict.is_clean())
        }
    }
}

/// The faults of these names, or all of them.
fn named(family: Option<Family>, names: &[String]) -> Result<Vec<(Family, String)>> {
    let families = family.map_or(Family::ALL.to_vec(), |family| vec![family]);
    let faults: Vec<_> = families
        .iter()
        .flat_map(|family| {
            family
                .faults()
                .into_iter()
                .map(|name| (*family, name.to_owned()))
        })
        .filter(|(_, name)| names.is_empty() || names.contains(name))
        .collect();
    for name in names {
        ensure!(
            faults.iter().any(|(_, fault)| fault == name),
            "there is no fault '{name}'; `checker faults` lists them"
        );
    }
    Ok(faults)
}

/// Those that can be made here. What was not asked for by its family is left out, and that is said.
fn possible(
    family: Option<Family>,
    mut faults: Vec<(Family, String)>,
    rabbitmq: Generation,
) -> Result<Vec<(Family, String)>> {
    if family != Some(Family::Cluster)
        && let Some(missing) = Servers::missing(rabbitmq)
    {
        let all = faults.len();
        faults.retain(|(family, _)| *family != Family::Cluster);
        if faults.len() < all {
            eprintln!("skipped: the cluster needs {missing}");
        }
    }
    faults.retain(|(_, fault)| match fault::missing(fault) {
        Some(missing) => {
            eprintln!("skipped: {fault} needs {missing}");
            false
        }
        None => true,
    });
    ensure!(!faults.is_empty(), "nothing is left to be done");
    Ok(faults)
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}
