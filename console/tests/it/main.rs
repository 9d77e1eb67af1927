//! `darda` against a real server: the `standalone` program that was built beside it.

mod chat;
mod commands;
mod console;
mod server;
