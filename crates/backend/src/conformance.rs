//! The suite every adapter passes: one function per promise.
//!
//! Each takes a family that was just opened and holds nothing, and panics where a promise is broken.
//! [`conformance_suite!`](crate::conformance_suite) makes a test of each.

pub mod directory;
pub mod log;
pub mod presence;
pub mod search;

use std::sync::{Arc, Mutex, PoisonError};

use protocol::{Event, EventBody, MessageId, RoomId, Seq, UserId};

use crate::log::{Append, Appended, Log};
use crate::relay::{Signal, Sink};
use crate::{Backends, Error};

/// Makes a test of every promise. `$run` is an `async fn(impl AsyncFnOnce(&Backends))` of the calling module that
/// opens a fresh family, hands it over and closes it.
#[macro_export]
macro_rules! conformance_suite {
    ($run:ident) => {
        $crate::conformance_suite! { @tests $run
            log: order_and_chain, idempotence, pages_without_holes, pages_before, heads, related_events,
                edits_and_deletes_are_not_hidden, deleted_messages_stay_deleted,
                places_by_time, unread_messages, forgotten_rooms, readers_see_prefixes, relay_follows_the_chain,
                only_acts_are_appended, one_task_keeps_its_order;
            directory: rooms_are_made_once, direct_rooms_are_one_per_pair, patches_are_announced,
                deleted_rooms_stay_deleted, listings, members_come_and_go, members_are_listed_by_name,
                the_last_owner_stays, private_rooms_are_never_empty, the_first_in_an_empty_room_owns_it,
                roles_and_departures_at_once, cursors_only_go_up, invites, invites_are_bounded,
                announcements_wait_until_done,
                changes_are_seen_at_once, many_change_at_once;
            presence: sessions_make_users_online, idle_sessions_make_users_away, rooms_show_their_users,
                signals_are_sent_once, sessions_are_limited;
            search: words_are_found, long_queries_use_every_word, edits_and_deletes_count, beginnings_are_found, filters, results_are_paged,
                operators_are_words, forgotten_rooms_are_not_found;
        }
    };
    (@tests $run:ident $($port:ident: $($promise:ident),+;)+) => {
        $(mod $port {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $promise() {
                super::$run(async |family: &$crate::Backends| {
                    $crate::conformance::$port::$promise(family).await;
                }).await;
            })+
        })+
    };
}

/// Times that an act is tried which a busy server does not answer.
const TRIES: usize = 10;

fn room(text: &str) -> RoomId {
    RoomId::parse(text).expect("a room id")
}

fn user(text: &str) -> UserId {
    UserId::parse(text).expect("a user id")
}

fn seq(number: u64) -> Seq {
    Seq::new(number).expect("a seq")
}

fn text(text: &str) -> EventBody {
    EventBody::Message {
        text: text.to_owned(),
        reply_to: None,
        meta: None,
    }
}

fn act(room_id: &str, from: &str, body: EventBody) -> Append {
    Append {
        room: room(room_id),
        from: user(from),
        id: MessageId::generate(),
        body,
    }
}

/// Appends as a client does: with the same id until there is an answer.
async fn answered(log: &Arc<dyn Log>, append: Append) -> crate::Result<Appended> {
    for _ in 1..TRIES {
        let answer = log.append(append.clone()).await;
        if !matches!(answer, Err(Error::Unavailable { .. })) {
            return answer;
        }
    }
    log.append(append).await
}

/// Appends something new.
async fn append(family: &Backends, room: &str, from: &str, body: EventBody) -> Arc<Event> {
    let appended = answered(&family.log, act(room, from, body)).await;
    appended.expect("an append").event
}

/// Waits until a family works that has to reach its servers first. It leaves a message in a room of its own.
pub async fn works(family: &Backends) {
    append(family, "where-it-began", "nobody", text("hello")).await;
}

fn seqs(events: &[Arc<Event>]) -> Vec<u64> {
    events.iter().map(|event| event.seq.get()).collect()
}

/// Every event names the one before it.
fn assert_chain(events: &[Arc<Event>]) {
    for pair in events.windows(2) {
        assert_eq!(pair[1].prev, Some(pair[0].seq), "the chain has no hole");
        assert!(pair[1].seq > pair[0].seq, "seqs rise");
        assert!(pair[1].at >= pair[0].at, "times do not fall");
    }
}

fn assert_not_found<T: std::fmt::Debug>(result: crate::Result<T>) {
    assert!(matches!(result, Err(Error::NotFound(_))), "{result:?}");
}

fn assert_conflict<T: std::fmt::Debug>(result: crate::Result<T>) {
    assert!(matches!(result, Err(Error::Conflict(_))), "{result:?}");
}

fn assert_refused<T: std::fmt::Debug>(result: crate::Result<T>) {
    assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
}

/// A sink that remembers.
#[derive(Default)]
struct Recorder {
    events: Mutex<Vec<Arc<Event>>>,
    signals: Mutex<Vec<Signal>>,
}

impl Recorder {
    fn attach(family: &Backends) -> Arc<Self> {
        let recorder = Arc::new(Self::default());
        family.relay.attach(recorder.clone());
        recorder
    }

    fn events(&self) -> Vec<Arc<Event>> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn take_signals(&self) -> Vec<Signal> {
        std::mem::take(&mut self.signals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sink for Recorder {
    fn events(&self, events: &[Arc<Event>]) {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(events);
    }

    fn signal(&self, signal: &Signal) {
        self.signals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(signal.clone());
    }
}

/// Waits until something that comes by itself is there; five seconds at most.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looked = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
    looked
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}
