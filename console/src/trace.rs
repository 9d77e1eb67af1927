//! `darda trace`.

use std::io::{self, Write};

use protocol::{RoomId, Seq, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::args::{Account, Trace};
use crate::rest::{Rest, shown};
use crate::text;

/// Of a message with many readers, so many are named.
const NAMED_MAX: usize = 10;

/// What is shown of a message's way.
#[derive(Debug, Deserialize)]
struct Way {
    room: RoomId,
    seq: Seq,
    #[serde(default)]
    from: Option<String>,
    kind: String,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    step: String,
    done: bool,
    #[serde(default)]
    at: Option<Timestamp>,
    #[serde(default)]
    by: Option<String>,
    #[serde(default)]
    pods: Vec<String>,
    #[serde(default)]
    count: Option<u64>,
    #[serde(default)]
    of: Option<u64>,
    #[serde(default)]
    users: Vec<String>,
}

pub fn run(account: &Account, args: &Trace) -> anyhow::Result<()> {
    let rest = Rest::new(account.clone());
    let room = args.room.as_ref().map(|room| rest.room(room)).transpose()?;
    let mut out = io::stdout().lock();
    for item in rest.trace(args.id, room.as_ref())? {
        if args.json {
            writeln!(out, "{}", text::json(&item))?;
        } else {
            write!(out, "{}", lines(&item)?)?;
        }
    }
    Ok(())
}

/// A head, and a line for each step.
fn lines(item: &Value) -> anyhow::Result<String> {
    let way: Way = shown(item)?;
    let kind = text::plain(&way.kind);
    let from = way
        .from
        .as_deref()
        .map_or(String::new(), |from| format!(" of {}", text::plain(from)));
    let mut lines = format!("{kind} {} in {}{from}\n", way.seq, way.room);
    let begun = way.steps.first().and_then(|step| step.at);
    for step in &way.steps {
        let name = text::plain(&step.step);
        let mut parts = Vec::new();
        parts.extend(when(step, begun));
        if let Some(by) = &step.by {
            parts.push(format!("by {}", text::plain(by)));
        }
        parts.extend(whom(step));
        let known = parts.join(", ");
        let known = match (step.done, known.as_str()) {
            (true, "") => "yes",
            (false, "") => "not yet",
            (_, known) => known,
        };
        lines.push_str(&format!("  {name:<9}  {known}\n"));
    }
    Ok(lines)
}

/// The time of the first step, and how much later the others were.
fn when(step: &Step, begun: Option<Timestamp>) -> Option<String> {
    let at = step.at?;
    let later = begun.filter(|begun| *begun != at || step.step != "appended");
    Some(match later {
        Some(begun) => {
            let millis = at.as_millis() - begun.as_millis();
            let most = if step.step == "confirmed" {
                "at most "
            } else {
                ""
            };
            format!("{most}{millis} ms later")
        }
        None => at.to_string(),
    })
}

/// The processes or members that it came to.
fn whom(step: &Step) -> Option<String> {
    let named = |names: &[String]| {
        let names: Vec<String> = names
            .iter()
            .take(NAMED_MAX)
            .map(|name| text::plain(name))
            .collect();
        names.join(" ")
    };
    if let (Some(count), Some(of)) = (step.count, step.of) {
        let more = if step.users.len() > NAMED_MAX {
            " …"
        } else {
            ""
        };
        let users = named(&step.users);
        return Some(
            format!("{count} of {of}: {users}{more}")
                .trim_end_matches([':', ' '])
                .to_owned(),
        );
    }
    (!step.pods.is_empty()).then(|| format!("to those with readers: {}", named(&step.pods)))
}
