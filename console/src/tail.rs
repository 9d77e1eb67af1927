//! `darda tail`.

use std::io::{self, Write};

use client::Update;
use client::engine::Saved;
use protocol::SubscribeRoom;

use crate::args::{Account, Tail};
use crate::connect::{Trouble, connect, find_room};
use crate::text;

pub async fn run(account: Account, args: Tail) -> anyhow::Result<()> {
    if args.limit == Some(0) {
        return Ok(());
    }
    let room = find_room(&account, &args.room).await?;
    let (handle, mut updates) = connect(&account, Saved::default());
    let wanted = SubscribeRoom {
        room,
        after: args.after,
    };
    handle.subscribe(vec![wanted]).await?;
    let mut trouble = Trouble::default();
    let mut left = args.limit;
    while let Some(update) = updates.next().await {
        trouble.watch(&account, &update)?;
        let Update::Event(event) = update else {
            continue;
        };
        let line = if args.json {
            Some(text::json(&*event))
        } else {
            let at = event.at.to_string();
            let day = at.get(..10).unwrap_or_default();
            text::event(&event).map(|line| format!("{} {day} {line}", event.seq))
        };
        if let Some(line) = line {
            writeln!(io::stdout().lock(), "{line}")?;
        }
        if let Some(left) = &mut left {
            *left -= 1;
            if *left == 0 {
                break;
            }
        }
    }
    handle.close().await?;
    Ok(())
}
