//! A small world with a log, a network that loses and breaks, and the engine in it. Whatever happens in whatever order,
//! once the trouble ends every event was delivered once and in order, and every act was kept once and in order.

use std::collections::VecDeque;
use std::sync::Arc;

use client::engine::{Act, Config, Effect, Engine, Input, Moment, OutboxState, Saved};
use proptest::prelude::*;
use protocol::{
    ClientFrame, ErrorCode, ErrorFrame, Event, EventBody, GoawayReason, Limits, MessageId, RoomId,
    Send, Seq, ServerFrame, SessionId, SubscribeRoom, Subscribed, Timestamp, UserId, Welcome,
};

fn room() -> RoomId {
    RoomId::parse("general").unwrap()
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

/// One connection: what is on its way in both directions, and from where the server still has to send.
struct Wire {
    conn: u64,
    opened: bool,
    up: VecDeque<ClientFrame>,
    down: VecDeque<ServerFrame>,
    /// The next index of the log for this subscriber.
    cursor: Option<usize>,
}

struct World {
    now: u64,
    random: f64,
    engine: Engine,
    log: Vec<Arc<Event>>,
    wires: Vec<Wire>,
    submitted: Vec<MessageId>,
    delivered: Vec<Seq>,
    sent: Vec<MessageId>,
}

impl World {
    fn new() -> Self {
        let config = Config {
            hold_max: 3,
            fetch_limit: 2,
            ..Config::default()
        };
        let mut world = Self {
            now: 0,
            random: 0.5,
            engine: Engine::new(config, Saved::default()),
            log: Vec::new(),
            wires: Vec::new(),
            submitted: Vec::new(),
            delivered: Vec::new(),
            sent: Vec::new(),
        };
        let rooms = vec![SubscribeRoom {
            room: room(),
            after: Some(Seq::ZERO),
        }];
        world.input(Input::Subscribe { rooms });
        world.input(Input::Start { hello: None });
        world
    }

    fn input(&mut self, input: Input) {
        let moment = Moment {
            now_ms: self.now,
            random: self.random,
        };
        for effect in self.engine.handle(input, moment) {
            match effect {
                Effect::Connect { conn } => self.wires.push(Wire {
                    conn,
                    opened: false,
                    up: VecDeque::new(),
                    down: VecDeque::new(),
                    cursor: None,
                }),
                Effect::Close { conn } => self.wires.retain(|wire| wire.conn != conn),
                Effect::SendFrame { conn, frame } => {
                    let wire = self.wires.iter_mut().find(|wire| wire.conn == conn);
                    wire.expect("frames go to open sockets only")
                        .up
                        .push_back(frame);
                }
                Effect::Deliver { event } => self.delivered.push(event.seq),
                Effect::Outbox {
                    id,
                    state: OutboxState::Sent { .. },
                } => self.sent.push(id),
                Effect::Outbox {
                    state: OutboxState::Failed { code, .. },
                    ..
                } => panic!("an act was given back: {code}"),
                Effect::ResetRoom { .. } | Effect::RoomClosed { .. } => panic!("{effect:?}"),
                Effect::Status(_) | Effect::Signal { .. } | Effect::Outbox { .. } => {}
            }
        }
    }

    fn append(&mut self, from: &str, id: MessageId, text: String) -> Seq {
        let last = self.log.last().map_or(Seq::ZERO, |event| event.seq);
        self.push(Event {
            room: room(),
            seq: last.next(),
            prev: Some(last),
            at: Timestamp::from_millis(0),
            from: Some(user(from)),
            id: Some(id),
            body: EventBody::Message {
                text,
                reply_to: None,
                meta: None,
            },
        })
    }

    fn fence(&mut self) -> Seq {
        let last = self.log.last().map_or(0, |event| event.seq.get());
        self.push(Event {
            room: room(),
            seq: Seq::new(last + 1000).unwrap(),
            prev: None,
            at: Timestamp::from_millis(0),
            from: None,
            id: None,
            body: EventBody::Fence {},
        })
    }

    fn push(&mut self, event: Event) -> Seq {
        let seq = event.seq;
        self.log.push(Arc::new(event));
        seq
    }

    fn after(&self, seq: Seq) -> usize {
        self.log.partition_point(|event| event.seq <= seq)
    }

    /// The server of wire `index` handles its next frame.
    fn serve(&mut self, index: usize, refuse: bool) {
        let Some(frame) = self.wires[index].up.pop_front() else {
            return;
        };
        let head = self.log.last().map_or(Seq::ZERO, |event| event.seq);
        let answer = match frame {
            ClientFrame::Subscribe(subscribe) => {
                let after = subscribe.rooms[0].after.unwrap_or(head);
                self.wires[index].cursor = Some(self.after(after));
                ServerFrame::Subscribed(Subscribed {
                    reference: subscribe.reference,
                    room: room(),
                    head,
                    after,
                    read: Seq::ZERO,
                    members: 1,
                    online: Vec::new(),
                })
            }
            ClientFrame::Fetch(fetch) if refuse => ServerFrame::Error(ErrorFrame {
                reference: fetch.reference,
                ..ErrorFrame::new(ErrorCode::Unavailable, "later")
            }),
            ClientFrame::Fetch(fetch) => {
                let from = self.after(fetch.after);
                let to = (from + fetch.limit as usize).min(self.log.len());
                ServerFrame::Events {
                    reference: fetch.reference,
                    room: room(),
                    events: self.log[from..to].to_vec(),
                    head,
                    more: to < self.log.len(),
                }
            }
            ClientFrame::Send(send) if refuse => ServerFrame::Error(ErrorFrame {
                id: Some(send.id),
                retry_after_ms: Some(100),
                ..ErrorFrame::new(ErrorCode::Overloaded, "later")
            }),
            ClientFrame::Send(send) => {
                let known = self.log.iter().find(|event| event.id == Some(send.id));
                let known = known.map(|event| event.seq);
                let seq = known.unwrap_or_else(|| self.append("alice", send.id, send.text));
                ServerFrame::Ack {
                    id: send.id,
                    room: room(),
                    seq,
                    at: Timestamp::from_millis(0),
                    duplicate: known.is_some(),
                }
            }
            _ => return,
        };
        self.wires[index].down.push_back(answer);
    }

    /// The server of wire `index` sends the next event of the log.
    fn stream(&mut self, index: usize) {
        let wire = &mut self.wires[index];
        if let Some(cursor) = wire.cursor.filter(|cursor| *cursor < self.log.len()) {
            let event = self.log[cursor].clone();
            wire.down.push_back(ServerFrame::Event(event));
            wire.cursor = Some(cursor + 1);
        }
    }

    /// The client receives the next frame of wire `index`.
    fn receive(&mut self, index: usize) {
        let wire = &mut self.wires[index];
        let conn = wire.conn;
        if !wire.opened {
            wire.opened = true;
            wire.down.push_back(ServerFrame::Welcome(Welcome {
                session: SessionId::generate(),
                user: user("alice"),
                time: Timestamp::from_millis(0),
                heartbeat_secs: 25,
                limits: Limits::default(),
            }));
            self.input(Input::Opened { conn });
        } else if let Some(frame) = wire.down.pop_front() {
            self.input(Input::Frame { conn, frame });
        }
    }

    fn heads(&mut self, index: usize) {
        if let Some(head) = self.log.last() {
            let rooms = [(room(), head.seq)].into();
            self.wires[index]
                .down
                .push_back(ServerFrame::Heads { rooms });
        }
    }

    fn sleep(&mut self) {
        if let Some(at) = self.engine.wake_at() {
            self.now = self.now.max(at);
            self.input(Input::Tick {});
        }
    }

    fn step(&mut self, action: u8, dice: u8) {
        self.random = f64::from(dice) / 256.0;
        self.now += u64::from(dice) / 8;
        let wire = match self.wires.len() {
            0 => None,
            count => Some(usize::from(dice) % count),
        };
        match (action % 20, wire) {
            (0..=4, Some(wire)) => self.receive(wire),
            (5..=7, Some(wire)) => self.serve(wire, false),
            (8..=10, Some(wire)) => self.stream(wire),
            (11, Some(wire)) => self.serve(wire, true),
            (12, Some(wire)) => {
                let conn = self.wires.remove(wire).conn;
                self.input(Input::Closed {
                    conn,
                    code: None,
                    reason: None,
                });
            }
            // An event, a page or an ack is lost, which should not happen and does.
            (13, Some(wire)) => {
                if self.wires[wire].opened {
                    let welcome = |frame: &ServerFrame| matches!(frame, ServerFrame::Welcome(_));
                    let down = &mut self.wires[wire].down;
                    if !down.front().is_none_or(welcome) {
                        down.pop_front();
                    }
                }
            }
            (14, Some(wire)) => self.heads(wire),
            (15, Some(wire)) => self.wires[wire].down.push_back(ServerFrame::Goaway {
                reconnect_in_ms: u64::from(dice),
                reason: GoawayReason::Rollout,
            }),
            (16, _) => {
                let id = MessageId::generate();
                self.submitted.push(id);
                let send = Send {
                    id,
                    room: Some(room()),
                    to: None,
                    text: "x".to_owned(),
                    reply_to: None,
                    meta: None,
                };
                let act = Act::Send(send);
                self.input(Input::Submit { act });
            }
            (17, _) => {
                self.append("bob", MessageId::generate(), "y".to_owned());
            }
            (18, _) if dice < 64 => {
                self.fence();
            }
            _ => self.sleep(),
        }
    }

    /// The trouble is over: everything that is on its way arrives.
    fn settle(&mut self) {
        self.random = 0.5;
        for _ in 0..200 {
            for _ in 0..20 {
                let mut index = 0;
                while index < self.wires.len() {
                    self.receive(index);
                    if index < self.wires.len() {
                        self.serve(index, false);
                        self.stream(index);
                    }
                    index += 1;
                }
            }
            (0..self.wires.len()).for_each(|index| self.heads(index));
            self.sleep();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_arrives_once_and_in_order(steps in prop::collection::vec(any::<(u8, u8)>(), 0..400)) {
        let mut world = World::new();
        for (action, dice) in steps {
            world.step(action, dice);
            let known: Vec<Seq> = world.log.iter().map(|event| event.seq).collect();
            prop_assert!(known.starts_with(&world.delivered), "{:?} of {known:?}", world.delivered);
        }
        world.settle();
        let known: Vec<Seq> = world.log.iter().map(|event| event.seq).collect();
        prop_assert_eq!(&world.delivered, &known);
        let kept: Vec<MessageId> = world
            .log
            .iter()
            .filter(|event| event.from == Some(user("alice")))
            .filter_map(|event| event.id)
            .collect();
        prop_assert_eq!(&kept, &world.submitted, "kept once, in order");
        prop_assert_eq!(&world.sent, &world.submitted, "acknowledged once, in order");
        prop_assert_eq!(world.engine.saved().outbox.len(), 0);
    }
}
