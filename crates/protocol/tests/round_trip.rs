//! Every frame and event survives being written and read, and nothing that is read makes the readers panic.

use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use protocol::*;
use serde_json::Value;

fn seq() -> impl Strategy<Value = Seq> {
    prop_oneof![Just(0), Just(1), Just(Seq::MAX.get()), 0..=Seq::MAX.get()]
        .prop_map(|number| Seq::new(number).unwrap())
}

fn user() -> impl Strategy<Value = UserId> {
    "[a-z0-9][a-z0-9._-]{0,63}".prop_map(|text| UserId::parse(&text).unwrap())
}

fn room() -> impl Strategy<Value = RoomId> {
    "[a-z0-9][a-z0-9-]{0,63}".prop_map(|text| RoomId::parse(&text).unwrap())
}

fn id() -> impl Strategy<Value = MessageId> {
    any::<[u8; 16]>().prop_map(MessageId::from_bytes)
}

fn session() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId::from_bytes)
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![any::<i64>(), 0..=4_102_444_800_000_i64].prop_map(Timestamp::from_millis)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ -~]{0,40}",
        "[\\PC\u{0}-\u{1f}\u{202e}👍]{0,20}"
    ]
}

fn reference() -> impl Strategy<Value = Option<String>> {
    option::of("[\\PC]{0,64}".prop_map(|text| text.chars().take(64).collect()))
}

fn meta() -> impl Strategy<Value = Option<Meta>> {
    option::of(btree_map(text(), text(), 0..4))
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Member), Just(Role::Admin), Just(Role::Owner)]
}

