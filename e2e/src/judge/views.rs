//! What readers were shown, against the log: a piece of it without a hole, each event once, in its order.

use std::collections::{HashMap, HashSet};

use protocol::{Event, RoomId, Seq};

use super::log::{Log, follows, same};
use super::verdict::{Kind, Verdict, Violation};
use crate::history::{History, Micros, Source, Step, View};

/// Judges every view.
pub(super) fn judge(history: &History, logs: &HashMap<&RoomId, Log<'_>>, verdict: &mut Verdict) {
    for view in &history.views {
        let Some(log) = logs.get(&view.room) else {
            let violation = Violation::new(Kind::TakenBack, "the room has no log");
            verdict.add(violation.in_room(&view.room, None).of(&view.reader, None));
            continue;
        };
        let end = history.ends.get(&view.room).copied().unwrap_or_default();
        // What the log lost is not the reader's fault.
        let kept = log.events.last().map_or(Seq::ZERO, |event| event.seq);
        Walk {
            view,
            log,
            end: end.min(kept),
            position: view.after,
            shown: HashSet::new(),
            verdict,
        }
        .walk();
    }
}

struct Walk<'a> {
    view: &'a View,
    log: &'a Log<'a>,
    /// How far a reader has to come that stays.
    end: Seq,
    /// The reader has everything up to here.
    position: Seq,
    shown: HashSet<Seq>,
    verdict: &'a mut Verdict,
}

impl Walk<'_> {
    fn violation(&mut self, kind: Kind, seq: Seq, at: Option<Micros>, detail: String) {
        let source = match self.view.source {
            Source::Socket => "socket",
            Source::Library => "library",
            Source::Pages => "pages",
        };
        let who = format!("{} ({source})", self.view.reader);
        let violation = Violation::new(kind, detail).in_room(&self.view.room, seq);
        self.verdict.add(violation.of(who, None).at(at));
    }

    fn walk(mut self) {
        let mut last = None;
        for step in &self.view.steps {
            match step {
                Step::Resumed {
                    at,
                    via,
                    asked,
                    after,
                    head,
                } => {
                    self.verdict.messages.resumed += 1;
                    self.resumed(*at, via, *asked, *after, *head);
                }
                Step::Shown { at, event } => {
                    last = Some(*at);
                    self.verdict.messages.shown += 1;
                    self.shown(*at, event);
                }
                Step::Stuck { at, head } => {
                    let position = self.position;
                    let detail = format!("{head} was announced, {position} was the last that came");
                    self.violation(Kind::Behind, *head, Some(*at), detail);
                }
                Step::Unanswered { at } => {
                    let detail = "a subscription was neither confirmed nor refused".to_owned();
                    self.violation(Kind::Unanswered, self.position, Some(*at), detail);
                }
                Step::Closed { at, reason } => {
                    self.violation(Kind::Refused, self.position, Some(*at), reason.clone());
                }
            }
        }
        let head = self.end;
        if self.view.to_the_end && self.position < head {
            let position = self.position;
            let detail = format!("the log goes on to {head}, the reader was left at {position}");
            self.violation(Kind::Behind, position, last, detail);
        }
    }

    /// A server that knows less than was shown, or begins later than was asked.
    fn resumed(&mut self, at: Micros, via: &str, asked: Seq, after: Seq, head: Seq) {
        if head < asked || after < asked {
            let detail = format!(
                "{via} knows the log up to {head} and begins after {after}; {asked} was shown"
            );
            self.violation(Kind::TakenBack, asked, Some(at), detail);
        } else if after > asked {
            let detail = format!("{via} was asked for what follows {asked}, begins after {after}");
            self.violation(Kind::Hole, asked, Some(at), detail);
        }
    }

    fn shown(&mut self, at: Micros, event: &Event) {
        let (seq, position) = (event.seq, self.position);
        if seq <= position {
            if self.shown.contains(&seq) {
                self.violation(
                    Kind::Doubled,
                    seq,
                    Some(at),
                    "it was shown before".to_owned(),
                );
            } else {
                let detail = format!("it was shown after {position}");
                self.violation(Kind::Disordered, seq, Some(at), detail);
            }
            return;
        }
        if !follows(event, position) {
            let names = event
                .prev
                .map_or("nothing".to_owned(), |prev| prev.to_string());
            let kind = if event.prev.is_some_and(|prev| prev < position) {
                Kind::BrokenChain
            } else {
                Kind::Hole
            };
            let detail = format!("the reader was at {position}, and it follows {names}");
            self.violation(kind, seq, Some(at), detail);
        } else if let Some(skipped) = self.skipped(seq) {
            let detail = format!("the log has {skipped} between {position} and it");
            self.violation(Kind::Hole, seq, Some(at), detail);
        }
        match self.log.at(seq) {
            None => {
                let what = format!(
                    "{} of {:?} is not in the log",
                    event.body.kind(),
                    event.from
                );
                self.violation(Kind::TakenBack, seq, Some(at), what);
            }
            Some(kept) if !same(kept, event) => {
                let detail = format!("shown was {event:?}, the log has {kept:?}");
                self.violation(Kind::Altered, seq, Some(at), detail);
            }
            Some(_) => {}
        }
        self.position = seq;
        self.shown.insert(seq);
    }

    /// The first event of the log between the position and `seq`.
    fn skipped(&self, seq: Seq) -> Option<Seq> {
        let next = self.log.events.get(self.log.after(self.position))?;
        (next.seq < seq).then_some(next.seq)
    }
}
