//! `persistence-worker`: the process.

use persistence_worker::{Config, VARIABLES, index, parked, run, shards};
use runtime::{cli::Program, shutdown};
use tracing::info;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: "persistence-worker",
    version: env!("CARGO_PKG_VERSION"),
    about: "stores the Darda log: RabbitMQ to MongoDB; `persistence-worker parked` looks at what cannot be stored, `persistence-worker index` at the index of search, `persistence-worker shards` at the queues",
    variables: VARIABLES,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first().map(|(f, r)| (f.as_str(), r)) {
        Some(("parked", arguments)) => return parked::command(arguments).await,
        Some(("index", arguments)) => return index::command(arguments).await,
        Some(("shards", arguments)) => {
            if !shards::command(arguments).await? {
                std::process::exit(1);
            }
            return Ok(());
        }
        _ => {}
    }
    let telemetry = PROGRAM.start()?;
    let config = Config::from_env()?;
    // Before anybody can know that it runs.
    let shutdown = shutdown::on_signals()?;
    let listener = config.bind_admin()?;
    info!(admin = %listener.local_addr()?, "persistence-worker is starting");
    let ended = run(config, listener, shutdown).await;
    telemetry.end().await;
    ended
}
