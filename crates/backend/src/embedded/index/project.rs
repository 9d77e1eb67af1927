//! From events to documents.

use std::collections::{BTreeMap, HashSet};

use rusqlite::{Connection, OptionalExtension, params};

use super::super::codec::kind;
use super::{file, is_forgotten, room_word, user_word};
use crate::Result;
use crate::search::tokens;

/// Words known to be in the vocabulary; past that all are forgotten and offered again.
const KNOWN_WORDS_MAX: usize = 200_000;
/// The shortest word in the vocabulary. FTS5 itself knows the beginnings of two and three letters.
pub(in super::super) const VOCABULARY_LETTERS_MIN: usize = 4;

pub(super) struct Projection {
    log: Connection,
    index: Connection,
    known: HashSet<String>,
}

/// What the batch makes of a message: its document, or `None` to remove it.
type Documents = BTreeMap<i64, Option<Document>>;

struct Document {
    room: i64,
    user: i64,
    text: String,
}

impl Projection {
    pub fn new(log: Connection, index: Connection) -> Self {
        Self {
            log,
            index,
            known: HashSet::new(),
        }
    }

    /// Indexes the log after `from`, at most `rows` events and not beyond `end`. Answers how far it came.
    pub fn step(&mut self, from: i64, end: i64, rows: i64) -> Result<i64> {
        let (documents, reached) = self.gather(from, end, rows)?;
        let forgotten = self
            .log
            .prepare_cached("SELECT no FROM rooms WHERE forgotten_n > ?1 AND forgotten_n <= ?2")?
            .query_map([from, reached], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        let id = file::id_at(&self.log, reached)?.unwrap_or_default();

        let words = self.apply(from, documents, &forgotten, reached, &id);
        match words {
            Ok(words) => {
                if self.known.len() > KNOWN_WORDS_MAX {
                    self.known.clear();
                }
                self.known.extend(words);
                Ok(reached)
            }
            Err(error) => {
                // SQLite may have rolled back by itself.
                let _ = self.index.execute_batch("ROLLBACK");
                Err(error)
            }
        }
    }

    /// Reads a batch of the log.
    fn gather(&self, from: i64, end: i64, rows: i64) -> Result<(Documents, i64)> {
        let mut statement = self.log.prepare_cached(
            "SELECT n, room, user, kind, target, text FROM events
             WHERE n > ?1 AND n <= ?2 ORDER BY n LIMIT ?3",
        )?;
        let mut found = statement.query([from, end, rows])?;
        let mut documents = Documents::new();
        let (mut count, mut last) = (0, from);
        while let Some(row) = found.next()? {
            count += 1;
            last = row.get(0)?;
            let room = row.get(1)?;
            match row.get(3)? {
                kind::MESSAGE => {
                    let document = Document {
                        room,
                        user: row.get(2)?,
                        text: row.get(5)?,
                    };
                    documents.insert(last, Some(document));
                }
                kind::EDIT => {
                    if let Some((n, user)) = self.message(room, row.get(4)?)? {
                        let text = row.get(5)?;
                        documents.insert(n, Some(Document { room, user, text }));
                    }
                }
                kind::DELETE => {
                    if let Some((n, _)) = self.message(room, row.get(4)?)? {
                        documents.insert(n, None);
                    }
                }
                _ => {}
            }
        }
        // A short batch reached the end, even where the last ordinals hold no event.
        let reached = if count < rows { end } else { last };
        self.withdraw(&mut documents)?;
        Ok((documents, reached))
    }

    /// The ordinal and author of a message.
    fn message(&self, room: i64, seq: i64) -> Result<Option<(i64, i64)>> {
        Ok(self
            .log
            .prepare_cached(
                "SELECT n, user FROM events WHERE room = ?1 AND seq = ?2 AND kind = ?3",
            )?
            .query_row([room, seq, kind::MESSAGE], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?)
    }

    /// Drops the documents of rooms forgotten meanwhile, and of messages whose delete came before their last edit.
    fn withdraw(&self, documents: &mut Documents) -> Result<()> {
        let mut deleted = self.log.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM events e JOIN events d
                 ON d.room = e.room AND d.target = e.seq AND d.kind = ?2 WHERE e.n = ?1)",
        )?;
        let rooms: HashSet<i64> = documents.values().flatten().map(|d| d.room).collect();
        let mut forgotten = HashSet::new();
        for room in rooms {
            if is_forgotten(&self.log, room)? {
                forgotten.insert(room);
            }
        }
        for (n, document) in documents {
            if let Some(Document { room, .. }) = document
                && (forgotten.contains(room)
                    || deleted.query_row([*n, kind::DELETE], |row| row.get(0))?)
            {
                *document = None;
            }
        }
        Ok(())
    }

    /// Writes a batch. Answers the words that are new to the vocabulary.
    fn apply(
        &self,
        from: i64,
        documents: Documents,
        forgotten: &[i64],
        reached: i64,
        id: &[u8],
    ) -> Result<Vec<String>> {
        let index = &self.index;
        index.execute_batch("BEGIN IMMEDIATE")?;
        let mut new_words = Vec::new();
        {
            let mut delete = index.prepare_cached("DELETE FROM texts WHERE rowid = ?1")?;
            let mut insert =
                index.prepare_cached("INSERT INTO texts (rowid, words) VALUES (?1, ?2)")?;
            let mut learn = index
                .prepare_cached("INSERT INTO vocabulary VALUES (?1) ON CONFLICT DO NOTHING")?;
            // Ascending, as FTS5 likes it.
            for (n, document) in documents {
                if n <= from {
                    delete.execute([n])?;
                }
                let Some(Document { room, user, text }) = document else {
                    continue;
                };
                let words: HashSet<String> = tokens(&text).into_iter().collect();
                let mut body = format!("{} {}", room_word(room), user_word(user));
                for word in words {
                    body.push(' ');
                    body.push_str(&word);
                    if word.chars().nth(VOCABULARY_LETTERS_MIN - 1).is_some()
                        && !self.known.contains(&word)
                    {
                        learn.execute([&word])?;
                        new_words.push(word);
                    }
                }
                insert.execute(params![n, body])?;
            }
            for room in forgotten {
                forget(index, *room)?;
            }
            index
                .prepare_cached("UPDATE position SET n = ?1, id = ?2")?
                .execute(params![reached, id])?;
        }
        index.execute_batch("COMMIT")?;
        Ok(new_words)
    }
}

/// Removes all documents of a room.
fn forget(index: &Connection, room: i64) -> Result<()> {
    let rows = index
        .prepare_cached("SELECT rowid FROM texts WHERE texts MATCH ?1")?
        .query_map([format!("\"{}\"", room_word(room))], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    let mut delete = index.prepare_cached("DELETE FROM texts WHERE rowid = ?1")?;
    for row in rows {
        delete.execute([row])?;
    }
    Ok(())
}
