//! `persistence-worker index`: the index of search, for the person who looks after it.

use std::time::Duration;

use anyhow::Context as _;
use backend::cluster::settings::Database;
use backend::cluster::store::{Cover, Indexed};
use backend::cluster::{Mongo, Store, migrations};
use tokio::time::Instant;

const HELP: &str = "\
Looks at the index of search, or makes it anew.

Usage: persistence-worker index status | rebuild

  status   whether every stored message is in it, and how large it is
  rebuild  makes it anew from the stored log, beside everything that goes on, and waits until that is done

A rebuild that is broken off is finished by the workers. Until it is done, the index of before is searched.
Reads DARDA_MONGODB_URI and DARDA_NAMESPACE, set as for the worker.";

/// How often a rebuild says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// How long MongoDB may be away in the middle of a rebuild, and the pause between tries.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(500);

/// Does what the arguments say.
///
/// # Errors
/// When they cannot be understood, or MongoDB cannot be reached.
pub async fn command(arguments: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["--help" | "-h"] => println!("{HELP}"),
        ["status"] => {
            let store = Store::new(mongo().await?);
            println!("{}", line(&store.look_at_index().await?));
        }
        ["rebuild"] => rebuild().await?,
        _ => {
            eprintln!("{HELP}");
            std::process::exit(2);
        }
    }
    Ok(())
}

async fn mongo() -> anyhow::Result<Mongo> {
    let database = Database::from_env()?;
    Ok(Mongo::open(&database.mongodb, &database.namespace).await?)
}

fn line(indexed: &Indexed) -> String {
    let Indexed {
        segments,
        messages,
        bytes,
        walked,
        ..
    } = indexed;
    let state = if indexed.is_complete {
        "complete".to_owned()
    } else {
        format!("being made, {walked} events walked")
    };
    format!("{state}; {segments} segments, {messages} messages, {bytes} bytes")
}

/// Walks as well: there may be no worker. If there is one, either does what the other does not.
async fn rebuild() -> anyhow::Result<()> {
    let mongo = mongo().await?;
    let migrated = migrations::migrate(&mongo).await;
    migrated.context("the database cannot be prepared")?;
    let store = Store::new(mongo);
    store.rebuild_index().await?;
    let (mut said, mut well) = (Instant::now(), Instant::now());
    loop {
        match store.cover().await {
            Ok(Cover::Complete) => break,
            Ok(Cover::Walked(_)) => well = Instant::now(),
            Ok(Cover::Elsewhere) => {
                well = Instant::now();
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) if well.elapsed() < PATIENCE => {
                eprintln!("{error}; it is tried again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error).context("the rebuild is left to the workers"),
        }
        if said.elapsed() > SAY_EVERY {
            said = Instant::now();
            if let Ok(indexed) = store.look_at_index().await {
                println!("{}", line(&indexed));
            }
        }
    }
    println!("{}", line(&store.look_at_index().await?));
    Ok(())
}
