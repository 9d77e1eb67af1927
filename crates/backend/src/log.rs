//! The log of a room: what happened, in one order, for good.

#[cfg(feature = "cluster")]
use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use protocol::{Event, EventBody, MessageId, RoomId, Seq, Timestamp, UserId};

use crate::Result;

/// An event that wants a place in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub room: RoomId,
    /// Who did it. With `id` and `room` it names the act: the same three are the same act, for ever.
    pub from: UserId,
    pub id: MessageId,
    /// What was done. Never a fence or a void: those are the log's own.
    pub body: EventBody,
}

/// The place an event got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    pub event: Arc<Event>,
    /// The act was known already; `event` is what the first call stored.
    pub duplicate: bool,
}

/// A piece of a log without holes, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub events: Vec<Arc<Event>>,
    /// The last readable seq of the room when the page was read.
    pub head: Seq,
}

/// A step of an event on its way to everybody, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has its place in the room's log.
    Appended,
    /// It was handed to the broker.
    Published,
    /// It is in the log for good.
    Confirmed,
    /// Other processes were told.
    Relayed,
    /// It is where it stays for ever.
    Persisted,
}

/// What is known of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    pub step: Step,
    /// Whether it is known to be done.
    pub is_done: bool,
    /// When; for [`Step::Confirmed`] the latest time at which it was.
    pub at: Option<Timestamp>,
    /// The process that did it.
    pub by: Option<String>,
    /// For [`Step::Relayed`]: the processes that have readers in the room now.
    pub pods: Vec<String>,
}

impl Passed {
    pub(crate) fn new(step: Step, is_done: bool) -> Self {
        Self {
            step,
            is_done,
            at: None,
            by: None,
            pods: Vec::new(),
        }
    }
}

/// How far an event has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub event: Arc<Event>,
    /// Whether readers may have it: before that only its sender may know.
    pub is_safe: bool,
    /// Those that the family has, in their order.
    pub steps: Vec<Passed>,
}

/// The logs of all rooms.
///
/// **Durable when it returns**: an event whose `append` returned survives the crash of any process and machine the
/// family promises to survive. **Idempotent without time limit**: the same (room, from, id) with the same body returns
/// the first event with `duplicate`; with another body it is a [`Conflict`](crate::Error::Conflict). **One order**:
/// events of a room have strictly rising seqs chained by `prev`; a reader never sees an event whose predecessors it
/// could not read, nor one that could still be lost (an adapter that stores in steps keeps such events out of `read`
/// and `head` until they are safe, and finishes the work of a writer that died). `at` never goes back within a room.
///
/// A message that was deleted stays as it is: an edit of it or a reaction to it is `NotFound`, unless that very act is
/// known already. Readers ignore those that were appended at the same time as the delete all the same.
///
/// After an event is durable the adapter hands it to the [`Relay`](crate::Relay) in chain order; callers do not.
///
/// An append that fails with `Unavailable` or `Overloaded` may have been stored all the same; repeating it is safe and
/// is how a caller finds out.
#[async_trait]
pub trait Log: Send + Sync {
    /// Gives the event the next place in its room's log. Calls of one task keep their order when each is polled once
    /// before the next is made.
    async fn append(&self, append: Append) -> Result<Appended>;

    /// The first `limit` events after `after`, ascending, without a hole: the first one's `prev` is `after` (or it is
    /// a fence, or `after` lies in a closed range before one).
    async fn read(&self, room: &RoomId, after: Seq, limit: usize) -> Result<Page>;

    /// The last `limit` events before `before`, ascending.
    async fn read_before(&self, room: &RoomId, before: Seq, limit: usize) -> Result<Page>;

    /// The last readable seq; zero for a room without events.
    async fn head(&self, room: &RoomId) -> Result<Seq>;

    /// The head, for whoever believes to have seen more than [`Log::head`] says. That one may go back for a while where a
    /// server has lost its memory; this one is never below anything that was shown, or says that it cannot tell yet.
    async fn certain_head(&self, room: &RoomId) -> Result<Seq> {
        self.head(room).await
    }

