//! Sees every delivery: measures it and checks what was promised.
//!
//! No loss, no duplicate, one order: each member counts what it got, adds up the message numbers and keeps a hash of
//! their order, which must come out the same for all members of a room; and `seq` and `prev` of every event must
//! continue the member's position.

use crate::driver::{Handler, Outbox};
use crate::histogram::Histogram;
use crate::stamp::Stamp;
use crate::target::{self, Kind, Protocol, Target};

/// One connection, in one room.
#[derive(Clone, Default)]
pub struct Member {
    pub room: u32,
    pub joined: bool,
    /// Seq of the last event seen.
    pub position: u64,
    /// Joins with this position.
    pub after: Option<u64>,
    pub got: u32,
    /// When this member got its last message.
    pub last_at: u64,
    sum: u64,
    order: u64,
    /// Socket.IO: what a client needs to recover, and the place of its last message.
    pub session: String,
    pub offset: String,
}

pub struct Watch {
    pub target: Target,
    pub rooms: Vec<String>,
    pub members: Vec<Member>,
    /// Length of the texts.
    pub bytes: usize,
    /// The current run; what bears another number is not measured.
    pub run: u16,
    /// Messages due in this time are measured.
    pub window: std::ops::Range<u64>,
    /// When each message of the run was due.
    pub dues: Vec<u64>,
    /// Per room, what was sent in this run.
    pub sent: Vec<Sent>,
    pub delivery: Histogram,
    /// The same by the pod of the member, in the order of the target's addresses.
    pub delivery_by_pod: Vec<Histogram>,
    pub ack: Histogram,
    /// Deliveries of this run.
    pub delivered: u64,
    pub delivered_bytes: u64,
    /// Frames of any kind.
    pub frames: u64,
    pub acked: u64,
    pub refused: u64,
    pub joined: usize,
    pub closed: usize,
    /// The longest any delivery of this run took.
    pub slowest: u64,
    pub last_delivery_at: u64,
    pub faults: Faults,
}

/// The messages of one room in a run.
#[derive(Clone, Copy, Default)]
pub struct Sent {
    pub count: u32,
    pub sum: u64,
}

/// Broken promises and other trouble, each with its first example.
#[derive(Default)]
pub struct Faults(pub std::collections::BTreeMap<&'static str, (u64, String)>);

/// A message the server would not take, and said so: too much load, but no promise is broken.
pub const REFUSED: &str = "refused message";

impl Faults {
    pub fn add(&mut self, kind: &'static str, example: impl FnOnce() -> String) {
        self.0.entry(kind).or_insert_with(|| (0, example())).0 += 1;
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines_but("")
    }

    /// All but one kind.
    pub fn lines_but(&self, kind: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(other, _)| **other != kind)
            .map(|(kind, (count, example))| format!("{kind}: {count} ×, first: {example}"))
            .collect()
    }
}

impl Watch {
    pub fn new(target: &Target, rooms: Vec<String>, members_per_room: usize, bytes: usize) -> Self {
        let members = (0..rooms.len() * members_per_room)
            .map(|index| Member {
                room: (index / members_per_room) as u32,
                ..Member::default()
            })
            .collect();
        Self {
            target: target.clone(),
            sent: vec![Sent::default(); rooms.len()],
            rooms,
            members,
            bytes,
            run: 0,
            window: 0..0,
            dues: Vec::new(),
            delivery: Histogram::default(),
            delivery_by_pod: Vec::new(),
            ack: Histogram::default(),
            delivered: 0,
            delivered_bytes: 0,
            frames: 0,
            acked: 0,
            refused: 0,
            joined: 0,
            closed: 0,
            slowest: 0,
            last_delivery_at: 0,
            faults: Faults::default(),
        }
    }

