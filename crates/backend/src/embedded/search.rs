//! Searches: the index finds ordinals, the log has the messages.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protocol::{MessageId, RoomId, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::watch;

use super::Shared;
use super::codec::kind;
use super::index::{VOCABULARY_LETTERS_MIN, room_word, user_word};
use super::log::first_at;
use super::readers::{Reader, Readers};
use super::rows;
use crate::search::{Cursor, Hit, Query, is_unspaced, tokens};
use crate::{Result, Search};

/// How long a search waits for the index to know what was appended before it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Different words of a query; more are not looked at. As many as 256 characters give, the longest text that people
/// can ask for: of a script without spaces each gives itself and the pair with its neighbour.
const QUERY_WORDS_MAX: usize = 512;
/// Rooms named to the index. With more of them hits are looked up and those of other rooms passed over.
const ROOM_WORDS_MAX: usize = 256;
/// Words that a beginning may stand for, before the index is asked for the beginning itself.
const BEGINNINGS_MAX: usize = 64;
/// Ordinals taken from the index at once.
const STEP_MAX: usize = 1000;

pub(super) struct Fts {
    pub readers: Readers,
    pub shared: Arc<Shared>,
    /// The ordinal up to which everything is in the index.
    pub indexed: watch::Receiver<i64>,
    /// Ends the threads when the last port is dropped.
    pub _guard: Arc<super::Guard>,
}

#[async_trait]
impl Search for Fts {
    async fn search(&self, query: &Query) -> Result<Vec<Hit>> {
        self.shared.check_open()?;
        self.catch_up().await;
        let query = query.clone();
        self.readers.read(move |reader| hits(reader, &query)).await
    }
}

impl Fts {
    async fn catch_up(&self) {
        let now = self.shared.progress.committed();
        let mut indexed = self.indexed.clone();
        if *indexed.borrow() < now {
            self.shared.progress.want(now);
            // Whatever the index has by then is the answer.
            let _ = tokio::time::timeout(PATIENCE, indexed.wait_for(|n| *n >= now)).await;
        }
    }
}

fn hits(reader: &mut Reader, query: &Query) -> Result<Vec<Hit>> {
    let rooms = room_numbers(&reader.connection, &query.rooms)?;
    let words = tokens(&query.text);
    let Some(last) = words.last() else {
        return Ok(Vec::new());
    };
    if rooms.is_empty() || query.limit == 0 {
        return Ok(Vec::new());
    }
    let mut expression = String::new();
    let mut seen = BTreeSet::from([last]);
    let others = words.iter().filter(|word| seen.insert(word));
    for word in others.take(QUERY_WORDS_MAX - 1) {
        let _ = write!(expression, "\"{word}\" AND ");
    }
    expression.push_str(&reader.ask_index(|index| beginning(index, last))?);
    if let Some(from) = &query.from {
        let user: Option<i64> = reader
            .connection
            .prepare_cached("SELECT no FROM users WHERE id = ?1")?
            .query_row([from.as_str()], |row| row.get(0))
            .optional()?;
        match user {
            Some(no) => {
                let _ = write!(expression, " AND \"{}\"", user_word(no));
            }
            None => return Ok(Vec::new()),
        }
    }
    if rooms.len() <= ROOM_WORDS_MAX {
        let words: Vec<_> = rooms
            .keys()
            .map(|no| format!("\"{}\"", room_word(*no)))
            .collect();
        let _ = write!(expression, " AND ({})", words.join(" OR "));
    }
    let (low, mut high) = bounds(&reader.connection, &rooms, query)?;
    let mut hits = Vec::new();
    while hits.len() < query.limit && low < high {
        let step = (query.limit - hits.len()).min(STEP_MAX);
        let step = if rooms.len() <= ROOM_WORDS_MAX {
            step
        } else {
            STEP_MAX
        };
        let found = reader.ask_index(|index| ordinals(index, &expression, low, high, step))?;
        for n in &found {
            if let Some(hit) = hit(reader, &rooms, *n, query)? {
                hits.push(hit);
                if hits.len() == query.limit {
                    break;
                }
            }
        }
        match found.last() {
            Some(n) if found.len() == step => high = *n,
            _ => break,
        }
    }
    Ok(hits)
}

/// The numbers of the rooms that can be read.
fn room_numbers(log: &Connection, rooms: &[RoomId]) -> Result<HashMap<i64, RoomId>> {
    let mut find =
        log.prepare_cached("SELECT no FROM rooms WHERE id = ?1 AND forgotten_n IS NULL")?;
    let mut numbers = HashMap::with_capacity(rooms.len());
    for room in rooms {
        let no = find
            .query_row([room.as_str()], |row| row.get(0))
            .optional()?;
        if let Some(no) = no {
            numbers.insert(no, room.clone());
        }
    }
    Ok(numbers)
}

/// An expression for words that begin so.
fn beginning(index: &Connection, word: &str) -> Result<String> {
    let letters = word.chars().count();
    if letters < 2 || word.chars().any(is_unspaced) {
        return Ok(format!("\"{word}\""));
    }
    if letters >= VOCABULARY_LETTERS_MIN {
        // FTS5 would gather all places of all these words before it gives the first; word by word it need not.
        let words = index
            .prepare_cached(
                "SELECT word FROM vocabulary WHERE word >= ?1 AND word < ?2 ORDER BY word LIMIT ?3",
            )?
            .query_map(
                params![
                    word,
                    format!("{word}\u{10FFFF}"),
                    rows::limit(BEGINNINGS_MAX + 1)
                ],
                |row| Ok(format!("\"{}\"", row.get::<_, String>(0)?)),
            )?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        match words.len() {
            0 => return Ok(format!("\"{word}\"")),
            1..=BEGINNINGS_MAX => return Ok(format!("({})", words.join(" OR "))),
            _ => {}
        }
    }
    Ok(format!("\"{word}\"*"))
}

