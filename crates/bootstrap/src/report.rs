//! What a look at the servers found, for `check`.

use std::time::Duration;

use anyhow::bail;
use tracing::{info, warn};

use crate::wait::{Trouble, until};

/// How long is looked again at what may go away by itself, at most: somebody waits for the answer.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    InOrder(String),
    /// What `run` would do.
    Lacking(String),
    /// It cannot be said, or `run` would not mend it.
    Wrong(String),
}

impl Found {
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        matches!(self, Self::InOrder(_))
    }
}

/// What a look found, or why it found nothing.
pub async fn found(
    wait: Duration,
    look: impl AsyncFnMut() -> Result<Vec<Found>, Trouble>,
) -> Vec<Found> {
    let looked = until(wait, look).await;
    looked.unwrap_or_else(|why| vec![Found::Wrong(format!("{why:#}"))])
}

/// Logs a line for each.
///
/// # Errors
/// Unless everything is in order.
pub fn report(found: &[Found]) -> anyhow::Result<()> {
    let mut other = 0;
    for one in found {
        match one {
            Found::InOrder(what) => info!("{what}"),
            Found::Lacking(what) => warn!("run would {what}"),
            Found::Wrong(why) => warn!("{why}"),
        }
        other += usize::from(!one.is_in_order());
    }
    match other {
        0 => Ok(()),
        1 => bail!("1 thing is not as it should be; see above"),
        _ => bail!("{other} things are not as they should be; see above"),
    }
}