    /// Forgets the figures of the last run.
    pub fn begin_run(&mut self) {
        self.run = self.run.wrapping_add(1);
        self.dues.clear();
        self.sent.fill(Sent::default());
        self.delivery = Histogram::default();
        let pods = self.target.addrs.len();
        self.delivery_by_pod = std::iter::repeat_with(Histogram::default)
            .take(pods)
            .collect();
        self.ack = Histogram::default();
        (
            self.delivered,
            self.delivered_bytes,
            self.acked,
            self.refused,
        ) = (0, 0, 0, 0);
        (self.slowest, self.last_delivery_at) = (0, 0);
        for member in &mut self.members {
            (member.got, member.sum, member.order, member.last_at) = (0, 0, 0, 0);
        }
    }

    /// Notes that the next message of the run goes to `room`, and answers its stamp.
    pub fn stamp(&mut self, room: usize, due: u64) -> Stamp {
        let index = self.dues.len() as u32;
        self.dues.push(due);
        self.sent[room].count += 1;
        self.sent[room].sum += u64::from(index) + 1;
        Stamp {
            run: self.run,
            index,
            due,
        }
    }

    /// Deliveries that must have happened once all is through.
    pub fn expected(&self) -> u64 {
        let per_room = (self.members.len() / self.rooms.len()) as u64;
        self.sent
            .iter()
            .map(|sent| u64::from(sent.count) * per_room)
            .sum()
    }

    /// Whether every message was delivered to everyone and acked.
    pub fn complete(&self) -> bool {
        let acks = match self.target.protocol {
            Protocol::Darda => self.acked + self.refused >= self.dues.len() as u64,
            Protocol::Echo | Protocol::Socketio => true,
        };
        acks && self.delivered >= self.expected()
    }

    /// Compares what every member got with what was sent.
    pub fn verify(&mut self) {
        let per_room = self.members.len() / self.rooms.len();
        for (index, member) in self.members.iter().enumerate() {
            let room = member.room as usize;
            let (sent, name) = (self.sent[room], &self.rooms[room]);
            if member.got != sent.count || member.sum != sent.sum {
                let kind = if member.got < sent.count {
                    "lost"
                } else {
                    "duplicated"
                };
                self.faults.add(kind, || {
                    format!(
                        "member {index} of {name} got {} of {} messages",
                        member.got, sent.count
                    )
                });
            } else if member.order != self.members[room * per_room].order {
                self.faults.add("another order", || {
                    format!("member {index} of {name} saw another order than the first member")
                });
            }
        }
    }

    #[inline]
    fn delivered(&mut self, conn: usize, payload: &[u8], now: u64) {
        let guess = self.target.stamp_at(payload, self.bytes);
        let Some(stamp) = Stamp::find(payload, guess) else {
            return;
        };
        if stamp.run != self.run {
            return;
        }
        let member = &mut self.members[conn];
        member.got += 1;
        member.sum += u64::from(stamp.index) + 1;
        member.order = (member.order.rotate_left(5) ^ u64::from(stamp.index))
            .wrapping_mul(0x517c_c1b7_2722_0a95);
        member.last_at = now;
        let latency = now.saturating_sub(stamp.due);
        if self.window.contains(&stamp.due) {
            self.delivery.record(latency);
            let pods = self.delivery_by_pod.len();
            self.delivery_by_pod[conn % pods].record(latency);
        }
        self.slowest = self.slowest.max(latency);
        self.last_delivery_at = now;
        self.delivered += 1;
        self.delivered_bytes += payload.len() as u64;
    }

    #[inline]
    fn event(&mut self, conn: usize, payload: &[u8]) {
        let member = &mut self.members[conn];
        let room = &self.rooms[member.room as usize];
        let Some((seq, prev)) = target::chain(payload, room.len()) else {
            self.faults.add("unreadable event", || text(payload));
            return;
        };
        // A fence (no prev) is where numbers jump; the embedded family never makes one.
        if prev.is_none_or(|prev| prev == member.position) && seq > member.position {
            member.position = seq;
            return;
        }
        let kind = if seq <= member.position {
            "event repeated"
        } else {
            "hole"
        };
        let position = member.position;
        self.faults.add(kind, || {
            format!("member {conn} of {room} at {position} got seq {seq}, prev {prev:?}")
        });
        member.position = member.position.max(seq);
    }

