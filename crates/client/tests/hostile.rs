//! A server that answers anything at any time, and a socket that opens and closes as it likes. The engine may not panic,
//! spin, talk to a socket it does not have, deliver out of order, or keep more than its bounds.

use std::collections::{BTreeMap, BTreeSet};

use client::engine::{Act, Config, Effect, Engine, Input, Moment, OutboxState, Saved};
use proptest::prelude::*;
use protocol::{MessageId, RoomId, Seq, ServerFrame};
use serde_json::{Value, json};

const TIME: &str = "2026-11-21T11:00:00.000Z";

fn id(number: u64) -> String {
    format!("0198c0de-0000-7000-8000-{number:012}")
}

fn room() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c")]
}

fn reference() -> impl Strategy<Value = String> {
    (0..12_u8).prop_map(|number| number.to_string())
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..12_u64, 1 => Just(Seq::MAX.get()), 1 => Just(4_294_967_297)]
}

fn millis() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..5000_u64, 1 => Just(u64::MAX), 1 => Just(0)]
}

fn event() -> impl Strategy<Value = Value> {
    let prev = prop::option::of(number());
    let from = prop_oneof![Just("alice"), Just("bob")];
    (room(), number(), prev, from, 0..6_u64).prop_map(|(room, seq, prev, from, own)| {
        json!({"type": "event", "room": room, "seq": seq, "prev": prev, "at": TIME, "from": from, "id": id(own),
            "kind": "message", "text": "x"})
    })
}

fn frame() -> impl Strategy<Value = Value> {
    let code = prop_oneof![
        Just("bad_request"),
        Just("not_found"),
        Just("rate_limited"),
        Just("unavailable"),
        Just("internal"),
        Just("unauthenticated"),
    ];
    let limits = (
        prop_oneof![Just(0), Just(100), Just(65_536)],
        0..3_u32,
        0..3_u32,
    );
    let about = (
        prop::option::of(reference()),
        prop::option::of(0..6_u64),
        prop::option::of(room()),
    );
    let kind = prop_oneof![
        Just("room_removed"),
        Just("room_deleted"),
        Just("session_revoked")
    ];
    prop_oneof![
        (limits, millis()).prop_map(|((frame, rooms, events), heartbeat)| json!({
            "type": "welcome", "session": id(0), "user": "alice", "time": TIME, "heartbeat_secs": heartbeat,
            "limits": {"frame_bytes": frame, "text_bytes": 0, "meta_bytes": 0, "subscriptions": 0,
                "subscribe_rooms": rooms, "fetch_events": events, "sends_per_sec": 0, "sends_burst": 0}
        })),
        (reference(), room(), number(), number(), number()).prop_map(|(reference, room, head, after, read)| json!({
            "type": "subscribed", "ref": reference, "room": room, "head": head, "after": after, "read": read,
            "members": 1, "online": []
        })),
        event(),
        event(),
        (reference(), room(), prop::collection::vec(event(), 0..4), number()).prop_map(
            |(reference, room, events, head)| json!({
                "type": "events", "ref": reference, "room": room, "events": events, "head": head, "more": true
            })
        ),
        (0..6_u64, room(), number())
            .prop_map(|(own, room, seq)| json!({"type": "ack", "id": id(own), "room": room, "seq": seq, "at": TIME})),
        (about, code, prop::option::of(millis())).prop_map(|((reference, own, room), code, wait)| json!({
            "type": "error", "ref": reference, "id": own.map(id), "room": room, "code": code, "message": "no",
            "retry_after_ms": wait
        })),
        prop::collection::btree_map(room(), number(), 0..3)
            .prop_map(|rooms| json!({"type": "heads", "rooms": rooms})),
        millis().prop_map(|wait| json!({"type": "goaway", "reconnect_in_ms": wait, "reason": "rollout"})),
        (kind, prop::option::of(room()))
            .prop_map(|(kind, room)| json!({"type": "notice", "kind": kind, "room": room})),
    ]
}

