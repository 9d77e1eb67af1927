//! One state of the system: one room and everything that holds a piece of it.

use crate::config::{Config, Faults};

/// The place of an event in the log.
pub type Seq = u8;
/// A message; 0 is a fence.
pub type Id = u8;
pub type Generation = u8;
/// A Redis, as `run_id` and replication id tell: its index in [`State::redises`].
pub type Server = u8;

/// Numbers of a generation.
pub const RANGE: Seq = 16;
pub const FENCE: Id = 0;

/// The generation of a seq.
#[must_use]
pub const fn generation(seq: Seq) -> Generation {
    seq / RANGE
}

/// The seq of the fence of a generation.
#[must_use]
pub const fn fence(generation: Generation) -> Seq {
    generation * RANGE + 1
}

/// An event. Its `prev` is the seq before, none for a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    pub seq: Seq,
    pub id: Id,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Every Redis there was; `None` is dead. New connections reach the last one, the primary.
    pub redises: Vec<Option<Redis>>,
    /// What a replica or a backup has: the primary at some moment.
    pub copy: Option<Redis>,
    pub mongo: Mongo,
    pub broker: Broker,
    pub pods: Vec<Pod>,
    pub reader: Reader,
    pub clients: Clients,
    pub left: Faults,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Redis {
    /// The generation, where it is set.
    pub generation: Option<Generation>,
    /// The pod that took the last ticket to seed the room. A pod seeds once at a time, so that its name is a token.
    pub ticket: Option<u8>,
    pub room: Option<Room>,
}

/// The room in Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Room {
    pub generation: Generation,
    /// The last one given out.
    pub seq: Seq,
    /// What comes after it is in `entries`.
    pub base: Seq,
    /// What is up to it is in MongoDB.
    pub persisted: Seq,
    pub entries: Vec<Entry>,
}

/// An event in Redis, with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub event: Event,
    pub pending: bool,
}

impl Room {
    /// Everything up to it is confirmed.
    #[must_use]
    pub fn safe(&self) -> Seq {
        self.first_pending().map_or(self.seq, |event| event.seq - 1)
    }

    #[must_use]
    pub fn first_pending(&self) -> Option<Event> {
        self.entries.iter().find(|e| e.pending).map(|e| e.event)
    }

    pub(crate) fn confirm(&mut self, seq: Seq) {
        for entry in &mut self.entries {
            entry.pending &= entry.event.seq != seq;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mongo {
    pub record: Record,
    /// Redises of earlier generations, a bit each.
    pub former: u8,
    pub stored: Stored,
}

/// The record of the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub generation: Generation,
    /// Else it is being opened.
    pub is_open: bool,
    pub redis: Server,
}

/// The events of the room in MongoDB, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stored {
    pub events: Vec<Event>,
    /// Something met other content, or was older than a stored fence.
    pub has_parked: bool,
    /// A message came a second time, with another seq.
    pub has_twice: bool,
}

impl Stored {
    /// What the worker does with an event.
    pub fn insert(&mut self, event: Event) {
        if self.events.contains(&event) {
            return;
        }
        let is_refused =
            |other: &Event| other.seq == event.seq || (other.id == FENCE && other.seq > event.seq);
        let is_again = |other: &Event| event.id != FENCE && other.id == event.id;
        if self.events.iter().any(is_refused) {
            self.has_parked = true;
            return;
        }
        if self.events.iter().any(is_again) {
            self.has_parked = true;
            self.has_twice = true;
            return;
        }
        let at = self.events.partition_point(|other| *other < event);
        self.events.insert(at, event);
    }

    #[must_use]
    pub fn has(&self, seq: Seq) -> bool {
        self.events.iter().any(|event| event.seq == seq)
    }

    #[must_use]
    pub fn seq_of(&self, id: Id) -> Option<Seq> {
        self.events.iter().find(|e| e.id == id).map(|e| e.seq)
    }

    #[must_use]
    pub fn last(&self) -> Seq {
        self.events.last().map_or(0, |event| event.seq)
    }

    #[must_use]
    pub fn next_after(&self, seq: Seq) -> Option<Event> {
        self.events.iter().copied().find(|event| event.seq > seq)
    }

