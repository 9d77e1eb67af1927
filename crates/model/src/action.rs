//! What can happen next.

use crate::state::{Id, Server};

/// The number of a pod.
pub type PodIndex = u8;

/// What of a pod publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Job,
    Help,
}

/// One atomic step of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client sends a message, for the first time or again.
    Send {
        pod: PodIndex,
        id: Id,
    },
    /// A pod connects to the primary; a connection to a former one is given up.
    Connect {
        pod: PodIndex,
    },
    /// A pod compares the record in MongoDB with its Redis: what is open is used, else the generation is raised (its
    /// step 1). An opening may count as abandoned at any time.
    FindOut {
        pod: PodIndex,
    },
    /// A pod that is connected to a former primary raises the generation (step 1) instead of turning away. Somebody has to:
    /// what one pod took for the new primary may have been an older one.
    RaiseAnyway {
        pod: PodIndex,
    },
    /// A pod whose publish was returned in the open generation raises it (step 1).
    RaiseWithoutExchange {
        pod: PodIndex,
    },
    /// Steps 2 to 5 of a raise: delete the older exchanges, declare and bind the new one, set the generation in Redis,
    /// open.
    GoOnRaising {
        pod: PodIndex,
    },
    /// `log_append`; when the room is cold, `log_ticket` with it.
    Append {
        pod: PodIndex,
    },
    /// The last seq of the room in MongoDB, after the ticket. `behind`: the last event is missed.
    ReadLast {
        pod: PodIndex,
        behind: bool,
    },
    /// `log_seed`.
    Seed {
        pod: PodIndex,
    },
    /// The look-up of an id in MongoDB, after the fence is stored.
    LookUp {
        pod: PodIndex,
    },
    /// `log_help`: the first pending event is taken over.
    Help {
        pod: PodIndex,
    },
    /// A publish reaches the broker: it is in the queue, or returned. `heard`: the publisher gets the confirm.
    Publish {
        pod: PodIndex,
        task: Task,
        heard: bool,
    },
    /// What an exchange took reaches the queue. Only when the broker's nodes do not agree.
    Enqueue {
        pod: PodIndex,
        task: Task,
    },
    /// `log_confirm` after the broker's confirm: when Redis takes it in the generation of the event, the sender is answered
    /// or waits for what is before, and the event may be `shown` to the reader, by this pod or over the relay. Else it is
    /// in doubt.
    Confirm {
        pod: PodIndex,
        task: Task,
        shown: bool,
    },
    /// The sender is answered after the broker's confirm without Redis. Only without that safeguard.
    AckAlone {
        pod: PodIndex,
    },
    /// The reader is shown the event after the broker's confirm without Redis. Only without that safeguard.
    ShowAlone {
        pod: PodIndex,
    },
    /// A sender who waits: answered when their event is safe, by whomever, or in doubt.
    Answer {
        pod: PodIndex,
    },
    /// The reader gets the next event through some Redis.
    Read {
        redis: Server,
    },
    /// The reader gets the next event from MongoDB alone.
    ReadStored,
    /// The reader is told what MongoDB has next. Only when it does not look for a fence first.
    FetchStored,
    /// The worker inserts the next event.
    Store,
    /// The worker acknowledges an event.
    AckDelivery,
    /// `log_persisted`.
    Mark {
        redis: Server,
    },
    /// Redis trims what is stored and forgets its ids: more than 20 minutes have passed.
    Age {
        redis: Server,
    },
    /// Redis forgets a room of which all is stored: more than 20 minutes have passed.
    Expire {
        redis: Server,
    },
    CrashPod {
        pod: PodIndex,
    },
    CrashWorker,
    /// `FLUSHALL` on the primary.
    Flush,
    /// The replica or the backup is what the primary is now, and stays behind from here on.
    Copy,
    /// The primary dies; the next one has the copy, or nothing.
    Restart {
        empty: bool,
    },
    /// Another primary, with the copy or nothing, takes over; the former one lives on.
    FailOver {
        empty: bool,
    },
    /// The primary's data is replaced by the copy.
    Reload,
    /// The exchange of the open generation loses its binding.
    Unbind,
}
