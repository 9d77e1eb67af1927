//! `persistence-worker parked`: what cannot be stored, for the person who decides.

use anyhow::{Context as _, bail};
use backend::cluster::parked::{LOOK_MAX, Lot, Parked, Replay};
use backend::cluster::settings::Broker;

const HELP: &str = "\
Looks at the parking queue: lines of the log that cannot be stored.

Usage: persistence-worker parked list | show ID | replay ID | replay --all | drop ID

  list          one line each: id, time, room, seq, reason
  show ID       the line itself
  replay ID     sends it to its shard again; there it may take the place that was kept for it
  replay --all  all of them
  drop ID       throws it away for good

Reads DARDA_RABBITMQ_URL, DARDA_NAMESPACE and DARDA_SHARDS, set as for the worker.";

/// Does what the arguments say.
///
/// # Errors
/// When they cannot be understood, nothing of the id is parked, or the broker cannot be reached.
pub async fn command(arguments: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if matches!(words[..], [] | ["--help" | "-h"]) {
        println!("{HELP}");
        return Ok(());
    }
    let lot = || anyhow::Ok(Lot::new(&Broker::from_env()?));
    match words[..] {
        ["list"] => list(&lot()?).await,
        ["show", id] => show(&lot()?, id).await,
        ["replay", "--all"] => replay(&lot()?, None).await,
        ["replay", id] => replay(&lot()?, Some(id)).await,
        ["drop", id] => discard(&lot()?, id).await,
        _ => {
            eprintln!("{HELP}");
            std::process::exit(2);
        }
    }
}

async fn list(lot: &Lot) -> anyhow::Result<()> {
    let parked = lot.list(LOOK_MAX).await?;
    for one in &parked {
        println!("{}", line(one));
    }
    match parked.len() {
        0 => println!("nothing is parked"),
        LOOK_MAX => println!("there may be more; these are the oldest {LOOK_MAX}"),
        _ => {}
    }
    Ok(())
}

fn line(parked: &Parked) -> String {
    let unfit = &parked.unfit;
    let or_dash = |word: Option<String>| word.unwrap_or_else(|| "-".to_owned());
    format!(
        "{}  {}  {}  {}  {}",
        parked.id,
        or_dash(parked.at.map(|at| at.to_string())),
        or_dash(unfit.room.as_ref().map(ToString::to_string)),
        or_dash(unfit.seq.map(|seq| seq.to_string())),
        unfit.reason,
    )
}

async fn show(lot: &Lot, id: &str) -> anyhow::Result<()> {
    let parked = lot.list(LOOK_MAX).await?;
    let one = parked.into_iter().find(|parked| parked.id == id);
    let one = one.with_context(|| format!("nothing with id {id} is parked"))?;
    println!("{}", line(&one));
    println!("{}", String::from_utf8_lossy(&one.unfit.line).trim_end());
    Ok(())
}

async fn replay(lot: &Lot, id: Option<&str>) -> anyhow::Result<()> {
    let replayed = lot.replay(id).await?;
    let mut placeless = 0;
    for (parked, outcome) in &replayed {
        match outcome {
            Replay::Sent => println!("sent again: {}", line(parked)),
            Replay::Placeless => {
                placeless += 1;
                println!("names no room and stays: {}", line(parked));
            }
        }
    }
    match (id, replayed.len()) {
        (Some(id), 0) => bail!("nothing with id {id} is parked"),
        (None, 0) => println!("nothing is parked"),
        _ if placeless > 0 => bail!("{placeless} cannot be sent"),
        _ => {}
    }
    Ok(())
}

async fn discard(lot: &Lot, id: &str) -> anyhow::Result<()> {
    let dropped = lot.discard(id).await?;
    let dropped = dropped.with_context(|| format!("nothing with id {id} is parked"))?;
    println!("dropped: {}", line(&dropped));
    Ok(())
}
