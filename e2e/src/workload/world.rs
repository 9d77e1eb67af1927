//! What the clients of a session share.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::engine::Act;
use client::{Address, Incoming, Socket};
use protocol::{Event, RoomId, Seq, ServerFrame, UserId, Welcome};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::history::{Clock, Leave, Micros};
use crate::http::Http;

/// How long a server may take to accept a connection and greet.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long a server may take to accept a frame.
const WRITE_MAX: Duration = Duration::from_secs(3);

/// A process that serves clients.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: Arc<str>,
    pub address: Address,
}

/// What a session is at.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Senders make new acts.
    Sending,
    /// They only bring what they have begun to an end, until the deadline at the latest.
    Draining(Instant),
    /// Nothing is sent any more. Readers read up to these heads, until the deadline at the latest.
    Reading(Arc<BTreeMap<RoomId, Seq>>, Instant),
}

/// Shared by all clients.
pub struct World {
    pub clock: Clock,
    pub pods: Vec<Pod>,
    pub rooms: Vec<RoomId>,
    pub http: Http,
    pub phase: watch::Receiver<Phase>,
    pub progress: Progress,
    pub events: Events,
    pub leaves: Leaves,
    /// How many of the crowd have come for the first time.
    pub arrived: watch::Sender<usize>,
}

/// Events that somebody was shown. Everybody is shown the same ones, so one of each is kept in memory.
#[derive(Default)]
pub struct Events(Mutex<HashMap<(RoomId, Seq), Arc<Event>>>);

impl Events {
    /// The same event, shared with others who were shown it.
    pub fn share(&self, event: Arc<Event>) -> Arc<Event> {
        let mut known = self
            .0
            .lock()
            .expect("nothing panics while it holds the lock");
        let place = (event.room.clone(), event.seq);
        let first = known.entry(place).or_insert_with(|| Arc::clone(&event));
        if *first == event {
            Arc::clone(first)
        } else {
            event
        }
    }
}

/// The connections that a crowd left.
#[derive(Default)]
pub struct Leaves(Mutex<Vec<Leave>>);

impl Leaves {
    /// Some more.
    pub fn extend(&self, more: impl IntoIterator<Item = Leave>) {
        let mut leaves = self
            .0
            .lock()
            .expect("nothing panics while it holds the lock");
        leaves.extend(more);
    }

    /// All of them, in the order of time.
    pub fn take(&self) -> Vec<Leave> {
        let mut leaves = self
            .0
            .lock()
            .expect("nothing panics while it holds the lock");
        leaves.sort_by_key(|leave| leave.at);
        std::mem::take(&mut leaves)
    }
}

/// The last ack of every room.
#[derive(Default)]
pub struct Progress {
    acked: Mutex<BTreeMap<RoomId, Micros>>,
    changed: Notify,
}

/// A connection that was greeted.
pub struct Link {
    pub pod: Pod,
    pub welcome: Welcome,
    socket: Socket,
}

impl World {
    /// A random generator for one client of a session, always the same for the same seed and name.
    #[must_use]
    pub fn random(seed: u64, name: &str) -> StdRng {
        let mixed = name
            .bytes()
            .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        StdRng::seed_from_u64(mixed)
    }

    /// Any pod.
    pub fn pod(&self, random: &mut StdRng) -> Pod {
        self.pods[random.random_range(0..self.pods.len())].clone()
    }

    /// Any room.
    pub fn room(&self, random: &mut StdRng) -> RoomId {
        self.rooms[random.random_range(0..self.rooms.len())].clone()
    }

    /// Connects to any pod and signs in. For people: why not.
    ///
    /// # Errors
    /// When the pod does not greet in time.
    pub async fn connect(&self, user: &UserId, random: &mut StdRng) -> Result<Link, String> {
        let pod = self.pod(random);
        let greeted = async {
            let url = pod.address.socket_as(user);
            let mut socket = Socket::open(&url)
                .await
                .map_err(|error| error.to_string())?;
            match socket.next_frame().await {
                Some(ServerFrame::Welcome(welcome)) => Ok((socket, welcome)),
                other => Err(format!("instead of a welcome: {other:?}")),
            }
        };
        let greeted = timeout(CONNECT_MAX, greeted).await;
        let (socket, welcome) = greeted.map_err(|_| "no welcome in time".to_owned())??;
        Ok(Link {
            pod,
            welcome,
            socket,
        })
    }
}

impl Progress {
    /// An act was acked for the first time.
    pub fn acked(&self, room: &RoomId, at: Micros) {
        let mut acked = self
            .acked
            .lock()
            .expect("nothing panics while it holds the lock");
        acked.insert(room.clone(), at);
        drop(acked);
        self.changed.notify_waiters();
    }

    /// Waits until something was acked in every room after `since`.
    ///
    /// # Errors
    /// Names a room that has no ack in time.
    pub async fn everywhere(
        &self,
        rooms: &[RoomId],
        since: Micros,
        patience: Duration,
    ) -> Result<(), RoomId> {
        let silent = || {
            let acked = self
                .acked
                .lock()
                .expect("nothing panics while it holds the lock");
            let is_silent = |room: &&RoomId| acked.get(*room).is_none_or(|at| *at <= since);
            rooms.iter().find(is_silent).cloned()
        };
        let all = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if silent().is_none() {
                    return;
                }
                changed.await;
            }
        };
        match timeout(patience, all).await {
            Ok(()) => Ok(()),
            Err(_) => silent().map_or(Ok(()), Err),
        }
    }
}

impl Link {
    /// How long the server may be silent before the connection is dead.
    #[must_use]
    pub fn silence_max(&self) -> Duration {
        Duration::from_secs(self.welcome.heartbeat_secs.clamp(1, 3600) * 3)
    }

    /// Sends a frame; false when the connection is broken.
    pub async fn say(&mut self, frame: &protocol::ClientFrame) -> bool {
        matches!(
            timeout(WRITE_MAX, self.socket.send(frame)).await,
            Ok(Ok(()))
        )
    }

    /// The next thing that comes in.
    pub async fn next(&mut self) -> Incoming {
        self.socket.next().await
    }

    /// Leaves politely.
    pub async fn close(self) {
        self.socket.close().await;
    }
}

/// A moment between two durations.
pub fn between(random: &mut StdRng, least: Duration, most: Duration) -> Duration {
    let (least, most) = (least.as_micros() as u64, most.as_micros() as u64);
    Duration::from_micros(random.random_range(least..=most.max(least)))
}

/// The frame of an act.
#[must_use]
pub fn frame(act: &Act) -> protocol::ClientFrame {
    act.clone().into()
}
