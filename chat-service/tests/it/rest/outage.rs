//! Rooms while the log is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backend::log::{Append, Appended, Page, Way};
use backend::{Backends, Error, Log, Result};
use chat_service::History;
use chat_service::rooms::Rooms;
use protocol::{Event, EventBody, MessageId, Role, RoomId, Seq, ServerFrame, Timestamp, UserId};
use serde_json::json;

use super::Server;
use super::sockets::Online;

/// A log whose appends can be cut off, or whose head is one that nobody can read yet.
struct Cuttable {
    log: Arc<dyn Log>,
    cut: Arc<AtomicBool>,
    ahead: u64,
}

#[async_trait]
impl Log for Cuttable {
    async fn append(&self, append: Append) -> Result<Appended> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Error::unavailable("cut off"));
        }
        self.log.append(append).await
    }
    async fn read(&self, room: &RoomId, after: Seq, limit: usize) -> Result<Page> {
        self.log.read(room, after, limit).await
    }
    async fn read_before(&self, room: &RoomId, before: Seq, limit: usize) -> Result<Page> {
        self.log.read_before(room, before, limit).await
    }
    async fn head(&self, room: &RoomId) -> Result<Seq> {
        let head = self.log.head(room).await?;
        Ok(Seq::new(head.get() + self.ahead).unwrap())
    }
    async fn related(&self, room: &RoomId, targets: &[Seq]) -> Result<Vec<Arc<Event>>> {
        self.log.related(room, targets).await
    }
    async fn first_at(&self, room: &RoomId, at: Timestamp) -> Result<Seq> {
        self.log.first_at(room, at).await
    }
    async fn unread(&self, room: &RoomId, user: &UserId, after: Seq, most: u64) -> Result<u64> {
        self.log.unread(room, user, after, most).await
    }
    async fn ways(&self, id: MessageId, rooms: &[RoomId]) -> Result<Vec<Way>> {
        self.log.ways(id, rooms).await
    }
    async fn forget(&self, room: &RoomId) -> Result<()> {
        self.log.forget(room).await
    }
}

/// The backends of a server with a log that is cut off.
fn cut_off(server: &Server) -> (Backends, Arc<AtomicBool>) {
    let cut = Arc::new(AtomicBool::new(true));
    let mut backends = server.backends.clone();
    backends.log = Arc::new(Cuttable {
        log: Arc::clone(&server.backends.log),
        cut: Arc::clone(&cut),
        ahead: 0,
    });
    (backends, cut)
}

