//! `darda send`.

use std::collections::HashMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::{anyhow, bail};
use client::Update;
use client::engine::{Act, FailureCode, OutboxState, Saved};
use protocol::{ErrorCode, MessageId};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::args::{Account, Send, Target};
use crate::connect::{Trouble, connect, note};
use crate::text;

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
                            writeln!(io::stdout().lock(), "{}", text::json(&ack))?;
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
    match refused {
        0 => Ok(()),
        some => Err(anyhow!("{some} of {count} messages were refused")),
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
        bail!("nothing to send: give the text after the room, or lines through a pipe");
    }
    std::thread::spawn(move || read_lines(&sender));
    Ok(lines)
}

/// Reads the standard input until its end or until nobody wants it.
pub fn read_lines(sender: &mpsc::Sender<io::Result<String>>) {
    for line in io::stdin().lock().lines() {
        let ended = line.is_err();
        if line.as_ref().is_ok_and(|line| line.trim().is_empty()) {
            continue;
        }
        if sender.blocking_send(line).is_err() || ended {
            return;
        }
    }
}