/// The ordinals between which hits may be: from the first, up to but without the second.
fn bounds(log: &Connection, rooms: &HashMap<i64, RoomId>, query: &Query) -> Result<(i64, i64)> {
    let low = match query.since {
        Some(since) => begin(log, rooms, since)?,
        None => 0,
    };
    let mut high = match query.until {
        Some(until) => end(log, rooms, until)?,
        None => i64::MAX,
    };
    if let Some(cursor) = &query.cursor {
        high = high.min(place(log, rooms, cursor)?);
    }
    Ok((low, high))
}

/// The ordinal of a cursor. When its message is gone, that after which there is nothing before its time.
fn place(log: &Connection, rooms: &HashMap<i64, RoomId>, cursor: &Cursor) -> Result<i64> {
    let n = log
        .prepare_cached(
            "SELECT n FROM events
             WHERE room = (SELECT no FROM rooms WHERE id = ?1 AND forgotten_n IS NULL) AND seq = ?2",
        )?
        .query_row(
            params![cursor.room.as_str(), cursor.seq.get().cast_signed()],
            |row| row.get(0),
        )
        .optional()?;
    match n {
        Some(n) => Ok(n),
        None => end(log, rooms, cursor.at),
    }
}

// Times never fall in a room, but they may with the ordinal: a clock that was ahead leaves its mark in some rooms
// only. So time is looked up room by room.

/// The first ordinal that an event of these rooms has at or after a time.
fn begin(log: &Connection, rooms: &HashMap<i64, RoomId>, at: Timestamp) -> Result<i64> {
    let mut first = i64::MAX;
    for no in rooms.keys() {
        let seq = first_at(log, *no, at)?;
        let n: Option<i64> = log
            .prepare_cached(
                "SELECT n FROM events WHERE room = ?1 AND seq >= ?2 ORDER BY seq LIMIT 1",
            )?
            .query_row([*no, seq.get().cast_signed()], |row| row.get(0))
            .optional()?;
        first = first.min(n.unwrap_or(i64::MAX));
    }
    Ok(first)
}

/// The first ordinal at which no event of these rooms is left that was before a time.
fn end(log: &Connection, rooms: &HashMap<i64, RoomId>, at: Timestamp) -> Result<i64> {
    let mut end = 0;
    for no in rooms.keys() {
        let seq = first_at(log, *no, at)?;
        let n: Option<i64> = log
            .prepare_cached(
                "SELECT n FROM events WHERE room = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT 1",
            )?
            .query_row([*no, seq.get().cast_signed()], |row| row.get(0))
            .optional()?;
        end = end.max(n.map_or(0, |n| n + 1));
    }
    Ok(end)
}

fn ordinals(
    index: &Connection,
    expression: &str,
    low: i64,
    high: i64,
    limit: usize,
) -> Result<Vec<i64>> {
    Ok(index
        .prepare_cached(
            "SELECT rowid FROM texts WHERE texts MATCH ?1 AND rowid >= ?2 AND rowid < ?3
             ORDER BY rowid DESC LIMIT ?4",
        )?
        .query_map(params![expression, low, high, rows::limit(limit)], |row| {
            row.get(0)
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?)
}

/// The message at an ordinal, if it is in one of the rooms and still there.
fn hit(
    reader: &mut Reader,
    rooms: &HashMap<i64, RoomId>,
    n: i64,
    query: &Query,
) -> Result<Option<Hit>> {
    let log = &reader.connection;
    let found = log
        .prepare_cached(
            "SELECT room, seq, at, user, id, text FROM events WHERE n = ?1 AND kind = ?2",
        )?
        .query_row([n, kind::MESSAGE], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get::<_, String>(5)?,
            ))
        })
        .optional()?;
    let Some((room, seq, at, user, id, text)) = found else {
        return Ok(None);
    };
    let Some(id_of_room) = rooms.get(&room) else {
        return Ok(None);
    };
    let at = Timestamp::from_millis(at);
    if query.since.is_some_and(|since| at < since) || query.until.is_some_and(|until| at >= until) {
        return Ok(None);
    }
    // Without the name of the index SQLite walks down the primary key, which is the whole room.
    let mut newest = log.prepare_cached(
        "SELECT text FROM events INDEXED BY events_target WHERE room = ?1 AND target = ?2 AND kind = ?3
         ORDER BY seq DESC LIMIT 1",
    )?;
    let mut newest = |kind| {
        newest
            .query_row([room, seq, kind], |row| row.get::<_, Option<String>>(0))
            .optional()
    };
    if newest(kind::DELETE)?.is_some() {
        return Ok(None);
    }
    let edited = newest(kind::EDIT)?.flatten();
    Ok(Some(Hit {
        room: id_of_room.clone(),
        seq: rows::seq(seq)?,
        id: MessageId::from_bytes(id),
        from: reader.names.user(log, user)?,
        at,
        text: edited.unwrap_or(text),
    }))
}
