//! What a look at the servers found, for `check`.

use anyhow::bail;
use tracing::{info, warn};

use crate::wait::Trouble;

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    InOrder(String),
    /// What `run` would do.
    Lacking(String),
    /// It cannot be said, or `run` would not mend it.
    Wrong(String),
}

impl From<Trouble> for Found {
    fn from(trouble: Trouble) -> Self {
        Self::Wrong(trouble.why().to_owned())
    }
}

impl Found {
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        matches!(self, Self::InOrder(_))
    }
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
