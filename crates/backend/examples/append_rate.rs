//! How many appends a second become durable, beside how many bare `fdatasync` calls the disk answers.
//!
//! `cargo run --release -p backend --example append_rate [seconds per step] [folder]`

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::log::Append;
use backend::{Backends, Config, open};
use protocol::{EventBody, MessageId, RoomId, Seq, UserId};

const ROOMS: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let seconds = words.next().map_or(Ok(2), |word| word.parse())?;
    let step = Duration::from_secs(seconds);
    let folder = words.next().map_or_else(std::env::temp_dir, Into::into);
    let folder = folder.join(format!("append-rate-{}", std::process::id()));
    println!("100-byte texts, {ROOMS} rooms, {}", folder.display());

    let family = open(Config::Embedded {
        data_dir: folder.clone(),
    })
    .await?;
    report("bare fdatasync, 4 KiB", fdatasync(&folder, step)?, step);
    for callers in [1, 16, 256] {
        let times = appends(&family, callers, step).await?;
        report(&format!("append, {callers} callers"), times, step);
    }
    let room = RoomId::parse("room-0")?;
    report("read 100 events", reads(&family, &room, step).await?, step);
    family.health.close().await;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn fdatasync(folder: &Path, step: Duration) -> std::io::Result<Vec<Duration>> {
    let mut file = File::create(folder.join("fdatasync"))?;
    file.write_all(&[0; 4096])?;
    let end = Instant::now() + step;
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        file.rewind()?;
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(times)
}

async fn appends(
    family: &Backends,
    callers: usize,
    step: Duration,
) -> Result<Vec<Duration>, Box<dyn std::error::Error>> {
    let end = Instant::now() + step;
    let mut tasks = Vec::new();
    for caller in 0..callers {
        let log = Arc::clone(&family.log);
        let room = RoomId::parse(&format!("room-{}", caller % ROOMS))?;
        let from = UserId::parse(&format!("user-{caller}"))?;
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let start = Instant::now();
                let append = Append {
                    room: room.clone(),
                    from: from.clone(),
                    id: MessageId::generate(),
                    body: EventBody::Message {
                        text: "seven-words of a message, ".repeat(4),
                        reply_to: None,
                        meta: None,
                    },
                };
                log.append(append).await?;
                times.push(start.elapsed());
            }
            Ok::<_, backend::Error>(times)
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    Ok(times)
}

async fn reads(
    family: &Backends,
    room: &RoomId,
    step: Duration,
) -> Result<Vec<Duration>, backend::Error> {
    let head = family.log.head(room).await?.get();
    let end = Instant::now() + step;
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        let after = (times.len() as u64 * 7919) % head.saturating_sub(100).max(1);
        family
            .log
            .read(room, Seq::new(after).unwrap_or_default(), 100)
            .await?;
        times.push(start.elapsed());
    }
    Ok(times)
}

fn report(what: &str, mut times: Vec<Duration>, step: Duration) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{what:<24} {:>8.0}/s   p50 {:>8.2?}   p99 {:>8.2?}   max {:>8.2?}",
        times.len() as f64 / step.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
