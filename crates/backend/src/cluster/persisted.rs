//! The mark of each room in Redis: everything up to it is in MongoDB without a hole. What lies below may be trimmed.

use ::redis as driver;
use driver::Value;
use futures_util::future::join_all;
use protocol::{RoomId, Seq};

use super::Redis;
use crate::Result;

/// Keys that one step of a walk looks at.
const WALK_STEP: usize = 1000;

/// The marks of rooms; none where Redis does not have the room.
///
/// # Errors
/// `Unavailable`.
pub async fn read(redis: &Redis, rooms: &[RoomId]) -> Result<Vec<Option<Seq>>> {
    if rooms.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = driver::pipe();
    for room in rooms {
        pipeline.hget(redis.room_key(room, "head"), "persisted");
    }
    let marks: Vec<Option<u64>> = redis.pipeline(&pipeline).await?;
    Ok(marks.into_iter().map(|mark| mark.and_then(seq)).collect())
}

/// Raises marks; they never fall.
///
/// # Errors
/// The first failure; the others are raised nevertheless.
pub async fn raise(redis: &Redis, marks: &[(RoomId, Seq)]) -> Result<()> {
    let raising = marks.iter().map(|(room, mark)| async move {
        let keys =
            ["head", "log", "pending", "ids", "idq", "gone"].map(|k| redis.room_key(room, k));
        let mark = mark.get().to_string();
        redis
            .call::<Value>("log_persisted", &keys, &[mark.as_bytes()])
            .await
    });
    for raised in join_all(raising).await {
        raised?;
    }
    Ok(())
}

/// A step of a walk over all rooms that Redis has: from `cursor`, zero at first, to the cursor that is answered, zero at
/// the end. Answers rooms whose marks are behind what is safe, with their marks.
///
/// # Errors
/// `Unavailable`.
pub async fn walk(redis: &Redis, cursor: u64) -> Result<(u64, Vec<(RoomId, Seq)>)> {
    let (before, after) = ("room:{", "}:head");
    let mut scan = driver::cmd("SCAN");
    scan.arg(cursor)
        .arg("MATCH")
        .arg(redis.key(format!("{before}*{after}")))
        .arg("COUNT")
        .arg(WALK_STEP);
    let (next, keys): (u64, Vec<String>) = redis.query(&scan).await?;
    if keys.is_empty() {
        return Ok((next, Vec::new()));
    }
    let mut pipeline = driver::pipe();
    for key in &keys {
        pipeline.hmget(key, &["safe", "persisted"]);
    }
    let heads: Vec<(Option<u64>, Option<u64>)> = redis.pipeline(&pipeline).await?;
    let prefix = redis.key(before);
    let behind = keys.iter().zip(heads).filter_map(|(key, (safe, mark))| {
        let mark = mark.unwrap_or(0);
        if safe? <= mark {
            return None;
        }
        let room = key.strip_prefix(&prefix)?.strip_suffix(after)?;
        Some((RoomId::parse(room).ok()?, seq(mark)?))
    });
    Ok((next, behind.collect()))
}

fn seq(number: u64) -> Option<Seq> {
    Seq::new(number).ok()
}
