//! `darda history`.

use std::io::{self, Write};

use serde_json::Value;

use crate::args::{Account, History};
use crate::rest::{Message, Rest, shown};
use crate::text;

pub fn run(account: &Account, args: &History) -> anyhow::Result<()> {
    let rest = Rest::new(account.clone());
    let room = rest.room(&args.room)?;
    let mut out = io::stdout().lock();
    for item in rest.history(&room, args.limit, args.before)? {
        if args.json {
            writeln!(out, "{}", text::json(&item))?;
        } else {
            writeln!(out, "{}", line(&item)?)?;
        }
    }
    Ok(())
}

/// A message of the past as a line, with its number for `--before`.
///
/// # Errors
/// When the item is no message.
pub fn line(item: &Value) -> anyhow::Result<String> {
    let message: Message = shown(item)?;
    let text = message.text.as_deref().unwrap_or("(deleted)");
    let day = text::plain(message.at.get(..10).unwrap_or_default());
    let said = text::message(&message.at, &message.from, text);
    let mut line = format!("{} {day} {said}", message.seq);
    if message.edited_at.is_some() {
        line.push_str(" (edited)");
    }
    for reaction in &message.reactions {
        let emoji = text::plain(&reaction.emoji);
        line.push_str(&format!(" [{emoji} {}]", reaction.users.len()));
    }
    Ok(line)
}
