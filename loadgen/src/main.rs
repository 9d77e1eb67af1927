//! Load generator and benchmark of Darda.
//!
//! One thread drives up to tens of thousands of connections. Load is open-loop: a message is due at a time that does not
//! depend on the server, and latency counts from then, so a server that stalls cannot hide it. Every run also checks the
//! promises (nothing lost, nothing twice, one order); a broken one makes the exit code 1.

mod acks;
mod bench;
mod bench_cluster;
mod disk;
mod driver;
mod fanout;
mod floor;
mod frame;
mod group;
mod histogram;
mod http;
mod idle;
mod process;
mod report;
mod stalled;
mod stamp;
mod storm;
mod target;
mod watch;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use group::{Load, Shape};
use report::Report;
use stamp::STAMP_BYTES;
use target::{Protocol, Target};

/// Load generator and benchmark of Darda.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Common {
    /// The server under test.
    #[arg(long, default_value = "http://127.0.0.1:8080", global = true)]
    url: String,
    /// How it is spoken to.
    #[arg(long, value_enum, default_value_t = Protocol::Darda, global = true)]
    protocol: Protocol,
    /// Its process, to report processor time and memory.
    #[arg(long, global = true)]
    pid: Option<u32>,
    /// Writes the result as JSON to this file; `-` prints it instead of the table.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Args, Clone, Copy)]
struct ShapeArgs {
    #[arg(long, default_value_t = 1)]
    rooms: usize,
    /// Members of each room.
    #[arg(long, default_value_t = 100)]
    members: usize,
    /// Members of each room that send.
    #[arg(long, default_value_t = 10)]
    senders: usize,
    /// Length of the texts.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
}

