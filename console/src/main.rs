//! `darda`: chat, read and send from a terminal or a script.

mod args;
mod chat;
mod connect;
mod history;
mod outbox_file;
mod rest;
mod rooms;
mod send;
mod tail;
mod text;
mod trace;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has enough of it: `darda history general | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let message = text::plain(&format!("{error:#}"));
            // Without a standard error there is nobody to tell.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("darda: {message}\n"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let account = args.account();
    match args.command {
        Command::History(history) => history::run(&account, &history),
        Command::Rooms(rooms) => rooms::run(&account, &rooms),
        Command::Trace(trace) => trace::run(&account, &trace),
        Command::Chat(chat) => wait_for(chat::run(account, chat)),
        Command::Tail(tail) => wait_for(tail::run(account, tail)),
        Command::Send(send) => wait_for(send::run(account, send)),
    }
}

fn wait_for(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    // A thread may be waiting for a line that nobody will type.
    runtime.shutdown_background();
    result
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