    /// How far a generation is stored without a hole.
    #[must_use]
    pub fn mark(&self, generation: Generation) -> Seq {
        let mut mark = generation * RANGE;
        while self.has(mark + 1) {
            mark += 1;
        }
        mark
    }
}

/// The exchanges, the queue of the room's shard, and the worker that consumes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Broker {
    /// Exchanges, a bit per generation.
    pub exchanges: u8,
    /// Those of them that are bound to the queue.
    pub bound: u8,
    pub queue: Vec<Event>,
    /// Events at the front that the worker has dealt with and not acknowledged.
    pub dealt_with: u8,
    /// An event that the worker acknowledged too early.
    pub held: Option<Event>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pod {
    /// The Redis it is connected to.
    pub redis: Option<Server>,
    /// The generation it verified for this connection.
    pub generation: Option<Generation>,
    pub job: Job,
    /// A pending event that it publishes for somebody else, or a fence.
    pub help: Option<Publish>,
    pub raise: Option<Raise>,
}

/// How far a pod is with the request of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Job {
    #[default]
    Idle,
    /// To be appended.
    Start { id: Id },
    /// The room is to be seeded, the ticket is taken.
    Ticketed { id: Id },
    /// MongoDB said what is the last seq stored.
    Seeding { id: Id, last: Seq },
    /// Redis does not know whether the id is new.
    Asking { id: Id },
    /// MongoDB did not know the id.
    LookedUp { id: Id },
    /// It has its place and is being published.
    Placed(Publish),
    /// Redis has it, others deal with it: until it is safe.
    Waiting { event: Event },
}

/// An event on its way to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Publish {
    pub event: Event,
    /// The generation of the exchange.
    pub via: Generation,
    pub flight: Flight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flight {
    /// The broker does not have it yet, or its answer was lost.
    Sent,
    /// An exchange took it, the queue does not have it yet.
    Routed,
    Confirmed,
}

/// The steps of a raise that are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Raise {
    Recorded(Generation),
    Deleted(Generation),
    Declared(Generation),
    SetInRedis(Generation),
    /// Only when older exchanges are deleted last.
    Opened(Generation),
}

/// Somebody who reads the room from its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reader {
    pub seen: Vec<Event>,
    /// What MongoDB had next when it was asked, before it was asked for a fence. Only without that safeguard.
    pub fetched: Option<Event>,
}

impl Reader {
    #[must_use]
    pub fn position(&self) -> Seq {
        self.seen.last().map_or(0, |event| event.seq)
    }
}

/// What clients did and were told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Clients {
    /// Requests that may still come.
    pub sends: u8,
    /// Messages sent so far: 1 to this one.
    pub messages: u8,
    /// The first answer per message, 0 before there is one.
    pub acks: Vec<Seq>,
    /// Some message was acknowledged twice.
    pub again: bool,
    /// Some message was acknowledged with two different seqs.
    pub contradiction: bool,
    /// Ids that are too old to be taken for new, a bit each.
    pub old: u8,
}

impl Clients {
    pub(crate) fn ack(&mut self, event: Event) {
        let first = &mut self.acks[usize::from(event.id) - 1];
        if *first == 0 {
            *first = event.seq;
        } else if *first == event.seq {
            self.again = true;
        } else {
            self.contradiction = true;
        }
    }

    #[must_use]
    pub const fn is_old(&self, id: Id) -> bool {
        self.old & (1 << id) != 0
    }
}

impl State {
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let room = Room {
            generation: 0,
            seq: 0,
            base: 0,
            persisted: 0,
            entries: Vec::new(),
        };
        let pod = Pod {
            redis: Some(0),
            generation: Some(0),
            ..Pod::default()
        };
        Self {
            redises: vec![Some(Redis {
                generation: Some(0),
                ticket: None,
                room: (!config.cold).then_some(room),
            })],
            copy: None,
            mongo: Mongo {
                record: Record {
                    generation: 0,
                    is_open: true,
                    redis: 0,
                },
                former: 0,
                stored: Stored::default(),
            },
            broker: Broker {
                exchanges: 1,
                bound: 1,
                queue: Vec::new(),
                dealt_with: 0,
                held: None,
            },
            pods: vec![pod; usize::from(config.pods)],
            reader: Reader::default(),
            clients: Clients {
                sends: config.sends,
                acks: vec![0; usize::from(config.messages)],
                ..Clients::default()
            },
            left: config.faults,
        }
    }

    /// What MongoDB has once the worker is through with the queue: everything that can no longer be lost.
    #[must_use]
    pub fn durable(&self) -> Stored {
        let mut stored = self.mongo.stored.clone();
        for event in self.broker.held.iter().chain(&self.broker.queue) {
            stored.insert(*event);
        }
        stored
    }

    /// The index of the primary.
    #[must_use]
    pub fn primary(&self) -> Server {
        u8::try_from(self.redises.len() - 1).expect("a handful of servers")
    }

    #[must_use]
    pub fn redis(&self, server: Server) -> Option<&Redis> {
        self.redises.get(usize::from(server))?.as_ref()
    }

    pub(crate) fn redis_mut(&mut self, server: Server) -> Option<&mut Redis> {
        self.redises.get_mut(usize::from(server))?.as_mut()
    }

    /// The same state with the pods in a fixed order.
    pub(crate) fn sort_pods(&mut self) {
        if self.pods.len() != 2 || self.pods[0] <= self.pods[1] {
            return;
        }
        self.pods.swap(0, 1);
        let tickets = self.redises.iter_mut().flatten().chain(&mut self.copy);
        for ticket in tickets.filter_map(|redis| redis.ticket.as_mut()) {
            *ticket = 1 - *ticket;
        }
    }
}
