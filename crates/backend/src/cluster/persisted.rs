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
        let keys = ["head", "log", "pending", "ids", "idq", "gone", "left"]
            .map(|k| redis.room_key(room, k));
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

/// What Redis says of a room's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub room: RoomId,
    /// The last seq that was given out.
    pub seq: Seq,
    /// Up to this one all are confirmed.
    pub safe: Seq,
    /// Up to this one all are stored.
    pub persisted: Seq,
    /// The room has begun anew behind a fence that is not stored, and Redis does not have all of before.
    pub is_cut: bool,
}

/// A step of a walk over all rooms that Redis has: from `cursor`, zero at first, to the cursor that is answered, zero at
/// the end. Rooms that were removed for good have no log any more and are left out.
///
/// # Errors
/// `Unavailable`.
pub async fn walk(redis: &Redis, cursor: u64) -> Result<(u64, Vec<Head>)> {
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
        pipeline.hmget(key, &["seq", "safe", "persisted", "fence", "kept"]);
    }
    let fields: Vec<[Option<u64>; 5]> = redis.pipeline(&pipeline).await?;
    let prefix = redis.key(before);
    let heads = keys.iter().zip(fields).filter_map(|(key, fields)| {
        let room = key.strip_prefix(&prefix)?.strip_suffix(after)?;
        let [last, safe, persisted, fence, kept] = fields;
        Some(Head {
            room: RoomId::parse(room).ok()?,
            seq: seq(last?)?,
            safe: seq(safe?)?,
            persisted: seq(persisted.unwrap_or(0))?,
            is_cut: fence > persisted && kept.is_none(),
        })
    });
    Ok((next, heads.collect()))
}

fn seq(number: u64) -> Option<Seq> {
    Seq::new(number).ok()
}
