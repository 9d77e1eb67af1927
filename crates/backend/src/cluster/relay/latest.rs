//! Keeps the presence of a user in a room from going back: two pods tell of two changes, and the first may come last.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::{RoomId, UserId};

use crate::relay::Signal;

/// Two signals about the same are not further apart on the way.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Users in rooms that are remembered.
const ENTRIES_MAX: usize = 50_000;

#[derive(Default)]
pub struct Latest {
    seen: Mutex<HashMap<(RoomId, UserId), (u64, Instant)>>,
}

impl Latest {
    /// Hands the signal on, unless a later one about the same has been. One after the other, or the check would be vain.
    pub fn hand_on(&self, signal: Signal, version: u64, to: impl FnOnce(Signal)) {
        let Signal::Presence { room, user, .. } = &signal else {
            return to(signal);
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= ENTRIES_MAX {
            seen.retain(|_, (_, at)| at.elapsed() < REMEMBERED);
        }
        if seen.len() >= ENTRIES_MAX {
            seen.clear();
        }
        let key = (room.clone(), user.clone());
        let is_late = seen
            .get(&key)
            .is_some_and(|(latest, at)| *latest > version && at.elapsed() < REMEMBERED);
        if !is_late {
            seen.insert(key, (version, Instant::now()));
            to(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::Status;

    use super::*;

    #[test]
    fn what_comes_late_is_not_told() {
        let latest = Latest::default();
        let told = Mutex::new(Vec::new());
        let tell = |user: &str, status, version| {
            let signal = Signal::Presence {
                room: RoomId::parse("general").unwrap(),
                user: UserId::parse(user).unwrap(),
                status,
                last_seen: None,
            };
            latest.hand_on(signal, version, |_| {
                told.lock().unwrap().push((user.to_owned(), status));
            });
        };
        tell("alice", Status::Online, 2);
        tell("alice", Status::Offline, 1);
        tell("bob", Status::Offline, 1);
        tell("alice", Status::Away, 3);
        assert_eq!(
            told.into_inner().unwrap(),
            [
                ("alice".to_owned(), Status::Online),
                ("bob".to_owned(), Status::Offline),
                ("alice".to_owned(), Status::Away)
            ]
        );
    }
}
