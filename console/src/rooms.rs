//! `darda rooms`.

use std::io::{self, Write};

use crate::args::{Account, Rooms};
use crate::rest::{Rest, Room, shown};
use crate::text;

pub fn run(account: &Account, args: &Rooms) -> anyhow::Result<()> {
    let rooms = Rest::new(account.clone()).rooms(args.mine)?;
    let mut out = io::stdout().lock();
    if args.json {
        for room in rooms {
            writeln!(out, "{}", text::json(&room))?;
        }
        return Ok(());
    }
    let rooms = rooms
        .iter()
        .map(shown::<Room>)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let width = rooms
        .iter()
        .map(|room| room.id.as_str().len())
        .max()
        .unwrap_or(0);
    for room in rooms {
        let mine = room.role.as_deref().unwrap_or("-");
        let (kind, mine) = (text::plain(&room.kind), text::plain(mine));
        let mut line = format!(
            "{:width$}  {kind:7}  {mine:6}  {:>6} members  {:>8} events",
            room.id.as_str(),
            room.members,
            room.head,
        );
        if room.name != room.id.as_str() {
            line.push_str(&format!("  {}", text::plain(&room.name)));
        }
        if let Some(topic) = room.topic.filter(|topic| !topic.is_empty()) {
            line.push_str(&format!("  — {}", text::plain(&topic)));
        }
        writeln!(out, "{line}")?;
    }
    Ok(())
}