/// Waits, for ten seconds at most, until something holds.
async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_hold_and_are_announced_once_the_log_is_back() {
    let server = Server::start().await;
    let room = server.room_of_three("private").await;
    let id = RoomId::parse(room.rsplit('/').next().unwrap()).unwrap();
    let user = |name: &str| UserId::parse(name).unwrap();
    let (backends, cut) = cut_off(&server);
    let rooms = Rooms::new(backends, true);
    let before = server.log(&room).await;

    rooms
        .remove_member(&user("owner"), &id, &user("member"))
        .await
        .unwrap();
    rooms
        .set_role(&user("owner"), &id, &user("admin"), Role::Owner)
        .await
        .unwrap();
    assert!(rooms.member(&user("member"), &id).await.is_err());
    assert_eq!(server.log(&room).await, before);

    cut.store(false, Ordering::SeqCst);
    let directory = &server.backends.directory;
    eventually(async || directory.unannounced(10).await.unwrap().is_empty()).await;
    let log = server.log(&room).await;
    assert_eq!(log[before.len()..], ["member removed", "admin role"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_announced_even_if_the_log_is_away_at_the_start() {
    let server = Server::start().await;
    let room = server.room("alice", "public").await;
    let id = RoomId::parse(room.rsplit('/').next().unwrap()).unwrap();
    let bob = UserId::parse("bob").unwrap();
    let directory = &server.backends.directory;
    let joined = directory.put_member(&id, &bob, Role::Member, &bob).await;
    joined.unwrap();
    let (backends, cut) = cut_off(&server);
    Rooms::new(backends, true).announce_leftovers().await;
    assert_eq!(directory.unannounced(10).await.unwrap().len(), 1);
    cut.store(false, Ordering::SeqCst);
    eventually(async || directory.unannounced(10).await.unwrap().is_empty()).await;
    let log = server.log(&room).await;
    assert_eq!(log.last().unwrap(), "bob joined");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_deleted_at_once_and_its_log_when_it_can_be() {
    let server = Server::start().await;
    let room = server.room_of_three("private").await;
    let id = RoomId::parse(room.rsplit('/').next().unwrap()).unwrap();
    let owner = UserId::parse("owner").unwrap();
    let (backends, cut) = cut_off(&server);
    let rooms = Rooms::new(backends, true);
    rooms.delete(&owner, &id).await.unwrap();
    assert!(rooms.member(&owner, &id).await.is_err());
    server.get("owner", &room).await.expect_no_room();
    assert!(!server.log(&room).await.is_empty());

    cut.store(false, Ordering::SeqCst);
    eventually(async || server.log(&room).await.is_empty()).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_finished_by_whoever_starts_after_a_crash_in_its_middle() {
    let server = Server::start().await;
    let room = server.room_of_three("private").await;
    let id = RoomId::parse(room.rsplit('/').next().unwrap()).unwrap();
    let owner = UserId::parse("owner").unwrap();
    let directory = &server.backends.directory;
    // All that the crashed one came to.
    directory.delete_room(&id, &owner).await.unwrap();
    assert!(!server.log(&room).await.is_empty());
    let rooms = Rooms::new(server.backends.clone(), true);
    rooms.announce_leftovers().await;
    eventually(async || directory.unannounced(10).await.unwrap().is_empty()).await;
    assert!(server.log(&room).await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_holds_up_nothing_that_waits_behind_it() {
    let server = Server::start().await;
    let (deleted, room) = (
        server.room("owner", "public").await,
        server.room("owner", "public").await,
    );
    let id = |path: &str| RoomId::parse(path.rsplit('/').next().unwrap()).unwrap();
    let owner = UserId::parse("owner").unwrap();
    let directory = &server.backends.directory;
    directory.delete_room(&id(&deleted), &owner).await.unwrap();
    // More than are announced at once.
    for n in 0..300 {
        let user = UserId::parse(&format!("user-{n}")).unwrap();
        let room = id(&room);
        let joined = directory.put_member(&room, &user, Role::Member, &user);
        joined.await.unwrap();
    }
    let rooms = Rooms::new(server.backends.clone(), true);
    rooms.announce_leftovers().await;
    eventually(async || directory.unannounced(10).await.unwrap().is_empty()).await;
    assert_eq!(server.log(&room).await.last().unwrap(), "user-299 joined");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_cannot_be_read_yet_holds_nobody_up() {
    let ahead = |backends: &mut Backends| {
        backends.log = Arc::new(Cuttable {
            log: Arc::clone(&backends.log),
            cut: Arc::default(),
            ahead: 10,
        });
    };
    let server = Server::start_over(ahead, |_| History::Here).await;
    let room = server.room("alice", "public").await;
    let id = RoomId::parse(room.rsplit('/').next().unwrap()).unwrap();
    let say = async |text: &str| {
        let path = format!("{room}/messages");
        let said = server
            .post(
                "alice",
                &path,
                json!({ "id": MessageId::generate(), "text": text }),
            )
            .await;
        said.expect(201);
    };
    say("first").await;
    let mut reader = Online::connect(&server, "alice").await;
    reader.subscribe_after(&id, Some(Seq::ZERO)).await;
    let is = |text: &'static str| {
        move |frame: &ServerFrame| match frame {
            ServerFrame::Event(event) => {
                matches!(&event.body, EventBody::Message { text: said, .. } if said == text)
            }
            _ => false,
        }
    };
    reader.until(is("first")).await;
    // The only worker goes on.
    for text in ["second", "third"] {
        say(text).await;
        reader.until(is(text)).await;
    }
    reader.0.close().await;
    server.stop().await;
}
