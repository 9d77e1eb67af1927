//! How long searches and history pages take in one large room.
//!
//! `cargo run --release -p backend --example search_rate [messages] [folder]`

use std::time::{Duration, Instant};

use backend::log::Append;
use backend::search::Query;
use backend::{Backends, Config, open};
use protocol::{EventBody, MessageId, RoomId, Seq, UserId};

const CALLERS: u64 = 512;
const QUERIES: usize = 300;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let count: u64 = words.next().map_or(Ok(1_000_000), |word| word.parse())?;
    let folder = words.next().map_or_else(std::env::temp_dir, Into::into);
    let folder = folder.join(format!("search-rate-{}", std::process::id()));
    let family = open(Config::Embedded {
        data_dir: folder.clone(),
    })
    .await?;
    let large = RoomId::parse("large")?;
    fill(&family, &large, count).await?;
    let small: Vec<RoomId> = (0..50)
        .map(|number| RoomId::parse(&format!("small-{number}")))
        .collect::<Result<_, _>>()?;

    let start = Instant::now();
    while found(&family, "last", std::slice::from_ref(&large)).await? == 0 {}
    println!("the index has all {:.1?} later", start.elapsed());

    let one = [large.clone()];
    let many = [small, vec![large.clone()]].concat();
    for (what, words, rooms) in [
        ("a rare word", "word77777", &one[..]),
        ("a common word", "common", &one),
        ("two common words", "common frequent", &one),
        ("common and rare", "common word7777", &one),
        ("two that never meet", "even odd", &one),
        ("a beginning of 2", "co", &one),
        ("a beginning of 4", "comm", &one),
        ("a beginning of many", "word", &one),
        ("nothing", "absent", &one),
        ("common, 51 rooms", "common", &many),
    ] {
        let mut times = Vec::new();
        let mut hits = 0;
        for _ in 0..QUERIES {
            let start = Instant::now();
            hits = found(&family, words, rooms).await?;
            times.push(start.elapsed());
        }
        report(&format!("search: {what} ({hits})"), times);
    }
    let mut times = Vec::new();
    for number in 0..QUERIES as u64 {
        let start = Instant::now();
        let after = Seq::new(number * 7919 % count)?;
        family.log.read(&large, after, 100).await?;
        times.push(start.elapsed());
    }
    report("a page of 100", times);
    family.health.close().await;
    for file in ["darda.db", "search.db"] {
        let bytes = std::fs::metadata(folder.join(file))?.len();
        println!("{file}: {} bytes a message", bytes / count);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

async fn fill(
    family: &Backends,
    room: &RoomId,
    count: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let mut tasks = Vec::new();
    for caller in 0..CALLERS {
        let log = family.log.clone();
        let room = room.clone();
        let from = UserId::parse(&format!("user-{caller}"))?;
        tasks.push(tokio::spawn(async move {
            for number in (caller..count).step_by(CALLERS as usize) {
                let parity = if number % 2 == 0 { "even" } else { "odd" };
                let last = if number + CALLERS >= count {
                    "last"
                } else {
                    ""
                };
                let append = Append {
                    room: room.clone(),
                    from: from.clone(),
                    id: MessageId::generate(),
                    body: EventBody::Message {
                        text: format!(
                            "a common and frequent text, {parity}, word{} w{} {last}",
                            number % 100_000,
                            number % 977
                        ),
                        reply_to: None,
                        meta: None,
                    },
                };
                log.append(append).await?;
            }
            Ok::<_, backend::Error>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{count} messages, {rate:.0}/s");
    Ok(())
}

async fn found(family: &Backends, words: &str, rooms: &[RoomId]) -> Result<usize, backend::Error> {
    let query = Query {
        text: words.to_owned(),
        rooms: rooms.to_vec(),
        from: None,
        since: None,
        until: None,
        cursor: None,
        limit: 20,
    };
    Ok(family.search.search(&query).await?.len())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!(
        "{what:<36} p50 {:>9.2?}   p99 {:>9.2?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
}
