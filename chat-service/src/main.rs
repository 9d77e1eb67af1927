//! `chat-service`: the process.

use chat_service::{Config, History, Service, VARIABLES, forward, run};
use runtime::{Listen, cli::Program, shutdown};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: "chat-service",
    version: env!("CARGO_PKG_VERSION"),
    about: "the front door of Darda: sockets, REST for rooms and messages, the web page",
    variables: VARIABLES,
};

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let telemetry = PROGRAM.start()?;
    let listen = Listen::from_env()?;
    let config = Config::from_env(listen.http_addr)?;
    let history = forward::Address::from_env()?.map_or(History::Here, History::At);
    let backends = backend::open(backend::Config::from_env()?).await?;
    // Before anybody can know that it runs.
    let shutdown = shutdown::on_signals()?;
    let listener = listen.bind_http()?;
    let admin_listener = listen.bind_admin()?;
    println!("Darda is listening on http://{}", listener.local_addr()?);
    let service = Service {
        program: PROGRAM.name,
        config,
        backends,
        history,
    };
    let ended = run(service, listener, admin_listener, shutdown).await;
    telemetry.end().await;
    ended
}
