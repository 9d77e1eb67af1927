//! `darda send`.

use std::collections::HashMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use client::Update;
use client::engine::{Act, FailureCode, OutboxState, Saved};
use protocol::{ErrorCode, MessageId};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::args::{Account, Send, Target};
use crate::connect::{Trouble, connect, note};
use crate::{args, text};

/// Messages that may wait for their ack; beyond that the input is not read.
const IN_FLIGHT_MAX: usize = 64;

pub async fn run(account: Account, args: Send) -> anyhow::Result<()> {
    let mut lines = input(&args.text)?;
    let (handle, mut updates) = connect(&account, Saved::default());
    let patience = Duration::from_secs(args.timeout);
    let mut trouble = Trouble::default();
    let mut waiting: HashMap<MessageId, u64> = HashMap::new();
    let mut count = 0;
    let mut refused = 0_u64;
    let mut more = true;
    let mut output = Output::default();
    let mut give_up = Instant::now() + patience;
    while more || !waiting.is_empty() {
        tokio::select! {
            line = lines.recv(), if more && waiting.len() < IN_FLIGHT_MAX => {
                let Some(line) = line else {
                    more = false;
                    continue;
                };
                let line = line?;
                count += 1;
                if waiting.is_empty() {
                    give_up = Instant::now() + patience;
                }
                let message = message(&args.room, line);
                waiting.insert(message.id, count);
                handle.submit(Act::Send(message)).await?;
            }
            update = updates.next() => {
                let Some(update) = update else {
                    bail!("the connection was ended");
                };
                trouble.watch(&account, &update)?;
                let Update::Outbox { id, state } = update else {
                    continue;
                };
                match state {
                    OutboxState::Sent { room, seq, at, .. } => {
                        waiting.remove(&id);
                        give_up = Instant::now() + patience;
                        if args.json {
                            let ack = json!({"id": id, "room": room, "seq": seq, "at": at});
                            output.line(&text::json(&ack));
                        }
                    }
                    OutboxState::Failed { code, message } => {
                        let number = waiting.remove(&id).unwrap_or_default();
                        refused += 1;
                        if count == 1 && !more {
                            bail!("refused: {message} ({code})");
                        }
                        if hopeless(code) {
                            bail!("message {number} was refused: {message} ({code}); the rest was not sent");
                        }
                        note(&format!("message {number} was refused: {message} ({code})"));
                    }
                    OutboxState::Queued | OutboxState::Sending | OutboxState::Waiting { .. } => {}
                }
            }
            () = sleep_until(give_up), if !waiting.is_empty() => {
                bail!(
                    "no answer from {} within {} s; {} of {count} messages may not have been sent",
                    account.server,
                    args.timeout,
                    waiting.len(),
                );
            }
        }
    }
    // Everything is acknowledged; that the good-bye may fail changes nothing.
    let _ = handle.close().await;
    if refused > 0 {
        bail!("{refused} of {count} messages were refused");
    }
    output.end()
}

/// The standard output. That nobody reads it any more, or that it cannot be written, does not keep messages from being
/// sent.
#[derive(Default)]
struct Output {
    failed: Option<io::Error>,
}

impl Output {
    fn line(&mut self, line: &str) {
        if self.failed.is_none() {
            self.failed = writeln!(io::stdout().lock(), "{line}").err();
        }
    }

    /// # Errors
    /// When something could not be written, unless its reader had enough.
    fn end(self) -> anyhow::Result<()> {
        match self.failed {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(error).context("all messages were sent, but not all could be told")
            }
            _ => Ok(()),
        }
    }
}

/// Every other message would be refused for the same reason.
fn hopeless(code: FailureCode) -> bool {
    use ErrorCode::{Forbidden, NotFound, Unauthenticated};
    matches!(
        code,
        FailureCode::Server(NotFound | Forbidden | Unauthenticated)
    )
}

fn message(target: &Target, text: String) -> protocol::Send {
    let (room, to) = match target {
        Target::Room(room) => (Some(room.clone()), None),
        Target::User(user) => (None, Some(user.clone())),
    };
    protocol::Send {
        id: MessageId::generate(),
        room,
        to,
        text,
        reply_to: None,
        meta: None,
    }
}

/// The messages: the words of the command line, or the lines of the standard input that are not empty.
fn input(words: &[String]) -> anyhow::Result<mpsc::Receiver<io::Result<String>>> {
    let (sender, lines) = mpsc::channel(16);
    if !words.is_empty() {
        sender.try_send(Ok(words.join(" ")))?;
        return Ok(lines);
    }
    if io::stdin().is_terminal() {
        args::mistake("nothing to send: give the text after the room, or lines through a pipe");
    }
    std::thread::spawn(move || read_lines(&sender));
    Ok(lines)
}

/// Reads the standard input until its end or until nobody wants it. What is no UTF-8 becomes a replacement character: a
/// build log with one such byte is still worth sending.
pub fn read_lines(sender: &mpsc::Sender<io::Result<String>>) {
    let mut input = io::stdin().lock();
    loop {
        let mut bytes = Vec::new();
        let line = match input.read_until(b'\n', &mut bytes) {
            Ok(0) => return,
            Ok(_) => Ok(line_of(&bytes)),
            Err(error) => Err(error),
        };
        let ended = line.is_err();
        if line.as_ref().is_ok_and(|line| line.trim().is_empty()) {
            continue;
        }
        if sender.blocking_send(line).is_err() || ended {
            return;
        }
    }
}

/// The text of a line, without its end.
fn line_of(bytes: &[u8]) -> String {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn a_line_is_read_whatever_its_bytes() {
        assert_eq!(line_of(b"gr\xc3\xbc\xc3\x9fe\r\n"), "grüße");
        assert_eq!(line_of(b"a\xffb\n"), "a\u{fffd}b");
        assert_eq!(line_of(b"no end"), "no end");
    }
}