#[derive(Subcommand)]
enum Command {
    /// Messages at a rate to all members of rooms: deliveries, latency, cost.
    Fanout {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        shape: ShapeArgs,
        /// Messages per second over all rooms. With `--search`: where to begin.
        #[arg(long, default_value_t = 500.0)]
        rate: f64,
        #[arg(long, default_value_t = 1.0)]
        warm_up_secs: f64,
        #[arg(long, default_value_t = 5.0)]
        secs: f64,
        /// Finds the highest rate that is sustained.
        #[arg(long)]
        search: bool,
        /// A rate is sustained while 99 of 100 deliveries take no longer.
        #[arg(long, default_value_t = 200.0)]
        p99_ms_max: f64,
        /// Bytes added to each message of the echo protocol.
        #[arg(long, default_value_t = 0)]
        pad_bytes: usize,
    },
    /// Many messages at the same moment: time until the last is with everyone.
    Burst {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        shape: ShapeArgs,
        #[arg(long, default_value_t = 1000)]
        messages: usize,
    },
    /// Durable acks: senders that send the next message when the last is acked.
    Acks {
        #[command(flatten)]
        common: Common,
        /// Numbers of senders to try, one after the other.
        #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
        senders: Vec<usize>,
        #[arg(long, default_value_t = 16)]
        rooms: usize,
        #[arg(long, default_value_t = 100)]
        bytes: usize,
        #[arg(long, default_value_t = 3.0)]
        secs: f64,
    },
    /// Writes many messages made of words into one room.
    Fill {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value = "big")]
        room: String,
        #[arg(long, default_value = "filler")]
        user: String,
        #[arg(long, default_value_t = 1_000_000)]
        messages: u64,
        /// Messages on the way at a time.
        #[arg(long, default_value_t = 1024)]
        window: usize,
    },
    /// GET requests at a rate.
    Http {
        #[command(flatten)]
        common: Common,
        /// `{n}` becomes a number up to `--number-max`, `{word}` a word that `fill` uses.
        #[arg(long, default_value = "/v1/rooms/big/messages?before={n}&limit=50")]
        path: String,
        #[arg(long, default_value_t = 1_000_000)]
        number_max: u64,
        #[arg(long, default_value = "filler")]
        user: String,
        #[arg(long, default_value_t = 200.0)]
        rate: f64,
        #[arg(long, default_value_t = 5.0)]
        secs: f64,
        #[arg(long, default_value_t = 16)]
        connections: usize,
    },
    /// Joined connections that do nothing: memory, and processor time to connect. Needs `--pid`.
    Idle {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 2_000)]
        connections: usize,
        /// Members of each room.
        #[arg(long, default_value_t = 10)]
        members: usize,
    },
    /// Clients that missed messages come back at once.
    Storm {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 1_000)]
        clients: usize,
        #[arg(long, default_value_t = 10)]
        rooms: usize,
        /// Messages each of them missed.
        #[arg(long, default_value_t = 100)]
        missed: usize,
        #[arg(long, default_value_t = 100)]
        bytes: usize,
    },
    /// Readers that stop reading: memory, and what the others notice. Needs `--pid`.
    Stalled {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 20)]
        readers: usize,
        #[arg(long, default_value_t = 100)]
        stalled: usize,
        #[arg(long, default_value_t = 1_000.0)]
        rate: f64,
        #[arg(long, default_value_t = 1_000)]
        bytes: usize,
        #[arg(long, default_value_t = 4.0)]
        secs: f64,
    },
    /// Everything, beside the reference programs and the floor, with a table at the end.
    Bench(bench::Options),
    /// The cluster family: starts its servers and programs, drives them, and says what each of them used.
    BenchCluster(bench_cluster::Options),
    /// How long a bare `fdatasync` takes.
    Disk {
        #[arg(long, default_value = ".")]
        folder: PathBuf,
        #[arg(long, default_value_t = 1.0)]
        secs: f64,
    },
    /// Serves the echo protocol from a bare epoll loop, until it is killed.
    Floor {
        /// Frames of a room gathered into one write; 1 writes each by itself.
        #[arg(long, default_value_t = 64)]
        frames: usize,
        /// A frame waits at most this long for others.
        #[arg(long, default_value_t = 2)]
        tick_ms: u64,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::progress_done();
            eprintln!("loadgen: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> Result<bool> {
    process::raise_open_files();
    match cli.command {
        Command::Fanout {
            common,
            shape,
            rate,
            warm_up_secs,
            secs,
            search,
            p99_ms_max,
            pad_bytes,
        } => {
            let mut target = common.target()?;
            target.pad_bytes = pad_bytes;
            let shape = shape.check()?;
            let measure = Duration::try_from_secs_f64(secs)?;
            let report = if search {
                let plan = fanout::Search {
                    p99_ms_max,
                    first: rate * shape.members as f64,
                    step: Duration::from_millis(2000),
                    confirm: measure,
                    within: Duration::from_secs(60),
                };
                fanout::search(&target, shape, common.pid, plan)?.report(shape)
            } else {
                let warm_up = Duration::try_from_secs_f64(warm_up_secs)?;
                let load = Load::Rate {
                    per_sec: rate,
                    warm_up,
                    measure,
                };
                fanout::fixed(&target, shape, common.pid, load)?
            };
            common.publish(report)
        }
        Command::Burst {
            common,
            shape,
            messages,
        } => {
            let load = Load::Burst { messages };
            common.publish(fanout::fixed(
                &common.target()?,
                shape.check()?,
                common.pid,
                load,
            )?)
        }
        Command::Acks {
            common,
            senders,
            rooms,
            bytes,
            secs,
        } => {
            ensure!(
                bytes >= STAMP_BYTES,
                "--bytes must be at least {STAMP_BYTES}"
            );
            let (target, time) = (common.target()?, Duration::try_from_secs_f64(secs)?);
            let mut kept = true;
            for senders in senders {
                let plan = acks::Plan::closed_loop(senders, rooms, bytes, time);
                let outcome = acks::run(&target, &plan, common.pid, true)?;
                kept &=
                    common.publish(outcome.report(format!("{senders} senders, durable acks")))?;
            }
            Ok(kept)
        }
        Command::Fill {
            common,
            room,
            user,
            messages,
            window,
        } => {
            let plan = acks::Plan::fill(vec![room], user, messages, window);
            let outcome = acks::run(&common.target()?, &plan, common.pid, false)?;
            common.publish(outcome.report(format!("{messages} messages into {}", plan.rooms[0])))
        }
        Command::Http {
            common,
            path,
            number_max,
            user,
            rate,
            secs,
            connections,
        } => {
            let time = Duration::try_from_secs_f64(secs)?;
            let plan = http::Plan {
                path,
                number_max,
                user,
                rate,
                time,
                connections,
            };
            let outcome = http::run(&common.target()?, &plan, common.pid)?;
            common.publish(outcome.report(&plan))
        }
        Command::Idle {
            common,
            connections,
            members,
        } => {
            let outcome = idle::run(&common.target()?, connections, members, common.process()?)?;
            common.publish(outcome.report())
        }
        Command::Storm {
            common,
            clients,
            rooms,
            missed,
            bytes,
        } => {
            let plan = storm::Plan {
                clients,
                rooms,
                missed,
                bytes,
            };
            common.publish(storm::run(&common.target()?, plan, common.pid)?.report())
        }
        Command::Stalled {
            common,
            readers,
            stalled,
            rate,
            bytes,
            secs,
        } => {
            let time = Duration::try_from_secs_f64(secs)?;
            let plan = stalled::Plan {
                readers,
                stalled,
                per_sec: rate,
                bytes,
                time,
            };
            common.publish(stalled::run(&common.target()?, plan, common.process()?)?.report())
        }
        Command::Bench(options) => bench::run(&options),
        Command::BenchCluster(options) => bench_cluster::run(&options),
        Command::Disk { folder, secs } => {
            let latency = disk::run(&folder, Duration::try_from_secs_f64(secs)?)?;
            disk::report(&folder, &latency).publish(None)
        }
        Command::Floor { frames, tick_ms } => {
            let tick = Duration::from_millis(tick_ms);
            floor::serve(floor::Gather { frames, tick }).map(|()| true)
        }
    }
}

impl Common {
    fn target(&self) -> Result<Target> {
        Target::new(self.protocol, &self.url)
    }

    fn process(&self) -> Result<u32> {
        self.pid
            .context("--pid is needed: the process of the server")
    }

    fn publish(&self, report: Report) -> Result<bool> {
        report.publish(self.json.as_ref())
    }
}

impl ShapeArgs {
    fn check(self) -> Result<Shape> {
        ensure!(
            self.rooms > 0 && self.members > 0,
            "--rooms and --members must be at least 1"
        );
        ensure!(
            self.bytes >= STAMP_BYTES,
            "--bytes must be at least {STAMP_BYTES}"
        );
        Ok(Shape {
            rooms: self.rooms,
            members: self.members,
            senders: self.senders.clamp(1, self.members),
            bytes: self.bytes,
        })
    }
}
