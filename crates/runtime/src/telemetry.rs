//! Logs, to standard error, so that standard output belongs to the program.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::env::{self, EnvError, Variable};

/// The variables of [`init`].
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "DARDA_LOG",
        default: "info",
        meaning: "What is logged: a level (error, warn, info, debug, trace), or levels by module such as \
                  info,chat_service=debug.",
    },
    Variable {
        name: "DARDA_LOG_FORMAT",
        default: "text",
        meaning: "How it is written: text (for people) or json (one object a line).",
    },
];

/// What the HTTP server says about its threads is nobody's concern, and what it calls an error is a client that sent
/// nonsense. Naming these in DARDA_LOG brings them back.
const QUIET: &str = "actix_server=warn,actix_http=off";

#[derive(Deserialize)]
struct Config {
    #[serde(default = "info")]
    log: String,
    #[serde(default)]
    log_format: Format,
}

fn info() -> String {
    "info".to_owned()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Text,
    Json,
}

/// Starts logging as configured. Called once, by `main`; a second call changes nothing.
///
/// # Errors
/// When one of [`VARIABLES`] is bad.
pub fn init() -> Result<(), EnvError> {
    init_without(&[])
}

/// As [`init`], for a program that says better itself what some libraries would; naming these in DARDA_LOG brings them back.
///
/// # Errors
/// As [`init`].
pub fn init_without(libraries: &[&str]) -> Result<(), EnvError> {
    let config: Config = env::read("DARDA_")?;
    let quiet: String = libraries
        .iter()
        .map(|name| format!("{name}=off,"))
        .collect();
    let filter = EnvFilter::try_new(format!("{QUIET},{quiet}{}", config.log)).map_err(|error| {
        EnvError::new(
            "DARDA_LOG",
            format!("{error}; use a level such as info, or info,chat_service=debug"),
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Complaining about a log that nobody reads any more would end the thread that writes to it.
        .log_internal_errors(false);
    let started = match config.log_format {
        Format::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        Format::Json => builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was already started");
    }
    Ok(())
}
