//! The wish to end, from signals.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Signals this close together are one wish: programs such as `timeout` tell a process and its group, which tells it
/// twice.
const ONE_WISH: Duration = Duration::from_millis(200);

/// A token that is cancelled by the first SIGTERM or SIGINT. The second ends the process at once. Call it inside a
/// tokio runtime that lives as long as the process.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let shutdown = token.clone();
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await.0;
        info!("{name} received, shutting down; once more to end at once");
        shutdown.cancel();
        let first = Instant::now();
        let (name, number) = loop {
            let again = next(&mut terminate, &mut interrupt).await;
            if first.elapsed() >= ONE_WISH {
                break again;
            }
        };
        warn!("{name} received again, ending at once");
        std::process::exit(128 + number);
    });
    Ok(token)
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", 15),
        _ = interrupt.recv() => ("SIGINT", 2),
    }
}