    /// What later events make of the given messages, ascending: of each its newest edit, its newest delete and its
    /// newest reactions. However many reactions there are, edit and delete are among the events.
    ///
    /// At most 1,000 reactions of a message are returned. Where those of all would be more than 20,000, the messages
    /// further back get fewer, but the newest 100 of each are always there.
    async fn related(&self, room: &RoomId, targets: &[Seq]) -> Result<Vec<Arc<Event>>>;

    /// The first seq at or after a time; the seq after the head when there is none.
    async fn first_at(&self, room: &RoomId, at: Timestamp) -> Result<Seq>;

    /// How many messages of others stand after `after`, counted up to `most`.
    async fn unread(&self, room: &RoomId, user: &UserId, after: Seq, most: u64) -> Result<u64>;

    /// The ways of the events with this id in these rooms: one for each sender and room. For people who look for what
    /// became of a message; what is not kept for another reason is not kept for this.
    async fn ways(&self, id: MessageId, rooms: &[RoomId]) -> Result<Vec<Way>>;

    /// Removes a room's events for good. The room's id is never used again.
    async fn forget(&self, room: &RoomId) -> Result<()>;
}

/// Reactions returned per message,
pub(crate) const REACTIONS_MAX: usize = 1000;
/// for all messages of one question,
pub(crate) const REACTIONS_TOTAL_MAX: usize = 20_000;
/// and for each of them whatever the others have.
const REACTIONS_SURE: usize = 100;

/// How many reactions a message may have when `left` are to be given out and `others` come after it.
pub(crate) fn share_of_reactions(left: usize, others: usize) -> usize {
    left.saturating_sub(others * REACTIONS_SURE)
        .clamp(REACTIONS_SURE, REACTIONS_MAX)
}

/// Of events about messages, ascending, those that [`Log::related`] answers with.
#[cfg(feature = "cluster")]
pub(crate) fn within_bounds(events: Vec<Arc<Event>>, targets: &BTreeSet<Seq>) -> Vec<Arc<Event>> {
    use std::collections::BTreeMap;

    let mut about: BTreeMap<Seq, Vec<Arc<Event>>> = BTreeMap::new();
    for event in events {
        if let Some(target) = event.body.target() {
            about.entry(target).or_default().push(event);
        }
    }
    let mut left = REACTIONS_TOTAL_MAX;
    let mut found = Vec::new();
    // People look at the last messages first, and so these choose first.
    for (others, target) in targets.iter().enumerate().rev() {
        let mut share = share_of_reactions(left, others);
        let (mut edits, mut deletes) = (1, 1);
        for event in about.remove(target).into_iter().flatten().rev() {
            let of_this_kind = match event.body {
                EventBody::Edit { .. } => &mut edits,
                EventBody::Delete { .. } => &mut deletes,
                _ => &mut share,
            };
            if *of_this_kind > 0 {
                *of_this_kind -= 1;
                if let EventBody::Reaction { .. } = event.body {
                    left = left.saturating_sub(1);
                }
                found.push(event);
            }
        }
    }
    found.sort_unstable_by_key(|event| event.seq);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reactions_are_shared_out_within_bounds() {
        let shares = |targets: usize, wanted: usize| -> Vec<usize> {
            let mut left = REACTIONS_TOTAL_MAX;
            let share = |others| {
                let share = share_of_reactions(left, others).min(wanted);
                left = left.saturating_sub(share);
                share
            };
            (0..targets).rev().map(share).collect()
        };
        assert_eq!(shares(1, 5000), [1000]);
        assert_eq!(shares(200, 7), [7; 200]);
        let many = shares(200, 5000);
        assert_eq!((many[0], many[1], many[199]), (100, 100, 100));
        assert_eq!(many.iter().sum::<usize>(), REACTIONS_TOTAL_MAX);
        let some = shares(50, 5000);
        assert_eq!((some[0], some[49]), (1000, 100));
        assert!(some.iter().all(|share| *share >= REACTIONS_SURE));
        assert!(some.iter().sum::<usize>() <= REACTIONS_TOTAL_MAX);
    }
}
