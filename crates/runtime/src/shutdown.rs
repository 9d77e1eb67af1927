//! The wish to end, from signals.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

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
        let (name, number) = next(&mut terminate, &mut interrupt).await;
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
