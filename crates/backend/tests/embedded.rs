//! The embedded family: what only it promises.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use backend::directory::{NewRoom, RoomKind};
use backend::log::{Append, Appended};
use backend::relay::{Signal, Sink};
use backend::search::Query;
use backend::{Backends, Config, Error, open};
use protocol::{Event, EventBody, MessageId, RoomId, Seq, Timestamp, UserId};
use rusqlite::Connection;
use rustix::mount::{self, MountFlags, UnmountFlags};
use tokio::task::JoinHandle;

async fn family(dir: &Path) -> Backends {
    try_family(dir).await.unwrap()
}

async fn try_family(dir: &Path) -> backend::Result<Backends> {
    open(Config::Embedded {
        data_dir: dir.to_owned(),
    })
    .await
}

/// Why the folder cannot be opened.
async fn refusal(dir: &Path) -> String {
    match try_family(dir).await {
        Ok(_) => panic!("{} was opened", dir.display()),
        Err(error @ (Error::Refused(_) | Error::Corrupt(_))) => error.to_string(),
        Err(error) => panic!("{error:?}"),
    }
}

fn general() -> RoomId {
    RoomId::parse("general").unwrap()
}

fn message(text: &str) -> Append {
    Append {
        room: general(),
        from: UserId::parse("alice").unwrap(),
        id: MessageId::generate(),
        body: EventBody::Message {
            text: text.to_owned(),
            reply_to: None,
            meta: None,
        },
    }
}

async fn append(family: &Backends, text: &str) -> Appended {
    family.log.append(message(text)).await.unwrap()
}

async fn search(family: &Backends, words: &str) -> Vec<u64> {
    let query = Query {
        text: words.to_owned(),
        rooms: vec![general()],
        from: None,
        since: None,
        until: None,
        cursor: None,
        limit: 10,
    };
    let hits = family.search.search(&query).await.unwrap();
    hits.iter().map(|hit| hit.seq.get()).collect()
}

async fn all(family: &Backends) -> Vec<Arc<Event>> {
    let page = family.log.read(&general(), Seq::ZERO, 1_000_000).await;
    page.unwrap().events
}

async fn trouble(family: &Backends, name: &str) -> Option<String> {
    let dependencies = family.health.check().await;
    let found = dependencies.into_iter().find(|found| found.name == name);
    found.unwrap().trouble
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looked = tokio::time::timeout(Duration::from_secs(10), async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    looked
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"));
}

#[tokio::test]
async fn reopening_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let first = family(dir.path()).await;
    let act = message("hi there");
    let stored = first.log.append(act.clone()).await.unwrap();
    let new = NewRoom {
        id: general(),
        kind: RoomKind::Private,
        name: "G".to_owned(),
        topic: String::new(),
        by: act.from.clone(),
        at: Timestamp::now(),
    };
    let made = first.directory.create_room(new, None).await.unwrap();
    first.health.close().await;

    let second = family(dir.path()).await;
    assert_eq!(second.log.head(&general()).await.unwrap().get(), 1);
    assert_eq!(all(&second).await, std::slice::from_ref(&stored.event));
    let again = second.log.append(act.clone()).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.event, stored.event);
    let room = second.directory.room(&general()).await.unwrap();
    assert_eq!(room, Some(made.value));
    let waiting = second.directory.unannounced(10).await.unwrap();
    assert_eq!(waiting, made.announce);
    assert_eq!(search(&second, "there").await, [1]);
    let next = append(&second, "next").await.event;
    assert_eq!((next.prev, next.seq.get()), (Some(stored.event.seq), 2));
    assert!(next.at >= stored.event.at);
    for dependency in second.health.check().await {
        assert_eq!(dependency.trouble, None, "{}", dependency.name);
    }
    second.health.close().await;
}

