//! What people wrote, made safe to show. A message must not move the cursor, change colours or the title, ask the terminal
//! questions, or look like somebody else's line.

use protocol::{Event, EventBody, MemberChange, RoomChange};

/// Characters that command a terminal or turn the direction of writing.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{fff9}'..='\u{fffb}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// One line: whatever a terminal would obey is shown as `\u{1b}` and the like.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push(' '),
            c if is_dangerous(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Text that may have several lines. The others are marked, so that none can pass for a message of its own.
fn lines(text: &str) -> String {
    let marked: Vec<String> = text.lines().map(plain).collect();
    marked.join("\n    | ")
}

/// JSON that is safe to show. Such characters can only stand in strings, where an escape means the same.
#[must_use]
pub fn json(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).expect("what came as JSON can be written as JSON");
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_dangerous(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// A message: `11:00Z bob: hello`.
#[must_use]
pub fn message(at: &str, from: &str, text: &str) -> String {
    format!("{} {}: {}", minutes(at), plain(from), lines(text))
}

/// `2026-11-21T11:00:00.000Z` as `11:00Z`.
fn minutes(at: &str) -> String {
    at.get(11..16)
        .map_or_else(|| plain(at), |time| format!("{}Z", plain(time)))
}

/// An event as a line; `None` when there is nothing to show.
#[must_use]
pub fn event(event: &Event) -> Option<String> {
    let at = event.at.to_string();
    let from = event.from.as_ref().map_or("", |from| from.as_str());
    let act = |what: String| Some(format!("{} * {from} {what}", minutes(&at)));
    match &event.body {
        EventBody::Message { text, .. } => Some(message(&at, from, text)),
        EventBody::Edit { target, text } => {
            act(format!("changed message {target}: {}", lines(text)))
        }
        EventBody::Delete { target } => act(format!("deleted message {target}")),
        EventBody::Reaction { target, emoji, on } => {
            let verb = if *on { "put" } else { "took" };
            let place = if *on { "on" } else { "off" };
            act(format!("{verb} {} {place} message {target}", plain(emoji)))
        }
        EventBody::Member { user, change, role } => match change {
            MemberChange::Joined if user.as_str() == from => act("joined".to_owned()),
            MemberChange::Joined => act(format!("added {user}")),
            MemberChange::Left => act("left".to_owned()),
            MemberChange::Removed => act(format!("removed {user}")),
            MemberChange::Role => {
                let role = role.map_or(String::new(), |role| format!("{role:?}").to_lowercase());
                act(format!("made {user} {role}"))
            }
        },
        EventBody::Room {
            change,
            name,
            topic,
        } => match change {
            RoomChange::Created => act("created the room".to_owned()),
            RoomChange::Renamed => {
                let name = name.as_deref().unwrap_or_default();
                act(format!("renamed the room to {}", plain(name)))
            }
            RoomChange::Topic => {
                let topic = topic.as_deref().unwrap_or_default();
                act(format!("set the topic to {}", plain(topic)))
            }
            RoomChange::Deleted => act("deleted the room".to_owned()),
        },
        EventBody::Fence {} | EventBody::Void {} => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded() {
        assert_eq!(plain("\u{1b}]0;owned\u{7}"), "\\u{1b}]0;owned\\u{7}");
        assert_eq!(
            plain("\u{9b}31m\u{7f}\r\u{8}"),
            "\\u{9b}31m\\u{7f}\\u{d}\\u{8}"
        );
        assert_eq!(plain("abc\u{202e}cba"), "abc\\u{202e}cba");
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for text in ["grüße", "日本語", "👩‍👩‍👧‍👦 👍🏽", "a\\b", "עברית"]
        {
            assert_eq!(plain(text), text);
        }
    }

    #[test]
    fn a_second_line_cannot_pass_for_a_message() {
        let shown = message(
            "2026-11-21T11:00:00.000Z",
            "bob",
            "hi\n11:00Z alice: I resign\r\nx",
        );
        assert_eq!(
            shown,
            "11:00Z bob: hi\n    | 11:00Z alice: I resign\n    | x"
        );
    }

    #[test]
    fn json_keeps_its_meaning() {
        let text = "a\u{9b}b\u{202e}c\u{7f}\u{e0041}\n\"";
        let shown = json(&text);
        assert!(!shown.chars().any(is_dangerous), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
    }
}
