//! Messages that were typed and are not yet acknowledged, on disk: they survive a killed console.
//!
//! One file and one lock per server, user and room. The file is a journal: a line with the message when it is typed, a
//! line with its id when its fate is known. A line that was cut off by a crash is ignored.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use client::engine::Act;
use protocol::{MessageId, RoomId};
use serde::{Deserialize, Serialize};

use crate::args::Account;

/// Journal lines after which it is written anew.
const LINES_MAX: usize = 4096;

/// The messages of one room that wait for their ack. Nobody else has it open.
#[derive(Debug)]
pub struct OutboxFile {
    path: PathBuf,
    journal: File,
    lines: usize,
    waiting: Vec<Act>,
    _lock: File,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Done { done: MessageId },
    Typed(Act),
}

impl OutboxFile {
    /// Opens the outbox of a room, below `state` (see [`state_dir`]).
    ///
    /// # Errors
    /// When another console has it, or the disk does not work.
    pub fn open(state: &Path, account: &Account, room: &RoomId) -> anyhow::Result<Self> {
        let folder = state
            .join("darda")
            .join(file_name(account.server.authority()))
            .join(file_name(account.user.as_str()));
        create_private(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("outbox-{room}.jsonl"));
        let lock = lock(&folder.join(format!("outbox-{room}.lock")), account, room)?;
        let journal = private().read(true).append(true).open(&path);
        let journal = journal.with_context(|| format!("cannot open {}", path.display()))?;
        let mut outbox = Self {
            path,
            journal,
            lines: 0,
            waiting: Vec::new(),
            _lock: lock,
        };
        outbox
            .load()
            .with_context(|| format!("cannot read {}", outbox.path.display()))?;
        Ok(outbox)
    }

    /// What was typed and not yet acknowledged, in order.
    #[must_use]
    pub fn waiting(&self) -> &[Act] {
        &self.waiting
    }

    /// Keeps a message. When this returns it survives the process.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, act: Act) -> anyhow::Result<()> {
        self.append(&Line::Typed(act.clone()))?;
        self.journal.sync_data()?;
        self.waiting.push(act);
        Ok(())
    }

    /// Forgets a message whose fate is known, and returns it.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn remove(&mut self, id: MessageId) -> anyhow::Result<Option<Act>> {
        let Some(place) = self.waiting.iter().position(|act| act.id() == id) else {
            return Ok(None);
        };
        let act = self.waiting.remove(place);
        self.append(&Line::Done { done: id })?;
        if self.waiting.is_empty() {
            self.journal.set_len(0)?;
            self.lines = 0;
        } else if self.lines > LINES_MAX {
            self.rewrite()?;
        }
        Ok(Some(act))
    }

    fn append(&mut self, line: &Line) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        let written = self.journal.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.lines += 1;
        Ok(())
    }

    fn load(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.journal.rewind()?;
        self.journal.read_to_end(&mut bytes)?;
        let mut typed = Vec::new();
        let mut done = HashSet::new();
        for line in bytes.split(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(Line::Typed(act)) => typed.push(act),
                Ok(Line::Done { done: id }) => drop(done.insert(id)),
                Err(_) => {}
            }
        }
        typed.retain(|act: &Act| !done.contains(&act.id()));
        self.waiting = typed;
        self.rewrite()
    }

    /// Writes the journal anew, with only what waits.
    fn rewrite(&mut self) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = private().write(true).truncate(true).open(&fresh)?;
        for act in &self.waiting {
            serde_json::to_writer(&mut file, act)?;
            file.write_all(b"\n")?;
        }
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        self.journal = private().read(true).append(true).open(&self.path)?;
        self.lines = self.waiting.len();
        Ok(())
    }
}

fn lock(path: &Path, account: &Account, room: &RoomId) -> anyhow::Result<File> {
    let file = private().read(true).write(true).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "{} is already chatting in {room} on this machine; use that console, or another --user",
            account.user
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Where programs keep their state: `$XDG_STATE_HOME`, or `~/.local/state`.
///
/// # Errors
/// When neither is known.
pub fn state_dir() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .context("nowhere to keep unsent messages: neither XDG_STATE_HOME nor HOME is set")
}

/// A text as a file name, without two texts becoming the same.
fn file_name(text: &str) -> String {
    let mut name = String::new();
    for (place, byte) in text.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if plain || (byte == b'.' && place > 0) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    name
}

#[cfg(unix)]
fn create_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

#[cfg(not(unix))]
fn create_private(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

/// Options for files that only their owner may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            server: "http://127.0.0.1:8080".parse().unwrap(),
            user: "alice".parse().unwrap(),
        }
    }

    fn act(text: &str) -> Act {
        Act::Send(protocol::Send {
            id: MessageId::generate(),
            room: Some("general".parse().unwrap()),
            to: None,
            text: text.to_owned(),
            reply_to: None,
            meta: None,
        })
    }

    fn open(state: &Path) -> anyhow::Result<OutboxFile> {
        OutboxFile::open(state, &account(), &"general".parse().unwrap())
    }

    #[test]
    fn what_was_not_acknowledged_is_there_the_next_time() {
        let state = tempfile::tempdir().unwrap();
        let (one, two, three) = (act("one"), act("two"), act("three"));
        let mut outbox = open(state.path()).unwrap();
        for act in [&one, &two, &three] {
            outbox.add(act.clone()).unwrap();
        }
        outbox.remove(two.id()).unwrap();
        drop(outbox);
        let mut outbox = open(state.path()).unwrap();
        assert_eq!(outbox.waiting(), [one.clone(), three.clone()]);
        outbox.remove(one.id()).unwrap();
        outbox.remove(three.id()).unwrap();
        assert_eq!(fs::metadata(&outbox.path).unwrap().len(), 0);
    }

    #[test]
    fn a_line_that_was_cut_off_is_ignored() {
        let state = tempfile::tempdir().unwrap();
        let mut outbox = open(state.path()).unwrap();
        let kept = act("kept");
        outbox.add(kept.clone()).unwrap();
        outbox
            .journal
            .write_all(b"{\"type\":\"send\",\"id\":\"0198")
            .unwrap();
        drop(outbox);
        let mut outbox = open(state.path()).unwrap();
        assert_eq!(outbox.waiting(), [kept]);
        outbox.add(act("next")).unwrap();
        drop(outbox);
        assert_eq!(open(state.path()).unwrap().waiting().len(), 2);
    }

    #[test]
    fn only_one_console_has_it() {
        let state = tempfile::tempdir().unwrap();
        let first = open(state.path()).unwrap();
        let error = open(state.path()).unwrap_err();
        assert!(error.to_string().contains("already chatting"), "{error}");
        drop(first);
        open(state.path()).unwrap();
    }

    #[test]
    fn names_stay_apart_and_inside_their_folder() {
        assert_eq!(file_name("127.0.0.1:8080"), "127.0.0.1%3a8080");
        assert_eq!(file_name(".."), "%2e.");
        assert_ne!(file_name("a/b"), file_name("a%2fb"));
    }
}
