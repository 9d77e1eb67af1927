//! Logs, to standard error, so that standard output belongs to the program.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

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

/// What has to be ended before the process does.
#[derive(Debug, Default)]
#[must_use]
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    exporting: Option<crate::trace::Exporting>,
}

impl Telemetry {
    /// Sends what waits, within seconds.
    pub async fn end(self) {
        #[cfg(feature = "otlp")]
        if let Some(exporting) = self.exporting {
            exporting.end().await;
        }
    }
}

/// Starts logging as configured, without what some libraries say because the program says it better; naming these in DARDA_LOG
/// brings them back. Called once, by `main`; a second call changes nothing.
///
/// # Errors
/// When one of [`VARIABLES`] is bad.
pub fn init_without(libraries: &[&str]) -> Result<(), EnvError> {
    let _nothing = start(libraries, None)?;
    Ok(())
}

/// Starts logging and, for a program with a name and a version, traces. Within a runtime of tokio.
///
/// # Errors
/// When one of the variables is bad.
pub(crate) fn start(
    libraries: &[&str],
    traced: Option<(&'static str, &'static str)>,
) -> Result<Telemetry, EnvError> {
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
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Complaining about a log that nobody reads any more would end the thread that writes to it.
        .log_internal_errors(false);
    let layer = match config.log_format {
        Format::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => layer
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
    };
    // A filter of its own: what is traced is none of its business.
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    #[cfg(feature = "otlp")]
    let (subscriber, telemetry) = {
        let started = match traced {
            Some((program, version)) => crate::trace::start(program, version)?,
            None => None,
        };
        let (layer, exporting) = started.unzip();
        (subscriber.with(layer), Telemetry { exporting })
    };
    #[cfg(not(feature = "otlp"))]
    let (_, telemetry) = (traced, Telemetry::default());
    if subscriber.try_init().is_err() {
        tracing::debug!("logging was already started");
    }
    Ok(telemetry)
}
