//! What senders were told, against the log.

use std::collections::HashMap;

use protocol::{ErrorCode, RoomId, Seq};

use super::log::Log;
use super::verdict::{Kind, Verdict, Violation};
use crate::history::{History, Micros, Said, Sent};

/// Judges every act.
pub(super) fn judge(history: &History, logs: &HashMap<&RoomId, Log<'_>>, verdict: &mut Verdict) {
    for sent in &history.sent {
        let messages = &mut verdict.messages;
        messages.sent += u64::from(!sent.tries.is_empty());
        messages.repeated += sent.tries.len().saturating_sub(1) as u64;
        messages.acked += u64::from(sent.first_ack().is_some());
        kept(sent, logs, verdict);
        one_place(sent, verdict);
        answers(sent, verdict);
    }
    for log in logs.values() {
        order(history, log, verdict);
    }
}

/// P1: every ack names the place where the act stands.
fn kept(sent: &Sent, logs: &HashMap<&RoomId, Log<'_>>, verdict: &mut Verdict) {
    for (answer, room, seq, at) in sent.acks() {
        let about = |kind, detail: String| {
            let violation = Violation::new(kind, detail).in_room(room, seq);
            violation.of(&sent.from, sent.id()).at(answer.at)
        };
        if sent.room() != Some(room) {
            let detail = format!("it was sent to {:?}", sent.room());
            verdict.add(about(Kind::Moved, detail));
            continue;
        }
        let Some(log) = logs.get(room) else {
            verdict.add(about(Kind::Lost, "the room has no log".to_owned()));
            continue;
        };
        let there = log.at(seq);
        let is_it = |from, id| from == Some(&sent.from) && id == Some(sent.id());
        match there {
            Some(event) if is_it(event.from.as_ref(), event.id) => {
                if event.at != at {
                    let detail = format!("acked with the time {at}, stored with {}", event.at);
                    verdict.add(about(Kind::Altered, detail));
                }
            }
            _ => {
                let found = match log.place_of(&sent.from, sent.id()) {
                    Some(other) => format!("it stands at {other}"),
                    None => "it is not in the log".to_owned(),
                };
                let there = there.map_or("nothing".to_owned(), |event| {
                    format!("{} of {:?}", event.body.kind(), event.from)
                });
                let via = &answer.via;
                let detail = format!("acked by {via}; {found}; there is {there}");
                verdict.add(about(Kind::Lost, detail));
            }
        }
    }
}

/// P4: all acks of an act name the same place.
fn one_place(sent: &Sent, verdict: &mut Verdict) {
    let mut acks = sent
        .acks()
        .map(|(answer, room, seq, at)| ((room, seq, at), answer));
    let Some((first, by)) = acks.next() else {
        return;
    };
    for (place, answer) in acks.filter(|(place, _)| *place != first) {
        let detail = format!(
            "{} acked it at {} ({}), {} at {} ({})",
            by.via, first.1, first.2, answer.via, place.1, place.2
        );
        let violation = Violation::new(Kind::Moved, detail).in_room(place.0, place.1);
        verdict.add(violation.of(&sent.from, sent.id()).at(answer.at));
    }
}

/// P7: everything is answered in the end, and nothing that is right is refused for good.
fn answers(sent: &Sent, verdict: &mut Verdict) {
    let about = |kind, detail: String, at: Option<Micros>| {
        let violation = Violation::new(kind, detail).in_room_of(sent);
        violation.of(&sent.from, sent.id()).at(at)
    };
    for answer in &sent.answers {
        if let Said::Refused { code, message } = &answer.said {
            verdict.messages.refused(*code);
            // A defect may be tried again, but it is one.
            if !code.is_retryable() || *code == ErrorCode::Internal {
                let via = &answer.via;
                let detail = format!("{via} refused it: {} ({message})", code.as_str());
                verdict.add(about(Kind::Refused, detail, Some(answer.at)));
            }
        }
    }
    for answer in &sent.forgeries {
        if let Said::Ack { seq, .. } = answer.said {
            let detail = format!("{} acked other content under this id at {seq}", answer.via);
            verdict.add(about(Kind::Moved, detail, Some(answer.at)));
        }
    }
    let is_settled = sent.answers.iter().any(|answer| match &answer.said {
        Said::Ack { .. } => true,
        Said::Refused { code, .. } => !code.is_retryable(),
    });
    if !is_settled && !sent.tries.is_empty() {
        let last = sent.answers.last();
        let detail = format!("{} tries, last answer: {last:?}", sent.tries.len());
        verdict.add(about(Kind::Unanswered, detail, sent.first_try()));
    }
}

impl Violation {
    fn in_room_of(self, sent: &Sent) -> Self {
        match sent.room() {
            Some(room) => self.in_room(room, None),
            None => self,
        }
    }
}

/// P2 in time: what was acked before another act was begun stands before it.
fn order(history: &History, log: &Log<'_>, verdict: &mut Verdict) {
    let mut placed: Vec<(Seq, Micros, Micros, &Sent)> = history
        .sent
        .iter()
        .filter(|sent| sent.room() == Some(log.room))
        .filter_map(|sent| {
            let seq = log.place_of(&sent.from, sent.id())?;
            Some((
                seq,
                sent.first_try()?,
                sent.first_ack().unwrap_or(Micros::MAX),
                sent,
            ))
        })
        .collect();
    placed.sort_unstable_by_key(|(seq, ..)| *seq);
    // From the end: the earliest ack of all that stand behind.
    let mut earliest: Option<(Micros, Seq)> = None;
    for (seq, begun, acked, sent) in placed.into_iter().rev() {
        if let Some((before, behind)) = earliest.filter(|(before, _)| *before < begun) {
            let detail = format!(
                "it was first sent at {:.6} s, after {behind} had been acked at {:.6} s",
                begun as f64 / 1e6,
                before as f64 / 1e6
            );
            let violation = Violation::new(Kind::Disordered, detail).in_room(log.room, seq);
            verdict.add(violation.of(&sent.from, sent.id()).at(begun));
        }
        if earliest.is_none_or(|(before, _)| acked < before) {
            earliest = Some((acked, seq));
        }
    }
}