    fn darda(&mut self, conn: usize, payload: &[u8], now: u64, out: &mut Outbox) {
        match target::kind(payload) {
            Kind::Event => {
                self.event(conn, payload);
                self.delivered(conn, payload, now);
            }
            Kind::Ack => {
                if let Some((run, index)) = target::acked(payload)
                    && run == self.run
                    && let Some(&due) = self.dues.get(index as usize)
                {
                    self.acked += 1;
                    if self.window.contains(&due) {
                        self.ack.record(now.saturating_sub(due));
                    }
                }
            }
            Kind::Welcome => self.join(conn, out),
            Kind::Subscribed => self.subscribed(conn, payload),
            Kind::Error => self.refusal(payload),
            Kind::Other => {}
        }
    }

    fn join(&self, conn: usize, out: &mut Outbox) {
        let member = &self.members[conn];
        let frame = self
            .target
            .join(&self.rooms[member.room as usize], member.after);
        out.text(frame.as_bytes());
    }

    fn has_joined(&mut self, conn: usize) {
        if !std::mem::replace(&mut self.members[conn].joined, true) {
            self.joined += 1;
        }
    }

    fn subscribed(&mut self, conn: usize, payload: &[u8]) {
        #[derive(serde::Deserialize)]
        struct Subscribed {
            after: u64,
        }
        match serde_json::from_slice::<Subscribed>(payload) {
            Ok(subscribed) => {
                let wanted = self.members[conn].after.unwrap_or(subscribed.after);
                if wanted != subscribed.after {
                    self.faults.add("another position", || {
                        format!(
                            "member {conn} asked for what is after {wanted}: {}",
                            text(payload)
                        )
                    });
                }
                self.members[conn].position = subscribed.after;
                self.has_joined(conn);
            }
            Err(_) => self.faults.add("unreadable frame", || text(payload)),
        }
    }

    /// A refused message is not expected any more; any other error is a fault of the run.
    fn refusal(&mut self, payload: &[u8]) {
        #[derive(serde::Deserialize)]
        struct Refusal {
            id: Option<uuid::Uuid>,
        }
        let id = serde_json::from_slice::<Refusal>(payload)
            .ok()
            .and_then(|refusal| refusal.id);
        let Some(id) = id else {
            self.faults.add("error frame", || text(payload));
            return;
        };
        let (run, index) = ((id.as_u64_pair().1 >> 32) as u16, id.as_u64_pair().1 as u32);
        if run == self.run {
            let room = index as usize % self.rooms.len();
            self.sent[room].count -= 1;
            self.sent[room].sum -= u64::from(index) + 1;
            self.refused += 1;
            self.faults.add(REFUSED, || text(payload));
        }
    }

    fn socketio(&mut self, conn: usize, payload: &[u8], now: u64, out: &mut Outbox) {
        match payload {
            [b'0', ..] => {
                let member = &self.members[conn];
                if member.offset.is_empty() {
                    out.text(b"40");
                } else {
                    let auth = serde_json::json!({"pid": member.session, "offset": member.offset});
                    out.text(format!("40{auth}").as_bytes());
                }
            }
            [b'2'] => out.text(b"3"),
            [b'4', b'0', json @ ..] => self.connected(conn, json, out),
            [b'4', b'3', b'0', ..] => self.has_joined(conn),
            [b'4', b'2', ..] => {
                self.delivered(conn, payload, now);
                // The last argument of a recoverable event is its offset.
                if let [.., head, b'"', b']'] = payload
                    && *head != b'"'
                    && let Some(start) = payload[..payload.len() - 2]
                        .iter()
                        .rposition(|&b| b == b'"')
                {
                    let offset = &payload[start + 1..payload.len() - 2];
                    let member = &mut self.members[conn];
                    member.offset.clear();
                    member.offset.push_str(&String::from_utf8_lossy(offset));
                }
            }
            _ => {}
        }
    }