/// More is written than the write-ahead log may ever hold, by many at once and without a pause.
#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_is_copied_while_it_is_written() {
    const MIB: u64 = 1024 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let length = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
    let family = family(dir.path()).await;
    assert_eq!(length("darda.db-wal"), 8 * MIB, "it is long from the start");
    let senders: Vec<_> = (0..32)
        .map(|_| {
            let log = family.log.clone();
            tokio::spawn(async move {
                for _ in 0..400 {
                    log.append(message(&"x".repeat(4000))).await.unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let (log, database) = (length("darda.db-wal"), length("darda.db"));
    // Nobody waits for a reader whose transaction needs what is in it, so this bound is twice what the writer aims at.
    assert!(log <= 48 * MIB, "the log has {} MiB", log / MIB);
    assert!(
        database >= 24 * MIB,
        "the database has {} MiB",
        database / MIB
    );
    assert_eq!(all(&family).await.len(), 12_800);
    family.health.close().await;
}

/// A room of the directory with a log, as a crash in the middle of its deletion leaves it.
#[tokio::test]
async fn a_deletion_that_a_crash_broke_off_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let first = family(dir.path()).await;
    let new = NewRoom {
        id: general(),
        kind: RoomKind::Private,
        name: String::new(),
        topic: String::new(),
        by: UserId::parse("alice").unwrap(),
        at: Timestamp::now(),
    };
    first.directory.create_room(new, None).await.unwrap();
    append(&first, "secret words").await;
    assert_eq!(search(&first, "secret").await, [1]);
    let alice = UserId::parse("alice").unwrap();
    first
        .directory
        .delete_room(&general(), &alice)
        .await
        .unwrap();
    first.health.close().await;

    for start in 0..2 {
        let next = family(dir.path()).await;
        if start == 0 {
            // What was to be announced is there.
            let end = next.directory.unannounced(10).await.unwrap();
            let [end] = &end[..] else {
                panic!("{end:?}");
            };
            next.log.append(end.clone()).await.unwrap();
            next.log.forget(&general()).await.unwrap();
        }
        assert_eq!(next.log.head(&general()).await.unwrap(), Seq::ZERO);
        assert!(all(&next).await.is_empty());
        assert_eq!(search(&next, "secret").await, [0_u64; 0]);
        let late = next.log.append(message("late")).await;
        assert!(matches!(late, Err(Error::NotFound(_))), "{late:?}");
        let beside = Append {
            room: RoomId::parse("random").unwrap(),
            ..message("goes on")
        };
        next.log.append(beside).await.unwrap();
        next.health.close().await;
    }
    let count = |file: &str, sql: &str| -> i64 {
        let file = Connection::open(dir.path().join(file)).unwrap();
        file.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let left = "SELECT count(*) FROM events WHERE text LIKE '%secret%'";
    assert_eq!(count("darda.db", left), 0);
    let left = "SELECT count(*) FROM texts WHERE texts MATCH 'secret'";
    assert_eq!(count("search.db", left), 0);
}

#[tokio::test]
async fn a_clock_that_was_ahead_stops_the_time_of_no_other_room() {
    const DAY: i64 = 24 * 3600 * 1000;
    let dir = tempfile::tempdir().unwrap();
    let first = family(dir.path()).await;
    append(&first, "apple one").await;
    let ahead = append(&first, "apple two").await.event;
    first.health.close().await;
    let log = Connection::open(dir.path().join("darda.db")).unwrap();
    log.execute("UPDATE events SET at = at + ?1 WHERE seq = 2", [DAY])
        .unwrap();
    drop(log);
    let ahead_at = ahead.at.as_millis() + DAY;

    let second = family(dir.path()).await;
    let random = RoomId::parse("random").unwrap();
    let before = Timestamp::now();
    let beside = Append {
        room: random.clone(),
        ..message("apple three")
    };
    let beside = second.log.append(beside).await.unwrap().event;
    let soon = Timestamp::from_millis(Timestamp::now().as_millis() + 1);
    assert!(before <= beside.at && beside.at < soon, "{:?}", beside.at);
    let same = append(&second, "apple four").await.event;
    assert_eq!(same.at.as_millis(), ahead_at, "times never fall in a room");
    let first_at = second.log.first_at(&general(), soon).await.unwrap();
    assert_eq!(first_at.get(), 2);

    let found = async |since: Option<Timestamp>, until: Option<Timestamp>| -> Vec<String> {
        let query = Query {
            text: "apple".to_owned(),
            rooms: vec![general(), random.clone()],
            from: None,
            since,
            until,
            cursor: None,
            limit: 10,
        };
        let hits = second.search.search(&query).await.unwrap();
        hits.into_iter().map(|hit| hit.text).collect()
    };
    let ahead = ["apple four", "apple two"];
    assert_eq!(found(Some(soon), None).await, ahead);
    assert_eq!(found(None, Some(soon)).await, ["apple three", "apple one"]);
    let present = ["apple four", "apple three", "apple two"];
    assert_eq!(found(Some(before), None).await, present);
    assert_eq!(found(Some(before), Some(soon)).await, ["apple three"]);
    second.health.close().await;
}

/// Senders that go on until told to stop, and what was acknowledged to them.
struct Load {
    acked: Arc<Mutex<Vec<Arc<Event>>>>,
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(family: &Backends) -> Self {
        let acked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let senders = (0..16)
            .map(|_| {
                let (log, acked, stop) = (family.log.clone(), acked.clone(), stop.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Acquire) {
                        let event = log.append(message("load")).await.unwrap().event;
                        acked.lock().unwrap().push(event);
                    }
                })
            })
            .collect();
        Self {
            acked,
            stop,
            senders,
        }
    }

    fn acked(&self) -> Vec<Arc<Event>> {
        self.acked.lock().unwrap().clone()
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Release);
        for sender in self.senders {
            sender.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_taken_under_load_has_every_acknowledged_event() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let live = family(dir.path()).await;
    let load = Load::start(&live);
    until("some load", async || load.acked().len() >= 200).await;
    let acked = load.acked();
    // What a crash leaves: the write-ahead log up to some byte. It is too short for a checkpoint to come between.
    for name in ["darda.db", "darda.db-wal"] {
        fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    load.end().await;
    live.health.close().await;

    let revived = family(copy.path()).await;
    let stored = all(&revived).await;
    for event in &acked {
        let place = usize::try_from(event.seq.get()).unwrap() - 1;
        assert_eq!(stored.get(place), Some(event));
    }
    for pair in stored.windows(2) {
        assert_eq!(pair[1].prev, Some(pair[0].seq));
    }
    let next = append(&revived, "next").await.event;
    assert_eq!(next.prev, stored.last().map(|event| event.seq));
    revived.health.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_answers_everybody_and_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let first = family(dir.path()).await;
    let senders: Vec<_> = (0..500)
        .map(|_| {
            let log = first.log.clone();
            tokio::spawn(async move { log.append(message("x")).await })
        })
        .collect();
    append(&first, "one of them").await;
    first.health.close().await;
    let mut acked = 1;
    for sender in senders {
        match sender.await.unwrap() {
            Ok(_) => acked += 1,
            Err(Error::Unavailable { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    let head = first.log.head(&general()).await;
    assert!(matches!(head, Err(Error::Unavailable { .. })), "{head:?}");
    let read = first.directory.room(&general()).await;
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    assert!(!dir.path().join("darda.db-wal").exists(), "all is in place");

    let second = family(dir.path()).await;
    assert_eq!(all(&second).await.len(), acked);
    second.health.close().await;
}

#[tokio::test]
async fn a_family_that_was_only_dropped_gives_its_folder_back() {
    let dir = tempfile::tempdir().unwrap();
    drop(family(dir.path()).await);
    until("the folder", async || match try_family(dir.path()).await {
        Ok(family) => {
            family.health.close().await;
            true
        }
        Err(_) => false,
    })
    .await;
}

#[tokio::test]
async fn a_folder_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    let first = family(&data).await;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&data).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
    let text = refusal(&data).await;
    assert!(text.contains(data.to_str().unwrap()), "{text}");
    assert!(text.contains("another process"), "{text}");
    first.health.close().await;
    family(&data).await.health.close().await;
}

#[tokio::test]
async fn files_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("darda.db");

    fs::write(&path, "this is no database, but a letter").unwrap();
    let text = refusal(dir.path()).await;
    assert!(text.contains("not a database"), "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");

    fs::remove_file(&path).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE recipes (x)").unwrap();
    drop(other);
    let text = refusal(dir.path()).await;
    assert!(text.contains("another program"), "{text}");

    fs::remove_file(&path).unwrap();
    family(dir.path()).await.health.close().await;
    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let text = refusal(dir.path()).await;
    assert!(text.contains("version 99"), "{text}");
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("darda.db");
    let first = family(dir.path()).await;
    for _ in 0..200 {
        append(&first, &"words ".repeat(50)).await;
    }
    first.health.close().await;
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0xA5);
    fs::write(&path, bytes).unwrap();
    let text = refusal(dir.path()).await;
    assert!(text.starts_with("corrupt"), "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert!(text.contains("backup"), "{text}");
}

#[tokio::test]
async fn the_search_index_is_made_again_when_it_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("search.db");
    let first = family(dir.path()).await;
    append(&first, "apple").await;
    let delete = Append {
        body: EventBody::Delete {
            target: Seq::new(2).unwrap(),
        },
        ..message("")
    };
    append(&first, "apple pie").await;
    append(&first, "plum").await;
    first.log.append(delete).await.unwrap();
    assert_eq!(search(&first, "apple").await, [1]);
    first.health.close().await;
    let good = fs::read(&index).unwrap();

    let mut cut = good.clone();
    cut.truncate(4096);
    let mut damaged = good.clone();
    damaged[4096..].fill(0x5A);
    let mut torn = good.clone();
    let middle = torn.len() / 2;
    torn[middle..].fill(0);
    for bad in [
        None,
        Some(b"junk".to_vec()),
        Some(cut),
        Some(damaged),
        Some(torn),
    ] {
        match &bad {
            Some(bytes) => fs::write(&index, bytes).unwrap(),
            None => fs::remove_file(&index).unwrap(),
        }
        let again = family(dir.path()).await;
        // A search that meets the damage first is unavailable until the index is there again.
        until("the index", async || {
            let query = Query {
                text: "apple".to_owned(),
                rooms: vec![general()],
                from: None,
                since: None,
                until: None,
                cursor: None,
                limit: 10,
            };
            let found = again.search.search(&query).await;
            found.is_ok_and(|hits| hits.len() == 1 && hits[0].seq.get() == 1)
        })
        .await;
        assert_eq!(search(&again, "plum").await, [3]);
        assert_eq!(trouble(&again, "search").await, None);
        again.health.close().await;
    }

    // The index of a longer log: the log is a restored backup.
    for name in ["darda.db", "darda.db-wal", "darda.db-shm"] {
        let _ = fs::remove_file(dir.path().join(name));
    }
    let restored = family(dir.path()).await;
    append(&restored, "cherry").await;
    assert_eq!(search(&restored, "apple").await, [0_u64; 0]);
    assert_eq!(search(&restored, "cherry").await, [1]);
    restored.health.close().await;
}

/// A sink that fails at first, then blocks until it is let go.
#[derive(Default)]
struct Difficult {
    calls: Mutex<usize>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Sink for Difficult {
    fn events(&self, _: &[Arc<Event>]) {
        let calls = {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            *calls
        };
        assert!(calls > 1, "the first call fails");
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }

    fn signal(&self, _: &Signal) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_said_and_a_failing_sink_hurts_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let family = family(dir.path()).await;
    let sink = Arc::new(Difficult::default());
    family.relay.attach(sink.clone());
    append(&family, "the sink fails").await;

    let mut calls: Vec<_> = (0..6000)
        .map(|_| {
            let log = family.log.clone();
            Box::pin(async move { log.append(message("x")).await })
        })
        .collect();
    let (mut waiting, mut overloaded) = (Vec::new(), 0);
    for mut call in calls.drain(..) {
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx)));
        match polled.await {
            std::task::Poll::Pending => waiting.push(call),
            std::task::Poll::Ready(Err(Error::Overloaded { .. })) => overloaded += 1,
            std::task::Poll::Ready(other) => panic!("{other:?}"),
        }
    }
    assert!(overloaded > 0, "the queue is bounded");
    *sink.open.lock().unwrap() = true;
    sink.opened.notify_all();
    let accepted = waiting.len();
    for call in waiting {
        call.await.unwrap();
    }
    assert_eq!(all(&family).await.len(), accepted + 1);
    family.health.close().await;
}

/// A small file system of its own, where the test may make one.
struct Disk {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::create_dir(&path).unwrap();
        let options = CString::new(format!("size={size}")).unwrap();
        // No program is started for it: between fork and exec it would hold the locks of the tests beside this one.
        if mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), &*options).is_ok() {
            return Some(Self { path, _dir: dir });
        }
        testbed::skipped("root for a tmpfs");
        None
    }

    fn make_read_only(&self) {
        mount::mount_remount(&self.path, MountFlags::RDONLY, c"").unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = mount::unmount(&self.path, UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_honest_outage() {
    let Some(disk) = Disk::mount("6m") else {
        return;
    };
    let data = disk.path.join("data");
    let ballast = disk.path.join("ballast");
    fs::write(&ballast, vec![1; 2 * 1024 * 1024]).unwrap();
    let family = family(&data).await;
    let text = "words ".repeat(2000);
    let mut acked = Vec::new();
    let failed = 'full: loop {
        let act = message(&text);
        // A refusal need not be the last: what is copied out of the write-ahead log meanwhile makes room in it.
        for _ in 0..2 {
            match family.log.append(act.clone()).await {
                Ok(appended) => {
                    acked.push(appended.event);
                    assert!(acked.len() < 2000, "the disk has a size");
                    continue 'full;
                }
                Err(Error::Unavailable { message, .. }) => {
                    assert!(message.contains("full"), "{message}");
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        break act;
    };
    assert!(!acked.is_empty());
    // Reads go on, nothing half-written is seen, and health says what is wrong.
    assert_eq!(all(&family).await, acked);
    let head = family.log.head(&general()).await.unwrap();
    assert_eq!(Some(head), acked.last().map(|event| event.seq));
    let said = trouble(&family, "database").await.unwrap_or_default();
    assert!(said.contains("full"), "{said}");

    // With room again, the next append works and continues the chain.
    fs::remove_file(&ballast).unwrap();
    let appended = family.log.append(failed.clone()).await.unwrap();
    assert_eq!(appended.event.prev, Some(head));
    acked.push(appended.event);
    assert_eq!(all(&family).await, acked);
    assert!(family.log.append(failed).await.unwrap().duplicate);
    assert_eq!(trouble(&family, "database").await, None);
    family.health.close().await;

    let reopened = self::family(&data).await;
    assert_eq!(all(&reopened).await, acked);
    reopened.health.close().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_refused() {
    let Some(disk) = Disk::mount("2m") else {
        return;
    };
    let data = disk.path.join("data");
    family(&data).await.health.close().await;
    disk.make_read_only();
    for dir in [data, disk.path.join("new")] {
        let text = refusal(&dir).await;
        assert!(text.contains(dir.to_str().unwrap()), "{text}");
    }
}
