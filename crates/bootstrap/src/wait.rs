//! Waiting for what is not there yet, for a time that has an end.

use std::time::Duration;

use anyhow::bail;
use backend::cluster::backoff::Backoff;
use tokio::time::{Instant, sleep};
use tracing::info;

/// Pauses between looks.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Far more than there is to make. What has to be made again and again is undone by somebody.
const STEPS_MAX: usize = 100;

/// Why something is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It may go away by itself.
    Passing(String),
    /// A person has to do something.
    Lasting(String),
}

impl From<backend::Error> for Trouble {
    fn from(error: backend::Error) -> Self {
        use backend::Error::{Overloaded, Unavailable};
        match error {
            Unavailable { message, .. } | Overloaded { message, .. } => Self::Passing(message),
            other => Self::Lasting(other.to_string()),
        }
    }
}

impl Trouble {
    #[must_use]
    pub fn why(&self) -> &str {
        let (Self::Passing(why) | Self::Lasting(why)) = self;
        why
    }
}

/// What one more look led to.
pub enum Step<T> {
    Done(T),
    /// Something was made: the waiting begins anew.
    Further,
}

/// Does a step after the other until it is done, a hundred at most. While one meets passing trouble it is tried again, for `wait` at most
/// since something was made. Each reason is logged once.
///
/// # Errors
/// With the trouble that lasts, or with the last one when the time is over.
pub async fn steps<T>(
    wait: Duration,
    mut step: impl AsyncFnMut() -> Result<Step<T>, Trouble>,
) -> anyhow::Result<T> {
    let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    let (mut since, mut said, mut made) = (Instant::now(), String::new(), 0);
    while made < STEPS_MAX {
        let why = match step().await {
            Ok(Step::Done(done)) => return Ok(done),
            Ok(Step::Further) => {
                since = Instant::now();
                backoff.reset();
                made += 1;
                continue;
            }
            Err(Trouble::Lasting(why)) => bail!(why),
            Err(Trouble::Passing(why)) => why,
        };
        if since.elapsed() >= wait {
            bail!("{why}; waited {} s", wait.as_secs_f64());
        }
        if why != said {
            info!("waiting: {why}");
            said = why;
        }
        sleep(backoff.pause().min(wait.saturating_sub(since.elapsed()))).await;
    }
    bail!("what is made does not stay as it is: somebody with other settings is at work");
}

/// As [`steps`], for what is one step.
///
/// # Errors
/// As [`steps`].
pub async fn until<T>(
    wait: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, Trouble>,
) -> anyhow::Result<T> {
    steps(wait, async || attempt().await.map(Step::Done)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Trouble {
        Trouble::Passing("it is away".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_away_is_waited_for_and_not_longer() {
        let (begun, wait) = (Instant::now(), Duration::from_secs(10));
        let waited = until(wait, async || Err::<(), _>(away())).await;
        assert_eq!(waited.unwrap_err().to_string(), "it is away; waited 10 s");
        assert!((10.0..11.0).contains(&begun.elapsed().as_secs_f64()));
        let mut looks = 0;
        let done = until(wait, async || {
            looks += 1;
            if looks < 4 { Err(away()) } else { Ok(looks) }
        });
        assert_eq!(done.await.unwrap(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_waiting_begins_anew_when_something_was_made() {
        let (wait, mut looks) = (Duration::from_secs(10), 0);
        let begun = Instant::now();
        let done = steps(wait, async || {
            looks += 1;
            match looks {
                40 => Ok(Step::Done(())),
                n if n % 4 == 0 => Ok(Step::Further),
                _ => Err(away()),
            }
        });
        done.await.unwrap();
        assert!(begun.elapsed() > wait);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_always_undone_is_not_made_for_ever() {
        let mut made = 0;
        let done = steps::<()>(Duration::from_secs(10), async || {
            made += 1;
            Ok(Step::Further)
        });
        assert!(done.await.unwrap_err().to_string().contains("somebody"));
        assert_eq!(made, STEPS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_not_waited_for() {
        let begun = Instant::now();
        let lasting = || Trouble::Lasting("somebody has to look".to_owned());
        let waited = until(Duration::from_secs(10), async || Err::<(), _>(lasting())).await;
        assert_eq!(waited.unwrap_err().to_string(), "somebody has to look");
        assert!(begun.elapsed().is_zero());
    }
}
