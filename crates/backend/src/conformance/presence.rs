//! Promises of presence.

use protocol::{SessionId, Status, Timestamp};

use super::{Recorder, assert_refused, eventually, room, user};
use crate::Backends;
use crate::relay::Signal;

const MOST: usize = 50;

/// A new session of the user.
async fn connect(family: &Backends, name: &str) -> SessionId {
    let session = SessionId::generate();
    let connected = family.presence.connect(session, &user(name), MOST).await;
    connected.expect("a session");
    session
}

async fn enter(family: &Backends, session: SessionId, id: &str) {
    family
        .presence
        .enter(session, &room(id))
        .await
        .expect("an entry");
}

async fn leave(family: &Backends, session: SessionId, id: &str) {
    family
        .presence
        .leave(session, &room(id))
        .await
        .expect("a leave");
}

async fn disconnect(family: &Backends, session: SessionId) {
    family
        .presence
        .disconnect(session)
        .await
        .expect("a disconnect");
}

async fn idle(family: &Backends, session: SessionId, idle: bool) {
    family
        .presence
        .set_idle(session, idle)
        .await
        .expect("a change");
}

async fn status(family: &Backends, name: &str) -> (Status, Option<Timestamp>) {
    let found = family.presence.status(&[user(name)]).await;
    let found = found.expect("a status");
    assert_eq!(found[0].user, user(name));
    (found[0].status, found[0].last_seen)
}

/// A user is online while at least one session is.
pub async fn sessions_make_users_online(family: &Backends) {
    assert_eq!(status(family, "alice").await, (Status::Offline, None));
    let before = Timestamp::now();
    let first = connect(family, "alice").await;
    let second = connect(family, "alice").await;
    assert_eq!(status(family, "alice").await, (Status::Online, None));
    disconnect(family, first).await;
    disconnect(family, first).await;
    assert_eq!(status(family, "alice").await, (Status::Online, None));
    disconnect(family, second).await;
    let (status_now, last_seen) = status(family, "alice").await;
    assert_eq!(status_now, Status::Offline);
    assert!(last_seen.is_some_and(|at| at >= before));

    connect(family, "carol").await;
    let found = family
        .presence
        .status(&[user("carol"), user("nobody"), user("alice")])
        .await;
    let order: Vec<_> = found
        .expect("statuses")
        .into_iter()
        .map(|found| (found.user, found.status))
        .collect();
    assert_eq!(
        order,
        [
            (user("carol"), Status::Online),
            (user("nobody"), Status::Offline),
            (user("alice"), Status::Offline)
        ]
    );
}

/// A user is away while all sessions are idle.
pub async fn idle_sessions_make_users_away(family: &Backends) {
    let first = connect(family, "alice").await;
    let second = connect(family, "alice").await;
    idle(family, first, true).await;
    idle(family, first, true).await;
    assert_eq!(status(family, "alice").await.0, Status::Online);
    idle(family, second, true).await;
    assert_eq!(status(family, "alice").await.0, Status::Away);
    idle(family, first, false).await;
    assert_eq!(status(family, "alice").await.0, Status::Online);
    disconnect(family, first).await;
    assert_eq!(status(family, "alice").await.0, Status::Away);
    disconnect(family, second).await;
    assert_eq!(status(family, "alice").await.0, Status::Offline);
}

/// A room shows whoever has a session in it, in order of name.
pub async fn rooms_show_their_users(family: &Backends) {
    let carol = connect(family, "carol").await;
    let alice = connect(family, "alice").await;
    let phone = connect(family, "alice").await;
    for session in [carol, alice, phone] {
        enter(family, session, "general").await;
        enter(family, session, "general").await;
    }
    let present = async |most| {
        let present = family.presence.present(&room("general"), most).await;
        let present = present.expect("who is there");
        (present.users, present.count)
    };
    assert_eq!(present(10).await, (vec![user("alice"), user("carol")], 2));
    assert_eq!(present(1).await, (vec![user("alice")], 2));
    leave(family, alice, "general").await;
    leave(family, alice, "general").await;
    assert_eq!(present(10).await.1, 2);
    disconnect(family, phone).await;
    assert_eq!(present(10).await, (vec![user("carol")], 1));
    let empty = family.presence.present(&room("random"), 10).await;
    assert_eq!(empty.expect("who is there").count, 0);
}

/// The room hears once of whoever comes, goes, goes quiet or returns.
pub async fn signals_are_sent_once(family: &Backends) {
    let recorder = Recorder::attach(family);
    let next = async || {
        let signals = eventually("a signal", async || {
            let signals = recorder.take_signals();
            (!signals.is_empty()).then_some(signals)
        });
        let changes: Vec<_> = signals
            .await
            .into_iter()
            .map(|signal| match signal {
                Signal::Presence {
                    room, user, status, ..
                } => (room.to_string(), user.to_string(), status),
                other => panic!("{other:?} is no presence"),
            })
            .collect();
        changes
    };
    let change = |status| ("general".to_owned(), "alice".to_owned(), status);

    let first = connect(family, "alice").await;
    let second = connect(family, "alice").await;
    enter(family, first, "general").await;
    assert_eq!(next().await, [change(Status::Online)]);
    // Nothing of this is news; the next change shows that it was kept quiet.
    enter(family, first, "general").await;
    enter(family, second, "general").await;
    leave(family, first, "general").await;
    idle(family, first, true).await;
    idle(family, second, true).await;
    assert_eq!(next().await, [change(Status::Away)]);
    idle(family, second, false).await;
    assert_eq!(next().await, [change(Status::Online)]);
    enter(family, first, "general").await;
    disconnect(family, first).await;
    disconnect(family, second).await;
    assert_eq!(next().await, [change(Status::Offline)]);
}

/// A user has at most so many sessions.
pub async fn sessions_are_limited(family: &Backends) {
    let alice = user("alice");
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let session = SessionId::generate();
        let connected = family.presence.connect(session, &alice, 3).await;
        connected.expect("a session");
        sessions.push(session);
    }
    let more = SessionId::generate();
    assert_refused(family.presence.connect(more, &alice, 3).await);
    let other = family
        .presence
        .connect(SessionId::generate(), &user("bob"), 3)
        .await;
    other.expect("another's session");
    disconnect(family, sessions[0]).await;
    let connected = family.presence.connect(more, &alice, 3).await;
    connected.expect("a session where one has ended");
}
