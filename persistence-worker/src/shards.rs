//! `persistence-worker shards`: the queues of the shards, for the person who looks after them.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use backend::Error;
use backend::cluster::Settings;
use backend::cluster::settings::Broker;
use backend::cluster::shards::{self, Looked, Rebuild, Rebuilt};

/// How long servers may be away, and the pause between tries.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

const HELP: &str = "\
Looks at the queues of the shards, or makes those anew that nobody can consume any more.

Usage: persistence-worker shards list | rebuild [--give-up]

  list       one line each: shard, envelopes that wait, workers that have subscribed, what is wrong; what cannot
             be consumed is looked at for 15 seconds, for a broker that starts takes its time
  rebuild    stores from Redis what is in the broken queues, deletes them and makes them anew
  --give-up  even if rooms have begun anew since their queue broke, because Redis lost its data too: what was acked
             in them before that and is in the queue alone is lost with it

rebuild is not for a RabbitMQ some of whose nodes are away: wait until they are back. Queues that can be consumed are
left alone. All rooms answer unavailable for some seconds, and senders try again. Broken off, it is to be run again.
list reads DARDA_RABBITMQ_URL, DARDA_NAMESPACE and DARDA_SHARDS, set as for the worker; rebuild needs all that the
worker has.";

/// Does what the arguments say. Answers false when a shard cannot be consumed.
///
/// # Errors
/// When they cannot be understood, a server cannot be reached, or the queue is not to be made anew.
pub async fn command(arguments: &[String]) -> anyhow::Result<bool> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["--help" | "-h"] => {
            println!("{HELP}");
            Ok(true)
        }
        ["list"] => list().await,
        ["rebuild"] => rebuild(false).await,
        ["rebuild", "--give-up"] => rebuild(true).await,
        _ => {
            eprintln!("{HELP}");
            std::process::exit(2);
        }
    }
}

async fn list() -> anyhow::Result<bool> {
    let looked = shards::look(&Broker::from_env()?).await?;
    for one in &looked {
        println!("{}", line(one));
    }
    Ok(looked.iter().all(|one| one.trouble.is_none()))
}

fn line(looked: &Looked) -> String {
    let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    format!(
        "{}  {}  {}  {}",
        looked.shard,
        number(looked.waiting),
        number(looked.consumers),
        looked.trouble.as_deref().unwrap_or("ok"),
    )
}

async fn rebuild(gives_up: bool) -> anyhow::Result<bool> {
    let rebuild = Rebuild::new(&Settings::from_env()?).await?;
    let begun = Instant::now();
    let Rebuilt {
        shards,
        rooms,
        events,
        contradictions,
    } = loop {
        match rebuild.run(gives_up).await {
            Err(error @ Error::Unavailable { .. }) if begun.elapsed() < PATIENCE => {
                eprintln!("{error}; it is tried again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error @ Error::Unavailable { .. }) => {
                return Err(error).context("not done; run it again");
            }
            done => break done?,
        }
    };
    for contradiction in contradictions {
        eprintln!("left out: {contradiction}");
    }
    if shards.is_empty() {
        println!("every shard can be consumed");
    } else {
        println!(
            "new queues for shards {shards:?}; {events} events of {rooms} rooms were stored from Redis"
        );
    }
    Ok(true)
}
