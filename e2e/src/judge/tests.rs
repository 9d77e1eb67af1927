//! Histories that are right, and the same with one thing broken each: the judge must see it and call it by its name.

use std::sync::Arc;

use client::engine::Act;
use protocol::{
    ErrorCode, Event, EventBody, MemberChange, MessageId, RoomChange, RoomId, Send, Seq, Timestamp,
    UserId,
};

use super::{Kind, Verdict, judge};
use crate::history::{Answer, History, Injection, Micros, Said, Sent, Source, Step, Try, View};

const SECOND: Micros = 1_000_000;
/// The first number of the third generation.
const FENCE: u64 = (3 << 32) + 1;

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn room() -> RoomId {
    RoomId::parse("harbour").unwrap()
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn event(number: u64, prev: Option<u64>, body: EventBody) -> Event {
    Event {
        room: room(),
        seq: seq(number),
        prev: prev.map(seq),
        at: Timestamp::from_millis(1_000_000 + i64::try_from(number % 1000).unwrap()),
        from: None,
        id: None,
        body,
    }
}

fn joined(number: u64, prev: Option<u64>, name: &str) -> Event {
    let change = MemberChange::Joined;
    Event {
        from: Some(user(name)),
        id: Some(MessageId::generate()),
        ..event(
            number,
            prev,
            EventBody::Member {
                user: user(name),
                change,
                role: None,
            },
        )
    }
}

fn message(number: u64, prev: Option<u64>, from: &str) -> Event {
    let text = format!("{from} says {number}");
    Event {
        from: Some(user(from)),
        id: Some(MessageId::generate()),
        ..event(
            number,
            prev,
            EventBody::Message {
                text,
                reply_to: None,
                meta: None,
            },
        )
    }
}

fn act(event: &Event) -> Act {
    let EventBody::Message { text, .. } = &event.body else {
        panic!("not a message: {event:?}");
    };
    Act::Send(Send {
        id: event.id.unwrap(),
        room: Some(event.room.clone()),
        to: None,
        text: text.clone(),
        reply_to: None,
        meta: None,
    })
}

fn via() -> Arc<str> {
    "pod-0".into()
}

fn ack(event: &Event, at: Micros, duplicate: bool) -> Answer {
    let (room, seq) = (event.room.clone(), event.seq);
    let said = Said::Ack {
        room,
        seq,
        at: event.at,
        duplicate,
    };
    Answer {
        at,
        via: via(),
        said,
    }
}

/// Sent at a time and acked 5 ms later.
fn sent(event: &Event, at: Micros) -> Sent {
    Sent {
        from: event.from.clone().unwrap(),
        act: act(event),
        tries: vec![Try { at, via: via() }],
        answers: vec![ack(event, at + 5_000, false)],
        forgeries: Vec::new(),
    }
}

fn view(events: &[Arc<Event>], after: u64, source: Source) -> View {
    let resumed = Step::Resumed {
        at: 0,
        via: via(),
        asked: seq(after),
        after: seq(after),
        head: events.last().unwrap().seq,
    };
    let shown = events.iter().filter(|event| event.seq > seq(after));
    let shown = shown.map(|event| Step::Shown {
        at: SECOND,
        event: event.clone(),
    });
    View {
        reader: "rita".to_owned(),
        source,
        room: room(),
        after: seq(after),
        steps: std::iter::once(resumed).chain(shown).collect(),
        to_the_end: true,
    }
}

/// A room's life: made, joined, written to, an empty number, a fence, written to again.
fn log() -> Vec<Arc<Event>> {
    let created = EventBody::Room {
        change: RoomChange::Created,
        name: None,
        topic: None,
    };
    let mut log = vec![
        event(1, Some(0), created),
        joined(2, Some(1), "anna"),
        joined(3, Some(2), "boris"),
    ];
    let from = ["anna", "boris"];
    log.extend((4..10).map(|n| message(n, Some(n - 1), from[n as usize % 2])));
    log.push(event(10, Some(9), EventBody::Void {}));
    log.push(message(11, Some(10), "anna"));
    log.push(Event {
        at: Timestamp::from_millis(1_000_500),
        ..event(FENCE, None, EventBody::Fence {})
    });
    let mut later = |n: u64, from: &str| {
        let at = Timestamp::from_millis(1_000_600);
        log.push(Event {
            at,
            ..message(FENCE + n, Some(FENCE + n - 1), from)
        });
    };
    later(1, "boris");
    later(2, "anna");
    log.into_iter().map(Arc::new).collect()
}

fn is_message(event: &&Arc<Event>) -> bool {
    matches!(event.body, EventBody::Message { .. })
}

/// A session in which every promise was kept: one act every 10 ms, the second one sent three times.
fn right() -> History {
    let log = log();
    let mut times = 1..;
    let mut all: Vec<Sent> = log
        .iter()
        .filter(is_message)
        .map(|event| sent(event, times.next().unwrap() * 10_000))
        .collect();
    let again = all[1].answers[0].clone();
    all[1].tries.extend([
        Try {
            at: 30_000,
            via: via(),
        },
        Try {
            at: 2 * SECOND,
            via: via(),
        },
    ]);
    all[1]
        .answers
        .insert(0, refused(ErrorCode::Unavailable, 20_001));
    all[1].answers.push(Answer {
        at: 2 * SECOND,
        ..again
    });
    History {
        sent: all,
        views: vec![
            view(&log, 0, Source::Socket),
            view(&log, 5, Source::Library),
            view(&log, 9, Source::Pages),
            view(&log, FENCE, Source::Socket),
        ],
        copies: [("the database".to_owned(), [(room(), log.clone())].into())].into(),
        ends: [(room(), log.last().unwrap().seq)].into(),
        logs: [(room(), log)].into(),
        faults: Vec::new(),
        sending: (0, SECOND),
        leaves: Vec::new(),
    }
}

fn refused(code: ErrorCode, at: Micros) -> Answer {
    let message = "no".to_owned();
    Answer {
        at,
        via: via(),
        said: Said::Refused { code, message },
    }
}

/// Judges a history that was changed.
fn after(change: impl FnOnce(&mut History)) -> Verdict {
    let mut history = right();
    change(&mut history);
    judge(&history)
}

/// The change is seen, called by its name, and by no other.
#[track_caller]
fn is_only(kind: Kind, change: impl FnOnce(&mut History)) {
    let verdict = after(change);
    let kinds: Vec<_> = verdict.counts.keys().copied().collect();
    assert_eq!(kinds, [kind], "{:#?}", verdict.violations);
}

/// The change is seen and called by its name; it may be other things as well.
#[track_caller]
fn is(kind: Kind, change: impl FnOnce(&mut History)) {
    let verdict = after(change);
    assert!(verdict.count(kind) > 0, "{:#?}", verdict.violations);
    assert!(!verdict.is_clean());
}

fn kept(history: &mut History) -> &mut Vec<Arc<Event>> {
    history.logs.get_mut(&room()).unwrap()
}

/// Changes an event everywhere: in the log, in its copy and in every view.
fn everywhere(history: &mut History, number: u64, change: impl Fn(&mut Event)) {
    let change = |event: &mut Arc<Event>| {
        if event.seq == seq(number) {
            change(Arc::make_mut(event));
        }
    };
    kept(history).iter_mut().for_each(change);
    for events in history
        .copies
        .values_mut()
        .flat_map(|logs| logs.values_mut())
    {
        events.iter_mut().for_each(change);
    }
    for step in history.views.iter_mut().flat_map(|view| &mut view.steps) {
        if let Step::Shown { event, .. } = step {
            change(event);
        }
    }
}

/// Takes an event out of the log, its copy and every view, as if it had never been; the chain is mended.
fn unmake(history: &mut History, number: u64) {
    let position = |events: &[Arc<Event>]| events.iter().position(|event| event.seq == seq(number));
    let index = position(kept(history)).unwrap();
    let (prev, next) = (
        kept(history)[index].prev,
        kept(history)[index + 1].seq.get(),
    );
    everywhere(history, next, |event| event.prev = prev);
    kept(history).remove(index);
    for events in history
        .copies
        .values_mut()
        .flat_map(|logs| logs.values_mut())
    {
        events.remove(position(events).unwrap());
    }
    for view in &mut history.views {
        view.steps
            .retain(|step| step_seq(step) != Some(seq(number)));
    }
}

fn step_seq(step: &Step) -> Option<Seq> {
    match step {
        Step::Shown { event, .. } => Some(event.seq),
        _ => None,
    }
}

/// The index of the step that showed an event.
fn step(view: &View, number: u64) -> usize {
    view.steps
        .iter()
        .position(|step| step_seq(step) == Some(seq(number)))
        .unwrap()
}

fn shown(view: &mut View, number: u64) -> &mut Event {
    let index = step(view, number);
    match &mut view.steps[index] {
        Step::Shown { event, .. } => Arc::make_mut(event),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_that_kept_every_promise_is_clean() {
    let verdict = after(|_| {});
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
    let messages = verdict.messages;
    assert_eq!(
        (messages.sent, messages.acked, messages.repeated),
        (9, 9, 2)
    );
    assert_eq!(
        (messages.fences, messages.voids, messages.resumed),
        (1, 1, 4)
    );
    assert_eq!(messages.refusals["unavailable"], 1);
}

#[test]
fn a_history_survives_a_file() {
    let text = serde_json::to_string(&right()).unwrap();
    let read: History = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
}

#[test]
fn an_acked_act_that_is_not_in_the_log_is_lost() {
    is_only(Kind::Lost, |history| {
        // The log after a crash that lost its end: nobody saw it, but it was acked.
        for view in &mut history.views {
            view.steps.pop();
        }
        history.views.pop();
        kept(history).pop();
        history.copies.clear();
    });
}

#[test]
fn an_ack_that_names_the_place_of_another_is_a_loss() {
    is_only(Kind::Lost, |history| {
        let Said::Ack { seq, .. } = &mut history.sent[3].answers[0].said else {
            panic!();
        };
        *seq = seq.next();
    });
}

#[test]
fn a_void_where_an_acked_act_stood_is_a_loss() {
    let verdict = after(|history| {
        everywhere(history, 6, |event| {
            (event.body, event.from, event.id) = (EventBody::Void {}, None, None);
        });
    });
    assert_eq!(verdict.count(Kind::Lost), 1);
}

#[test]
fn what_was_shown_and_is_not_in_the_log_was_taken_back() {
    is(Kind::TakenBack, |history| {
        history.sent.pop();
        kept(history).pop();
        history.copies.clear();
    });
}

#[test]
fn a_log_that_ends_before_a_readers_position_was_taken_back() {
    is_only(Kind::TakenBack, |history| {
        let again = Step::Resumed {
            at: 1,
            via: via(),
            asked: seq(11),
            after: seq(8),
            head: seq(8),
        };
        let at = step(&history.views[0], FENCE);
        history.views[0].steps.insert(at, again);
    });
}

#[test]
fn an_act_that_is_in_the_log_twice_is_doubled() {
    is_only(Kind::Doubled, |history| {
        let first = kept(history)
            .iter()
            .find(|event| event.seq == seq(4))
            .unwrap()
            .clone();
        history
            .sent
            .retain(|sent| sent.first_try() != Some(3 * 10_000));
        everywhere(history, 6, |event| {
            (event.body, event.id) = (first.body.clone(), first.id);
        });
    });
}

#[test]
fn an_act_that_was_never_acked_may_be_in_the_log_once_or_not_at_all() {
    let refused = || {
        vec![
            refused(ErrorCode::Unavailable, 1),
            refused(ErrorCode::NotFound, 2),
        ]
    };
    for is_kept in [true, false] {
        let verdict = after(|history| {
            history.sent[2].answers = refused();
            if !is_kept {
                unmake(history, 6);
                everywhere(history, 7, |event| event.prev = Some(seq(5)));
            }
        });
        let unexpected: Vec<_> = verdict
            .violations
            .iter()
            .filter(|violation| violation.kind != Kind::Refused && violation.seq != Some(seq(7)))
            .collect();
        assert!(unexpected.is_empty(), "{unexpected:#?}");
    }
}

#[test]
fn somebody_who_joined_twice_is_doubled() {
    is_only(Kind::Doubled, |history| {
        everywhere(history, 3, |event| {
            let EventBody::Member { user: joined, .. } = &mut event.body else {
                panic!()
            };
            *joined = user("anna");
        });
    });
}

#[test]
fn an_event_that_a_reader_was_shown_twice_is_doubled() {
    is_only(Kind::Doubled, |history| {
        let steps = &mut history.views[0].steps;
        steps.push(steps[3].clone());
    });
}

#[test]
fn two_acks_that_name_two_places_are_told() {
    is(Kind::Moved, |history| {
        let other = history.sent[4].answers[0].said.clone();
        history.sent[1].answers.push(Answer {
            at: 3 * SECOND,
            via: via(),
            said: other,
        });
    });
    is(Kind::Moved, |history| {
        let Said::Ack { at, .. } = &mut history.sent[1].answers[2].said else {
            panic!()
        };
        *at = Timestamp::from_millis(5);
    });
}

#[test]
fn a_used_id_that_takes_other_content_is_told() {
    is_only(Kind::Moved, |history| {
        let forged = ack(&kept(history)[4].clone(), 1, true);
        history.sent[1].forgeries.push(forged);
    });
    let refusals = [ErrorCode::Conflict, ErrorCode::Unavailable];
    let verdict = after(|history| {
        history.sent[1]
            .forgeries
            .extend(refusals.map(|code| refused(code, 1)));
    });
    assert!(verdict.is_clean());
}

#[test]
fn events_in_another_order_than_the_logs_are_disordered() {
    is(Kind::Disordered, |history| {
        let at = step(&history.views[0], 6);
        history.views[0].steps.swap(at, at + 1);
    });
    is(Kind::Disordered, |history| {
        let at = kept(history)
            .iter()
            .position(|event| event.seq == seq(6))
            .unwrap();
        kept(history).swap(at, at + 1);
    });
}

#[test]
fn what_was_sent_after_an_ack_stands_behind_it() {
    is_only(Kind::Disordered, |history| {
        // The first one is sent when the sixth has been acked.
        history.sent[0].tries[0].at = 66_000;
        history.sent[0].answers[0].at = 67_000;
    });
    // Sent while the other was on its way: any order will do.
    let verdict = after(|history| history.sent[0].tries[0].at = 11_000);
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
}

#[test]
fn time_that_goes_back_is_disordered() {
    is_only(Kind::Disordered, |history| {
        let early = Timestamp::from_millis(7);
        everywhere(history, 7, |event| event.at = early);
        let Said::Ack { at, .. } = &mut history.sent[3].answers[0].said else {
            panic!()
        };
        *at = early;
    });
}

#[test]
fn an_event_that_a_reader_was_not_shown_is_a_hole() {
    is_only(Kind::Hole, |history| {
        let at = step(&history.views[1], 8);
        history.views[1].steps.remove(at);
    });
}

#[test]
fn an_event_before_a_fence_that_a_reader_was_not_shown_is_a_hole() {
    // The fence names nobody, so only the log tells.
    is_only(Kind::Hole, |history| {
        let at = step(&history.views[1], 11);
        history.views[1].steps.remove(at);
    });
}

#[test]
fn a_hole_that_is_hidden_by_a_false_prev_is_a_hole() {
    is(Kind::Hole, |history| {
        let at = step(&history.views[0], 8);
        history.views[0].steps.remove(at);
        shown(&mut history.views[0], 9).prev = Some(seq(7));
    });
}

#[test]
fn a_subscription_that_begins_later_than_asked_is_a_hole() {
    is(Kind::Hole, |history| {
        let later = Step::Resumed {
            at: 0,
            via: via(),
            asked: seq(5),
            after: seq(7),
            head: seq(11),
        };
        history.views[1].steps[0] = later;
    });
}

#[test]
fn a_log_with_a_hole_is_a_broken_chain() {
    is(Kind::BrokenChain, |history| {
        kept(history).remove(4);
    });
    // A number left out and hidden by a mended chain: only a fence may jump.
    is(Kind::BrokenChain, |history| {
        unmake(history, 6);
        history
            .sent
            .retain(|sent| sent.first_try() != Some(3 * 10_000));
    });
    // Something else than a fence that names nobody.
    is(Kind::BrokenChain, |history| {
        everywhere(history, 7, |event| event.prev = None)
    });
    is(Kind::BrokenChain, |history| {
        everywhere(history, 7, |event| event.prev = Some(seq(4)))
    });
}

#[test]
fn a_log_without_its_beginning_is_a_broken_chain() {
    is(Kind::BrokenChain, |history| {
        kept(history).remove(0);
        history.views.clear();
        history.copies.clear();
    });
}

#[test]
fn a_room_that_begins_with_a_fence_is_right() {
    let verdict = after(|history| {
        let from = kept(history)
            .iter()
            .position(|event| event.seq == seq(FENCE))
            .unwrap();
        kept(history).drain(..from);
        history.copies.clear();
        history.sent.drain(..7);
        history.views = vec![view(&kept(history).clone(), 0, Source::Socket)];
    });
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
}

#[test]
fn what_was_shown_otherwise_than_it_is_kept_is_altered() {
    is_only(Kind::Altered, |history| {
        let event = shown(&mut history.views[0], 7);
        event.body = EventBody::Message {
            text: "other".to_owned(),
            reply_to: None,
            meta: None,
        };
    });
    is_only(Kind::Altered, |history| {
        shown(&mut history.views[0], 7).at = Timestamp::from_millis(8);
    });
    is_only(Kind::Altered, |history| {
        let Said::Ack { at, .. } = &mut history.sent[5].answers[0].said else {
            panic!()
        };
        *at = Timestamp::from_millis(8);
    });
}

#[test]
fn what_is_kept_otherwise_than_it_was_sent_is_altered() {
    is_only(Kind::Altered, |history| {
        everywhere(history, 7, |event| {
            let text = "other".to_owned();
            event.body = EventBody::Message {
                text,
                reply_to: None,
                meta: None,
            };
        });
    });
}

#[test]
fn what_nobody_sent_is_foreign() {
    is_only(Kind::Foreign, |history| {
        history.sent.remove(2);
    });
    is(Kind::Foreign, |history| {
        everywhere(history, 7, |event| {
            event.room = RoomId::parse("market").unwrap()
        });
    });
    is(Kind::Foreign, |history| {
        everywhere(history, 10, |event| event.from = Some(user("eve")))
    });
}

#[test]
fn a_reader_that_does_not_learn_of_the_end_is_behind() {
    is_only(Kind::Behind, |history| {
        history.views[2].steps.truncate(2);
    });
    is_only(Kind::Behind, |history| {
        let stuck = Step::Stuck {
            at: 5,
            head: seq(7),
        };
        history.views[0].steps.insert(3, stuck);
    });
    // One that left earlier does not have to know it.
    let verdict = after(|history| {
        history.views[2].steps.truncate(2);
        history.views[2].to_the_end = false;
    });
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
}

#[test]
fn what_is_never_answered_is_told() {
    is_only(Kind::Unanswered, |history| history.sent[4].answers.clear());
    is_only(Kind::Unanswered, |history| {
        history.sent[4].answers = vec![refused(ErrorCode::Overloaded, 1)];
    });
    is_only(Kind::Unanswered, |history| {
        let waiting = Step::Unanswered { at: 5 };
        history.views[0].steps.insert(3, waiting);
    });
}

#[test]
fn a_refusal_for_good_and_a_defect_are_told() {
    for code in [
        ErrorCode::NotFound,
        ErrorCode::Conflict,
        ErrorCode::Internal,
    ] {
        is_only(Kind::Refused, |history| {
            history.sent[4].answers.insert(0, refused(code, 1))
        });
    }
    is_only(Kind::Refused, |history| {
        let reason = "removed".to_owned();
        history.views[0].steps.push(Step::Closed { at: 5, reason });
    });
}

#[test]
fn places_that_do_not_hold_the_same_are_told() {
    fn copy(history: &mut History) -> &mut Vec<Arc<Event>> {
        let logs = history.copies.get_mut("the database").unwrap();
        logs.get_mut(&room()).unwrap()
    }
    is_only(Kind::Diverged, |history| {
        copy(history).pop();
    });
    is_only(Kind::Diverged, |history| {
        copy(history).remove(5);
    });
    is_only(Kind::Diverged, |history| {
        Arc::make_mut(&mut copy(history)[5]).prev = None
    });
    // A number that holds nothing is in no database.
    let verdict = after(|history| copy(history).retain(|event| event.seq != seq(10)));
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
}

#[test]
fn a_room_without_a_log_is_lost() {
    is(Kind::Lost, |history| history.logs.clear());
    is(Kind::TakenBack, |history| history.logs.clear());
}

#[test]
fn many_violations_are_all_counted_and_some_are_kept() {
    let verdict = after(|history| {
        let one = history.sent[4].clone();
        history.sent.extend((0..200).map(|_| Sent {
            answers: Vec::new(),
            ..one.clone()
        }));
    });
    assert_eq!(verdict.count(Kind::Unanswered), 200);
    assert_eq!(verdict.violations.len(), super::KEPT_MAX);
}

#[test]
fn seconds_without_an_ack_are_counted_per_fault() {
    let verdict = after(|history| {
        // One act every 100 ms, none acked between 2.0 s and 5.5 s.
        let template = history.sent[0].clone();
        history.sent = (0..100)
            .map(|n| n * 100_000)
            .filter(|at| !(2 * SECOND..5_500_000).contains(at))
            .map(|at| {
                let mut sent = template.clone();
                (sent.tries[0].at, sent.answers[0].at) = (at, at + 1000);
                sent
            })
            .collect();
        let injection = |run, at, healed| Injection {
            fault: "test".to_owned(),
            run,
            what: String::new(),
            at,
            healed,
        };
        history.faults = vec![
            injection(0, SECOND, SECOND),
            injection(1, 2 * SECOND, 4 * SECOND),
            injection(2, 9_950_000, 10 * SECOND),
        ];
        history.sending = (0, 10 * SECOND);
    });
    let outage = verdict.outage;
    assert_eq!(outage.unavailable_secs, 3);
    assert_eq!(outage.longest_gap_ms, 3600);
    assert_eq!(outage.slowest_ack_ms, 1);
    let runs: Vec<_> = outage
        .runs
        .iter()
        .map(|run| (run.unavailable_secs, run.longest_gap_ms, run.recovery_ms))
        .collect();
    assert_eq!(runs[0], (0, 100, Some(1)));
    assert_eq!(runs[1], (3, 3501, Some(1501)));
    assert_eq!(runs[2], (0, 50, None));
    assert_eq!(outage.slowest_recovery_ms, 1501);
}