fn body() -> impl Strategy<Value = EventBody> {
    use {MemberChange as M, RoomChange as R};
    let member = prop_oneof![
        Just(M::Joined),
        Just(M::Left),
        Just(M::Removed),
        Just(M::Role)
    ];
    let change = prop_oneof![
        Just(R::Created),
        Just(R::Renamed),
        Just(R::Topic),
        Just(R::Deleted)
    ];
    prop_oneof![
        (text(), option::of(seq()), meta()).prop_map(|(text, reply_to, meta)| {
            EventBody::Message {
                text,
                reply_to,
                meta,
            }
        }),
        (seq(), text()).prop_map(|(target, text)| EventBody::Edit { target, text }),
        seq().prop_map(|target| EventBody::Delete { target }),
        (seq(), text(), any::<bool>()).prop_map(|(target, emoji, on)| EventBody::Reaction {
            target,
            emoji,
            on
        }),
        (user(), member, option::of(role())).prop_map(|(user, change, role)| EventBody::Member {
            user,
            change,
            role
        }),
        (change, option::of(text()), option::of(text())).prop_map(|(change, name, topic)| {
            EventBody::Room {
                change,
                name,
                topic,
            }
        }),
        Just(EventBody::Fence {}),
        Just(EventBody::Void {}),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let place = (room(), seq(), option::of(seq()), time());
    (place, option::of(user()), option::of(id()), body()).prop_map(
        |((room, seq, prev, at), from, id, body)| Event {
            room,
            seq,
            prev,
            at,
            from,
            id,
            body,
        },
    )
}

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    let position = || (room(), seq()).prop_map(|(room, seq)| Position { room, seq });
    let entry = (room(), option::of(seq())).prop_map(|(room, after)| SubscribeRoom { room, after });
    prop_oneof![
        (option::of(text()), option::of(user()), option::of(text())).prop_map(
            |(token, user, client)| ClientFrame::Hello(Hello {
                token,
                user,
                client
            })
        ),
        (reference(), vec(entry, 0..5)).prop_map(|(reference, rooms)| {
            ClientFrame::Subscribe(Subscribe { reference, rooms })
        }),
        (reference(), vec(room(), 0..5)).prop_map(|(reference, rooms)| {
            ClientFrame::Unsubscribe(Unsubscribe { reference, rooms })
        }),
        (
            (id(), option::of(room()), option::of(user())),
            text(),
            option::of(seq()),
            meta()
        )
            .prop_map(|((id, room, to), text, reply_to, meta)| {
                ClientFrame::Send(Send {
                    id,
                    room,
                    to,
                    text,
                    reply_to,
                    meta,
                })
            }),
        (id(), room(), seq(), text()).prop_map(|(id, room, seq, text)| ClientFrame::Edit(Edit {
            id,
            room,
            seq,
            text
        })),
        (id(), room(), seq()).prop_map(|(id, room, seq)| ClientFrame::Delete(Delete {
            id,
            room,
            seq
        })),
        (id(), room(), seq(), text(), any::<bool>()).prop_map(|(id, room, seq, emoji, on)| {
            ClientFrame::React(React {
                id,
                room,
                seq,
                emoji,
                on,
            })
        }),
        position().prop_map(ClientFrame::Received),
        position().prop_map(ClientFrame::Read),
        (room(), any::<bool>()).prop_map(|(room, on)| ClientFrame::Typing(Typing { room, on })),
        (reference(), room(), seq(), any::<u32>()).prop_map(|(reference, room, after, limit)| {
            ClientFrame::Fetch(Fetch {
                reference,
                room,
                after,
                limit,
            })
        }),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    // Sizes are kept where every JSON reader keeps them exactly.
    let size = || 0..1_usize << 32;
    (
        (size(), size(), size()),
        (size(), size(), size()),
        any::<(u32, u32)>(),
    )
        .prop_map(|(bytes, counts, sends)| Limits {
            frame_bytes: bytes.0,
            text_bytes: bytes.1,
            meta_bytes: bytes.2,
            subscriptions: counts.0,
            subscribe_rooms: counts.1,
            fetch_events: counts.2,
            sends_per_sec: sends.0,
            sends_burst: sends.1,
        })
}

fn error() -> impl Strategy<Value = ErrorFrame> {
    let about = (reference(), option::of(id()), option::of(room()));
    let code = (0..ErrorCode::ALL.len()).prop_map(|index| ErrorCode::ALL[index]);
    (about, code, text(), option::of(0..1_u64 << 53)).prop_map(
        |((reference, id, room), code, message, retry_after_ms)| ErrorFrame {
            reference,
            id,
            room,
            code,
            message,
            retry_after_ms,
        },
    )
}

fn server_frame() -> impl Strategy<Value = ServerFrame> {
    use {GoawayReason as G, NoticeKind as N, Status as S};
    let status = prop_oneof![
        Just(S::Online),
        Just(S::Away),
        Just(S::Offline),
        Just(S::Unknown)
    ];
    let notice = prop_oneof![
        Just(N::RoomAdded),
        Just(N::RoomRemoved),
        Just(N::RoomDeleted),
        Just(N::SessionRevoked)
    ];
    let reason = prop_oneof![Just(G::Rollout), Just(G::Overload), Just(G::TokenExpired)];
    let welcome = (session(), user(), time(), 1..3600_u64, limits());
    let place = (room(), seq(), seq(), seq());
    prop_oneof![
        welcome.prop_map(|(session, user, time, heartbeat_secs, limits)| {
            ServerFrame::Welcome(Welcome {
                session,
                user,
                time,
                heartbeat_secs,
                limits,
            })
        }),
        (reference(), place, 0..100_000_u64, vec(user(), 0..5)).prop_map(
            |(reference, (room, head, after, read), members, online)| {
                ServerFrame::Subscribed(Subscribed {
                    reference,
                    room,
                    head,
                    after,
                    read,
                    members,
                    online,
                })
            }
        ),
        (reference(), vec(room(), 0..5))
            .prop_map(|(reference, rooms)| ServerFrame::Unsubscribed { reference, rooms }),
        event().prop_map(|event| ServerFrame::Event(Arc::new(event))),
        (
            reference(),
            room(),
            vec(event(), 0..4),
            seq(),
            any::<bool>()
        )
            .prop_map(
                |(reference, room, events, head, more)| ServerFrame::Events {
                    reference,
                    room,
                    events: events.into_iter().map(Arc::new).collect(),
                    head,
                    more,
                }
            ),
        (id(), room(), seq(), time(), any::<bool>()).prop_map(|(id, room, seq, at, duplicate)| {
            ServerFrame::Ack {
                id,
                room,
                seq,
                at,
                duplicate,
            }
        }),
        error().prop_map(ServerFrame::Error),
        (room(), user(), seq(), seq()).prop_map(|(room, user, received, read)| {
            ServerFrame::Receipt {
                room,
                user,
                received,
                read,
            }
        }),
        (room(), user(), any::<bool>()).prop_map(|(room, user, on)| ServerFrame::Typing {
            room,
            user,
            on
        }),
        (user(), status, option::of(time())).prop_map(|(user, status, last_seen)| {
            ServerFrame::Presence {
                user,
                status,
                last_seen,
            }
        }),
        (notice, option::of(room())).prop_map(|(kind, room)| ServerFrame::Notice { kind, room }),
        btree_map(room(), seq(), 0..5).prop_map(|rooms| ServerFrame::Heads { rooms }),
        (0..1_u64 << 53, reason).prop_map(|(reconnect_in_ms, reason)| ServerFrame::Goaway {
            reconnect_in_ms,
            reason
        }),
    ]
}

/// Any JSON, a few levels deep.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(text(), inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Puts `graft` in the place of the `at`-th value of `tree`, counted through all levels.
fn mutate(tree: &mut Value, at: &mut usize, graft: &Value) {
    if *at == 0 {
        *tree = graft.clone();
        *at = usize::MAX;
        return;
    }
    *at -= 1;
    match tree {
        Value::Array(items) => items.iter_mut().for_each(|item| mutate(item, at, graft)),
        Value::Object(fields) => fields.values_mut().for_each(|item| mutate(item, at, graft)),
        _ => {}
    }
}

fn read_everything(json: &[u8]) {
    let _ = ClientFrame::decode(json);
    let _ = ServerFrame::decode(json);
    let _ = serde_json::from_slice::<Event>(json);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_frame_is_read_as_it_was_written(frame in client_frame()) {
        prop_assert_eq!(ClientFrame::decode(frame.encode().as_bytes()).unwrap(), frame);
    }

    #[test]
    fn a_server_frame_is_read_as_it_was_written(frame in server_frame()) {
        prop_assert_eq!(ServerFrame::decode(frame.encode().as_bytes()).unwrap(), frame);
    }

    #[test]
    fn the_short_way_to_write_an_event_is_the_same(event in event()) {
        let short: Value = serde_json::from_slice(&encode_event(&event)).unwrap();
        let frame = ServerFrame::Event(Arc::new(event));
        prop_assert_eq!(short, serde_json::to_value(&frame).unwrap());
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in vec(any::<u8>(), 0..200)) {
        read_everything(&bytes);
    }

    #[test]
    fn a_damaged_frame_makes_nobody_panic(
        frame in prop_oneof![
            client_frame().prop_map(|frame| frame.encode()),
            server_frame().prop_map(|frame| frame.encode()),
        ],
        at in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        graft in json(),
    ) {
        let mut bytes = frame.clone().into_bytes();
        bytes.truncate(cut.index(bytes.len() + 1));
        read_everything(&bytes);
        let mut bytes = frame.clone().into_bytes();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        read_everything(&bytes);
        let mut tree: Value = serde_json::from_str(&frame).unwrap();
        mutate(&mut tree, &mut at.index(20), &graft);
        read_everything(tree.to_string().as_bytes());
    }

    #[test]
    fn unknown_fields_change_nothing(frame in client_frame(), extra in json()) {
        let mut tree: Value = serde_json::from_str(&frame.encode()).unwrap();
        tree["a_field_of_the_future"] = extra;
        prop_assert_eq!(ClientFrame::decode(tree.to_string().as_bytes()).unwrap(), frame);
    }

    #[test]
    fn an_answer_to_a_bad_frame_names_what_it_answers(id in id(), graft in json()) {
        prop_assume!(!graft.is_string());
        let frame = serde_json::json!({"type": "send", "id": id, "ref": "r", "room": "general", "text": graft});
        let bad = ClientFrame::decode(frame.to_string().as_bytes()).unwrap_err();
        prop_assert_eq!(bad.id, Some(id));
        prop_assert_eq!(bad.reference.as_deref(), Some("r"));
        prop_assert_eq!(bad.into_error().code, ErrorCode::BadRequest);
    }

    #[test]
    fn a_time_is_read_as_it_was_written(time in time()) {
        prop_assert_eq!(Timestamp::parse(&time.to_string()).unwrap(), time);
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in any::<String>()) {
        let _ = (UserId::parse(&text), RoomId::parse(&text), MessageId::parse(&text));
        let _ = (SessionId::parse(&text), Timestamp::parse(&text));
    }
}
