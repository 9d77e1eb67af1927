//! `standalone`: the process.

use runtime::{cli::Program, shutdown};
use standalone::{Config, VARIABLES, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: "standalone",
    version: env!("CARGO_PKG_VERSION"),
    about: "Darda in one process: chat, history and the web page over one data folder",
    variables: VARIABLES,
};

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let _telemetry = PROGRAM.start()?;
    let config = Config::from_env()?;
    let backends = backend::open(config.backend).await?;
    // Before anybody can know that it runs.
    let shutdown = shutdown::on_signals()?;
    let listener = config.listen.bind_http()?;
    let admin_listener = config.listen.bind_admin()?;
    println!("Darda is listening on http://{}", listener.local_addr()?);
    run(config.chat, backends, listener, admin_listener, shutdown).await
}