fn input() -> impl Strategy<Value = Value> {
    let conn = 1..6_u64;
    let submit = (0..6_u64, room()).prop_map(|(own, room)| {
        json!({"submit": {"act": {"type": "send", "id": id(own), "room": room, "text": "x"}}})
    });
    let close = prop_oneof![Just(None), Just(Some(1012)), Just(Some(4401))];
    prop_oneof![
        12 => (conn.clone(), frame()).prop_map(|(conn, frame)| json!({"frame": {"conn": conn, "frame": frame}})),
        2 => conn.clone().prop_map(|conn| json!({"opened": {"conn": conn}})),
        2 => (conn, close).prop_map(|(conn, code)| json!({"closed": {"conn": conn, "code": code}})),
        2 => submit,
        2 => (room(), prop::option::of(number()))
            .prop_map(|(room, after)| json!({"subscribe": {"rooms": [{"room": room, "after": after}]}})),
        1 => room().prop_map(|room| json!({"unsubscribe": {"rooms": [room]}})),
        1 => (room(), number()).prop_map(|(room, seq)| json!({"read": {"room": room, "seq": seq}})),
        1 => Just(json!({"retry_now": {}})),
        2 => Just(json!({"start": {}})),
        6 => Just(json!({"tick": {}})),
    ]
}

#[derive(Default)]
struct Observer {
    open: BTreeSet<u64>,
    asked: u64,
    positions: BTreeMap<RoomId, Seq>,
    settled: BTreeMap<MessageId, u32>,
    queued: BTreeMap<MessageId, u32>,
}

impl Observer {
    fn watch(&mut self, effect: &Effect) -> Result<(), TestCaseError> {
        match effect {
            Effect::Connect { conn } => {
                self.asked += 1;
                prop_assert_eq!(*conn, self.asked);
                self.open.insert(*conn);
                prop_assert!(self.open.len() <= 2, "too many sockets");
            }
            Effect::Close { conn } => prop_assert!(self.open.remove(conn), "closed twice"),
            Effect::SendFrame { conn, .. } => prop_assert!(self.open.contains(conn)),
            Effect::Deliver { event } => {
                let before = self.positions.insert(event.room.clone(), event.seq);
                prop_assert!(
                    before.is_none_or(|before| before < event.seq),
                    "out of order"
                );
            }
            Effect::ResetRoom { room, .. } | Effect::RoomClosed { room, .. } => {
                self.positions.remove(room);
            }
            Effect::Outbox { id, state } => match state {
                // The first time; later it is one that goes back from `sending`.
                OutboxState::Queued => *self.queued.entry(*id).or_default() += 1,
                OutboxState::Sent { .. } | OutboxState::Failed { .. } => {
                    *self.settled.entry(*id).or_default() += 1;
                    let queued = self.queued.get(id).copied().unwrap_or_default();
                    prop_assert!(self.settled[id] <= queued, "settled without being queued");
                }
                OutboxState::Sending | OutboxState::Waiting { .. } => {}
            },
            Effect::Status(_) | Effect::Signal { .. } => {}
        }
        Ok(())
    }
}

fn parse(value: &Value) -> Input {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_a_server_does_confuses_the_engine(
        inputs in prop::collection::vec((input(), 0..3000_u64, 0.0..1.0_f64), 0..150),
    ) {
        let config = Config { hold_max: 2, outbox_max: 6, internal_max: 2, ..Config::default() };
        let mut engine = Engine::new(config, Saved::default());
        let mut observer = Observer::default();
        let mut now = 0;
        for (value, wait, random) in inputs {
            now += wait;
            if value.get("tick").is_some() {
                now = now.max(engine.wake_at().unwrap_or(now));
            }
            if let Some(closed) = value.get("closed") {
                observer.open.remove(&closed["conn"].as_u64().unwrap());
            }
            if let Some(room) = value["unsubscribe"]["rooms"][0].as_str() {
                observer.positions.remove(&RoomId::parse(room).unwrap());
            }
            let moment = Moment { now_ms: now, random };
            for effect in engine.handle(parse(&value), moment) {
                observer.watch(&effect)?;
            }
            if value.get("tick").is_some() {
                // A backoff may be zero, so a tick may be due again at once, but not for ever.
                for _ in 0..20 {
                    if engine.wake_at().is_some_and(|at| at <= now) {
                        let moment = Moment { now_ms: now, random: 0.5 };
                        for effect in engine.handle(Input::Tick {}, moment) {
                            observer.watch(&effect)?;
                        }
                    }
                }
                prop_assert!(engine.wake_at().is_none_or(|at| at > now), "it spins");
            }
            let saved = engine.saved();
            prop_assert!(saved.outbox.len() <= 6);
            let ids: BTreeSet<MessageId> = saved.outbox.iter().map(Act::id).collect();
            prop_assert_eq!(ids.len(), saved.outbox.len(), "an id twice");
        }
    }

    #[test]
    fn frames_of_the_test_are_frames(frame in frame()) {
        prop_assert!(ServerFrame::decode(frame.to_string().as_bytes()).is_ok(), "{frame}");
    }
}