    fn connected(&mut self, conn: usize, json: &[u8], out: &mut Outbox) {
        #[derive(serde::Deserialize)]
        struct Connected {
            pid: Option<String>,
        }
        let pid = serde_json::from_slice::<Connected>(json)
            .ok()
            .and_then(|connected| connected.pid)
            .unwrap_or_default();
        if self.members[conn].offset.is_empty() {
            self.members[conn].session = pid;
            self.join(conn, out);
        } else {
            // Recovered, with its rooms, if the server knew the session.
            if self.members[conn].session != pid {
                self.faults
                    .add("not recovered", || format!("member {conn}"));
            }
            self.has_joined(conn);
        }
    }
}

impl Handler for Watch {
    fn opened(&mut self, conn: usize, out: &mut Outbox) {
        if self.target.protocol == Protocol::Echo {
            self.join(conn, out);
        }
    }

    #[inline]
    fn text(&mut self, conn: usize, payload: &[u8], now: u64, out: &mut Outbox) {
        self.frames += 1;
        match self.target.protocol {
            Protocol::Darda => self.darda(conn, payload, now, out),
            Protocol::Echo if payload.starts_with(b"{\"joined\"") => self.has_joined(conn),
            Protocol::Echo => self.delivered(conn, payload, now),
            Protocol::Socketio => self.socketio(conn, payload, now, out),
        }
    }

    fn closed(&mut self, conn: usize, why: &str) {
        self.closed += 1;
        self.faults
            .add("closed connection", || format!("member {conn}: {why}"));
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(&payload[..payload.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        let target = Target::new(Protocol::Darda, "127.0.0.1:1").unwrap();
        let mut watch = Watch::new(&target, vec!["r".to_owned()], 2, 100);
        watch.window = 0..u64::MAX;
        watch.begin_run();
        watch
    }

    fn event(stamp: Stamp, seq: u64, prev: u64) -> Vec<u8> {
        let mut frame = format!(
            "{{\"type\":\"event\",\"room\":\"r\",\"seq\":{seq},\"prev\":{prev},\"kind\":\"message\",\"text\":\""
        )
        .into_bytes();
        stamp.put_text(&mut frame, 100);
        frame.extend(b"\"}");
        frame
    }

    #[test]
    fn what_everybody_got_in_one_order_has_no_fault() {
        let mut watch = watch();
        for seq in 1..=3 {
            let stamp = watch.stamp(0, 10);
            for member in 0..2 {
                watch.text(
                    member,
                    &event(stamp, seq, seq - 1),
                    50,
                    &mut Outbox::default(),
                );
            }
        }
        watch.verify();
        assert_eq!(watch.faults.lines(), Vec::<String>::new());
        assert_eq!((watch.delivered, watch.expected()), (6, 6));
        assert_eq!(watch.delivery.count(), 6);
    }

    #[test]
    fn loss_repetition_and_another_order_are_found() {
        let mut watch = watch();
        let stamps: Vec<Stamp> = (0..3).map(|_| watch.stamp(0, 10)).collect();
        let mut got = |member, index: usize, seq, prev| {
            watch.text(
                member,
                &event(stamps[index], seq, prev),
                50,
                &mut Outbox::default(),
            );
        };
        got(0, 0, 1, 0);
        got(0, 1, 2, 1);
        got(0, 2, 3, 2);
        got(1, 0, 1, 0);
        got(1, 2, 3, 2);
        got(1, 2, 3, 2);
        watch.verify();
        let faults = watch.faults.lines().join("\n");
        for kind in ["hole: 1", "event repeated: 1", "duplicated: 1"] {
            assert!(faults.contains(kind), "{kind} not in {faults}");
        }
        watch.begin_run();
        watch.faults = Faults::default();
        let stamps: Vec<Stamp> = (0..2).map(|_| watch.stamp(0, 10)).collect();
        for (member, order) in [(0, [0, 1]), (1, [1, 0])] {
            for index in order {
                watch.delivered(member, &event(stamps[index], 9, 8), 50);
            }
        }
        watch.verify();
        assert!(watch.faults.lines().join("\n").contains("another order: 1"));
    }
}
