//! `chat-service`: the process.

use anyhow::Context as _;
use chat_service::{Config, Service, config, run};
use runtime::{Listen, cli::Program, listen, shutdown, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: "chat-service",
    version: env!("CARGO_PKG_VERSION"),
    about: "the front door of Darda: sockets, REST for rooms and messages, the web page",
    variables: &[
        listen::VARIABLES,
        backend::VARIABLES,
        config::VARIABLES,
        telemetry::VARIABLES,
    ],
};

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    PROGRAM.start()?;
    let listen = Listen::from_env()?;
    let config = Config::from_env(listen.http_addr)?;
    let backends = backend::open(backend::Config::from_env()?).await.context(
        "the embedded family belongs to one process: to chat and read history, run standalone instead",
    )?;
    let listener = listen.bind_http()?;
    let admin_listener = listen.bind_admin()?;
    println!("Darda is listening on http://{}", listener.local_addr()?);
    let service = Service {
        program: PROGRAM.name,
        config,
        backends,
        more: |_, _| {},
        more_openapi: None,
    };
    run(service, listener, admin_listener, shutdown::on_signals()?).await
}
