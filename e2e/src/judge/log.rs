//! The log in the end: chained from its beginning, without a hole, each act once, nothing that nobody did.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use protocol::{Event, EventBody, MemberChange, MessageId, RoomId, Seq, UserId};

use super::verdict::{Kind, Verdict, Violation};
use crate::history::{History, Sent, body_of};

/// A room's log with what the other parts of the judge look up in it.
pub(super) struct Log<'a> {
    pub(super) room: &'a RoomId,
    pub(super) events: &'a [Arc<Event>],
    acts: HashMap<(&'a UserId, MessageId), Seq>,
}

impl<'a> Log<'a> {
    /// The event at a seq.
    pub(super) fn at(&self, seq: Seq) -> Option<&'a Arc<Event>> {
        let index = self.events.binary_search_by_key(&seq, |event| event.seq);
        index.ok().map(|index| &self.events[index])
    }

    /// The index of the first event after a position.
    pub(super) fn after(&self, position: Seq) -> usize {
        self.events.partition_point(|event| event.seq <= position)
    }

    /// Where an act stands.
    pub(super) fn place_of(&self, from: &UserId, id: MessageId) -> Option<Seq> {
        self.acts.get(&(from, id)).copied()
    }
}

/// Whether two events say the same. The time of a void is nobody's: a server makes one up where a number is empty.
pub(super) fn same(one: &Event, other: &Event) -> bool {
    if matches!(
        (&one.body, &other.body),
        (EventBody::Void {}, EventBody::Void {})
    ) {
        return (one.seq, one.prev, &one.room) == (other.seq, other.prev, &other.room);
    }
    one == other
}

/// Whether an event may follow a position: it names it, or it is a fence, which names nothing.
pub(super) fn follows(event: &Event, position: Seq) -> bool {
    match event.prev {
        Some(prev) => prev == position && event.seq > position,
        None => matches!(event.body, EventBody::Fence {}) && event.seq > position,
    }
}

/// Judges a room's log by itself and against what was sent.
pub(super) fn judge<'a>(
    room: &'a RoomId,
    events: &'a [Arc<Event>],
    sent: &HashMap<(&'a UserId, MessageId), &'a Sent>,
    verdict: &mut Verdict,
) -> Log<'a> {
    chain(room, events, verdict);
    let mut acts = HashMap::new();
    let mut joined = HashSet::new();
    for event in events {
        verdict.messages.logged += 1;
        match &event.body {
            EventBody::Fence {} => verdict.messages.fences += 1,
            EventBody::Void {} => verdict.messages.voids += 1,
            EventBody::Member {
                user,
                change: MemberChange::Joined,
                ..
            } if !joined.insert(user) => {
                let twice = format!("{user} joined twice and never left");
                verdict.add(Violation::new(Kind::Doubled, twice).in_room(room, event.seq));
            }
            _ => {}
        }
        if let (Some(from), Some(id)) = (&event.from, event.id)
            && let Some(first) = acts.insert((from, id), event.seq)
        {
            acts.insert((from, id), first);
            let twice = format!("the act stands at {first} already");
            let violation = Violation::new(Kind::Doubled, twice).in_room(room, event.seq);
            verdict.add(violation.of(from, id));
        }
        if let Some(violation) = foreign(event, sent) {
            verdict.add(violation.in_room(room, event.seq));
        }
    }
    Log { room, events, acts }
}

/// From 1 (or a fence), each event after the one before it, times that never go back.
fn chain(room: &RoomId, events: &[Arc<Event>], verdict: &mut Verdict) {
    let mut before: Option<&Event> = None;
    for event in events {
        let position = before.map_or(Seq::ZERO, |event| event.seq);
        let violation =
            |kind, detail: String| Violation::new(kind, detail).in_room(room, event.seq);
        if event.room != *room {
            let other = format!("it belongs to {}", event.room);
            verdict.add(violation(Kind::Foreign, other));
        }
        if event.seq <= position {
            let kind = if event.seq == position {
                Kind::Doubled
            } else {
                Kind::Disordered
            };
            verdict.add(violation(kind, format!("it stands after {position}")));
        } else if !follows(event, position) {
            let found = event
                .prev
                .map_or("nothing".to_owned(), |prev| prev.to_string());
            let detail = format!("it follows {position} and names {found}");
            verdict.add(violation(Kind::BrokenChain, detail));
        } else if event.prev.is_some() && event.seq != position.next() {
            let detail = format!("it follows {position} without a fence");
            verdict.add(violation(Kind::BrokenChain, detail));
        }
        if before.is_some_and(|before| before.at > event.at) {
            let detail = format!(
                "its time {} is before that of the event before it",
                event.at
            );
            verdict.add(violation(Kind::Disordered, detail));
        }
        before = Some(event);
    }
}

/// What nobody sent. Rooms are made and joined on first use, so those events come without an act of a sender.
fn foreign(event: &Event, sent: &HashMap<(&UserId, MessageId), &Sent>) -> Option<Violation> {
    match &event.body {
        EventBody::Fence {} | EventBody::Void {} => {
            let names = event.from.is_some() || event.id.is_some();
            return names.then(|| Violation::new(Kind::Foreign, "nobody can send such an event"));
        }
        EventBody::Member { .. } | EventBody::Room { .. } => return None,
        _ => {}
    }
    let (Some(from), Some(id)) = (&event.from, event.id) else {
        return Some(Violation::new(
            Kind::Foreign,
            "it says neither who nor which act",
        ));
    };
    let Some(sent) = sent.get(&(from, id)) else {
        return Some(Violation::new(Kind::Foreign, "nobody sent it").of(from, id));
    };
    let is_right = sent.room() == Some(&event.room) && body_of(&sent.act) == event.body;
    (!is_right).then(|| {
        let detail = format!("sent was {:?}, stored is {:?}", sent.act, event.body);
        Violation::new(Kind::Altered, detail).of(from, id)
    })
}

/// Compares the logs with what other places hold.
pub(super) fn copies(history: &History, verdict: &mut Verdict) {
    for (place, logs) in &history.copies {
        for (room, events) in &history.logs {
            let copy = logs.get(room).map_or(&[][..], Vec::as_slice);
            if let Some(violation) = diverged(place, events, copy) {
                verdict.add(violation.in_room(room, None));
            }
        }
    }
}

/// The first difference. What a server fills in where a number is empty stands in no database.
fn diverged(place: &str, events: &[Arc<Event>], copy: &[Arc<Event>]) -> Option<Violation> {
    let is_kept = |event: &&Arc<Event>| !matches!(event.body, EventBody::Void {});
    let (mut ours, mut theirs) = (events.iter().filter(is_kept), copy.iter().filter(is_kept));
    loop {
        let (one, other) = (ours.next(), theirs.next());
        let equal = match (one, other) {
            (None, None) => return None,
            (Some(one), Some(other)) => same(one, other),
            _ => false,
        };
        if !equal {
            let detail = format!("the log has {one:?}, {place} has {other:?}");
            return Some(Violation::new(Kind::Diverged, detail));
        }
    }
}
