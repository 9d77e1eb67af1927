//! What senders do: mostly messages, some short, some long, some with everything that trips careless code; reactions,
//! edits and deletions of their own messages; ids of every age.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use client::engine::Act;
use protocol::{Delete, Edit, MessageId, Meta, React, RoomId, Send, Seq, UserId};
use rand::RngExt;
use rand::rngs::StdRng;
use uuid::{NoContext, Timestamp, Uuid};

/// Messages that a sender keeps in mind for later acts on them.
const TARGETS_MAX: usize = 50;
/// An id that claims to be older than a server remembers ids.
const LONG_AGO: Duration = Duration::from_secs(20 * 60);
/// An id of a clock that is ahead.
const AHEAD: Duration = Duration::from_secs(5 * 60);

/// Makes acts.
pub struct Acts {
    user: UserId,
    count: u64,
    /// Own messages that were acked, and how many acts on them are on their way.
    targets: Vec<Target>,
}

struct Target {
    room: RoomId,
    seq: Seq,
    busy: u32,
}

impl Acts {
    #[must_use]
    pub fn new(user: UserId) -> Self {
        Self {
            user,
            count: 0,
            targets: Vec::new(),
        }
    }

    /// Something new to do.
    pub fn next(&mut self, room: RoomId, random: &mut StdRng) -> Act {
        self.count += 1;
        let id = id(random);
        match random.random_range(0..100) {
            0..8 => self.on_target(random, |room, seq, _| {
                let on = seq.get() % 3 != 0;
                let emoji = "🦑".to_owned();
                Act::React(React {
                    id,
                    room,
                    seq,
                    emoji,
                    on,
                })
            }),
            8..13 => self.on_target(random, |room, seq, count| {
                let text = format!("better: {count}");
                Act::Edit(Edit {
                    id,
                    room,
                    seq,
                    text,
                })
            }),
            13..16 => self.delete(id, random),
            _ => None,
        }
        .unwrap_or_else(|| Act::Send(self.message(id, room, random)))
    }

    /// An act was acked.
    pub fn acked(&mut self, act: &Act, seq: Seq) {
        match act {
            Act::Send(send) => {
                if let (Some(room), true) = (&send.room, self.targets.len() < TARGETS_MAX) {
                    let room = room.clone();
                    self.targets.push(Target { room, seq, busy: 0 });
                }
            }
            Act::Edit(Edit { room, seq, .. }) | Act::React(React { room, seq, .. }) => {
                let is_it = |target: &&mut Target| target.room == *room && target.seq == *seq;
                if let Some(target) = self.targets.iter_mut().find(is_it) {
                    target.busy = target.busy.saturating_sub(1);
                }
            }
            Act::Delete(_) => {}
        }
    }

    fn on_target(
        &mut self,
        random: &mut StdRng,
        make: impl FnOnce(RoomId, Seq, u64) -> Act,
    ) -> Option<Act> {
        let index = random.random_range(0..self.targets.len().max(1));
        let target = self.targets.get_mut(index)?;
        target.busy += 1;
        Some(make(target.room.clone(), target.seq, self.count))
    }

    /// Only what nothing is on its way to: an edit that arrives after the deletion is refused, and rightly.
    fn delete(&mut self, id: MessageId, random: &mut StdRng) -> Option<Act> {
        let index = random.random_range(0..self.targets.len().max(1));
        self.targets.get(index).filter(|target| target.busy == 0)?;
        let Target { room, seq, .. } = self.targets.swap_remove(index);
        Some(Act::Delete(Delete { id, room, seq }))
    }

    fn message(&self, id: MessageId, room: RoomId, random: &mut StdRng) -> Send {
        let words = match random.random_range(0..100) {
            0..70 => String::new(),
            70..90 => " and so on".repeat(random.random_range(5..80)),
            90..95 => "lorem ipsum ".repeat(random.random_range(100..400)),
            _ => " \"quoted\" \\ \n\t $where: {\"$ne\": 1} a.b \u{202e}back\u{202c} 🦑 \u{0} é"
                .to_owned(),
        };
        let here = |target: &&Target| target.room == room;
        let reply_to = self.targets.iter().find(here).map(|target| target.seq);
        Send {
            id,
            to: None,
            text: format!("{} {}{words}", self.user, self.count),
            reply_to: reply_to.filter(|_| random.random_bool(0.2)),
            meta: random.random_bool(0.1).then(meta),
            room: Some(room),
        }
    }
}

/// Keys that are operators or paths elsewhere.
fn meta() -> Meta {
    [
        ("$set", "{\"x\": 1}"),
        ("a.b", "c"),
        ("_id", "1"),
        ("", "empty"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Mostly a UUID of version 7 and of now. Others are allowed, and a server looks them up elsewhere.
fn id(random: &mut StdRng) -> MessageId {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let of = |time: Duration| {
        let time = Timestamp::from_unix(NoContext, time.as_secs(), time.subsec_nanos());
        MessageId::from_bytes(*Uuid::new_v7(time).as_bytes())
    };
    match random.random_range(0..100) {
        0..6 => MessageId::from_bytes(*Uuid::new_v4().as_bytes()),
        6..10 => of(now.saturating_sub(LONG_AGO)),
        10..14 => of(now + AHEAD),
        _ => MessageId::generate(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::World;

    #[test]
    fn nothing_acts_on_a_message_that_is_deleted() {
        let mut random = World::random(7, "anna");
        let mut acts = Acts::new(UserId::parse("anna").unwrap());
        let (mut deleted, mut on_their_way) = (Vec::new(), Vec::new());
        for number in 1..3000 {
            let act = acts.next(RoomId::parse("a").unwrap(), &mut random);
            match &act {
                Act::Delete(delete) => {
                    let waits = |act: &Act| matches!(act, Act::Edit(e) if e.seq == delete.seq);
                    assert!(!on_their_way.iter().any(waits));
                    deleted.push(delete.seq);
                }
                Act::Edit(edit) => assert!(!deleted.contains(&edit.seq)),
                Act::React(react) => assert!(!deleted.contains(&react.seq)),
                Act::Send(_) => {}
            }
            on_their_way.push(act);
            if on_their_way.len() > 5 {
                let act = on_their_way.remove(0);
                acts.acked(&act, Seq::new(number).unwrap());
            }
        }
        assert!(deleted.len() > 20, "{}", deleted.len());
    }
}
