//! P1 to P5 under crashes: the process is killed again and again in the middle of a load, and started again on the
//! same folder, while senders send again what was not acked and readers resume from their positions.
//!
//! `DARDA_TEST_CRASHES` sets how often. This shows what a crash of the process does; the kernel lives on, so whether a
//! commit had reached the disk itself is not seen here.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use client::engine::{Config, OutboxState, Saved};
use client::{Client, ClientConfig, Update};
use protocol::{EventBody, RoomId, Seq, SubscribeRoom};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::chat::{Chat, Ended, new_id, send};
use crate::server::{PATIENCE, Server, eventually};

const ROOMS: [&str; 2] = ["harbour", "market"];
/// Messages that a sender has under way at most.
const WINDOW: usize = 16;
/// The text of the last message of each room.
const LAST: &str = "good night";

/// What senders and readers share with the one who pulls the plug.
struct World {
    address: String,
    acks: AtomicU64,
    /// No new messages; what is in the outboxes is still sent.
    stop: AtomicBool,
}

/// A message in an outbox.
struct Draft {
    id: String,
    room: &'static str,
    text: String,
}

/// What a sender knows in the end.
struct Sent {
    user: String,
    /// By id: room, acked seq, text.
    acked: HashMap<String, (&'static str, u64, String)>,
}

async fn connect(world: &World, user: &str) -> Chat {
    let connected = async {
        loop {
            match Chat::at(&world.address, user).await {
                Ok(chat) => return chat,
                // Nobody is there at the moment.
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(PATIENCE, connected)
        .await
        .expect("no server comes back")
}

/// Sends until told to stop, and then until everything is acked.
async fn sender(world: Arc<World>, user: String, subscribes: bool) -> Sent {
    let mut outbox: VecDeque<Draft> = VecDeque::new();
    let mut sent = Sent {
        user: user.clone(),
        acked: HashMap::new(),
    };
    let mut count = 0;
    loop {
        let mut chat = connect(&world, &user).await;
        if subscribes {
            // Such sends take the short way through the server.
            let rooms: Vec<_> = ROOMS.iter().map(|room| json!({"room": room})).collect();
            chat.say(json!({"type": "subscribe", "rooms": rooms})).await;
        }
        chat.say_all(outbox.iter().map(Draft::frame)).await;
        let ended = loop {
            if world.stop.load(Ordering::Relaxed) {
                if outbox.is_empty() {
                    return sent;
                }
            } else {
                let mut new = Vec::new();
                while outbox.len() < WINDOW {
                    count += 1;
                    let draft = Draft {
                        id: new_id(),
                        room: ROOMS[count % ROOMS.len()],
                        text: format!("{user} {count}"),
                    };
                    new.push(draft.frame());
                    outbox.push_back(draft);
                }
                chat.say_all(new).await;
            }
            match chat.next().await {
                Ok(frame) => take(&world, &mut outbox, &mut sent, &frame),
                Err(ended) => break ended,
            }
        };
        // A killed process says no good-bye.
        assert_eq!(ended, Ended(None));
    }
}

impl Draft {
    fn frame(&self) -> Value {
        send(&self.id, self.room, &self.text)
    }
}

fn take(world: &World, outbox: &mut VecDeque<Draft>, sent: &mut Sent, frame: &Value) {
    match frame["type"].as_str().unwrap() {
        "ack" => {
            let (id, seq) = (
                frame["id"].as_str().unwrap(),
                frame["seq"].as_u64().unwrap(),
            );
            world.acks.fetch_add(1, Ordering::Relaxed);
            if let Some(at) = outbox.iter().position(|draft| draft.id == id) {
                let draft = outbox.remove(at).unwrap();
                sent.acked.insert(draft.id, (draft.room, seq, draft.text));
            } else {
                assert_eq!(sent.acked[id].1, seq, "{id} was acked in two places");
            }
        }
        "error" => panic!("{frame}"),
        _ => {}
    }
}

/// A reader of one room, who keeps a position and nothing else, until the last message.
async fn reader(world: Arc<World>, room: &'static str, name: String) -> Vec<Value> {
    let mut seen: Vec<Value> = Vec::new();
    loop {
        let mut chat = connect(&world, &name).await;
        let after = seen.last().map_or(0, seq);
        let wanted = json!([{"room": room, "after": after}]);
        chat.say(json!({"type": "subscribe", "rooms": wanted}))
            .await;
        while let Ok(mut frame) = chat.next().await {
            match frame["type"].as_str().unwrap() {
                "subscribed" => {
                    // A head before what was shown would mean that something shown was lost.
                    assert!(frame["head"].as_u64().unwrap() >= after, "{frame}");
                    assert_eq!(frame["after"], after);
                }
                "event" => {
                    let position = seen.last().map_or(0, seq);
                    assert_eq!(frame["prev"], position, "{name} has a hole: {frame}");
                    frame.as_object_mut().unwrap().remove("type");
                    seen.push(frame);
                    if seen.last().unwrap()["text"] == LAST {
                        return seen;
                    }
                }
                "error" => panic!("{frame}"),
                _ => {}
            }
        }
    }
}

fn seq(event: &Value) -> u64 {
    event["seq"].as_u64().unwrap()
}

/// What the client library reads and sends, which connects, resumes and sends again by itself: seqs, and ids by seq.
async fn library(world: Arc<World>, room: &'static str) -> (Vec<u64>, BTreeMap<u64, String>) {
    let room = RoomId::parse(room).unwrap();
    let (handle, mut updates) = Client::connect(ClientConfig {
        url: format!("ws://{}/v1/ws?id=library", world.address),
        engine: Config {
            backoff_base_ms: 5,
            backoff_cap_ms: 100,
            ..Config::default()
        },
        saved: Saved::default(),
    });
    let wanted = SubscribeRoom {
        room: room.clone(),
        after: Some(Seq::ZERO),
    };
    handle.subscribe(vec![wanted]).await.unwrap();
    let (mut seen, mut sent) = (Vec::new(), BTreeMap::new());
    let (mut count, mut waiting, mut is_over) = (0, 0, false);
    while !is_over || waiting > 0 {
        while waiting < 4 && !world.stop.load(Ordering::Relaxed) {
            count += 1;
            let text = format!("library {count}");
            handle.send(room.clone(), text).await.unwrap();
            waiting += 1;
        }
        let update = timeout(PATIENCE, updates.next()).await;
        match update.expect("the client is stuck").unwrap() {
            Update::Event(event) => {
                seen.push(event.seq.get());
                is_over |= matches!(&event.body, EventBody::Message { text, .. } if text == LAST);
            }
            Update::Outbox { id, state } => match state {
                OutboxState::Sent { seq, .. } => {
                    assert_eq!(sent.insert(seq.get(), id.to_string()), None);
                    waiting -= 1;
                }
                OutboxState::Failed { .. } => panic!("{state:?}"),
                _ => {}
            },
            Update::ResetRoom { .. } | Update::RoomClosed { .. } => panic!("the room was lost"),
            _ => {}
        }
    }
    (seen, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_nothing_acked_is_lost_and_nothing_shown_is_taken_back() {
    let rounds: u64 = std::env::var("DARDA_TEST_CRASHES")
        .ok()
        .map_or(10, |rounds| rounds.parse().unwrap());
    let mut server = Server::start().await;
    let world = Arc::new(World {
        address: server.http.to_string(),
        acks: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let senders: Vec<_> = (0..4)
        .map(|n| tokio::spawn(sender(world.clone(), format!("sender-{n}"), n % 2 == 0)))
        .collect();
    let readers: Vec<_> = (0..6)
        .map(|n| {
            let room = ROOMS[n % ROOMS.len()];
            let reader = reader(world.clone(), room, format!("reader-{n}"));
            (room, tokio::spawn(reader))
        })
        .collect();
    let library = tokio::spawn(library(world.clone(), ROOMS[0]));

    for round in 0..rounds {
        // Another moment each time, from the first acks after the start to well into the load.
        let enough = world.acks.load(Ordering::Relaxed) + 1 + (round * 97) % 331;
        eventually("the load", async || {
            (world.acks.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
        server.kill_and_start_again().await;
    }
    world.stop.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    for sender in senders {
        sent.push(sender.await.unwrap());
    }
    let mut judge = Chat::open(&server, "judge").await;
    for room in ROOMS {
        judge.send(room, LAST).await;
    }
    let mut seen = Vec::new();
    for (room, reader) in readers {
        seen.push((room, reader.await.unwrap()));
    }
    let (library_saw, library_sent) = library.await.unwrap();

    // What is on the disk is what counts.
    server.kill_and_start_again().await;
    let mut acked = 0;
    for room in ROOMS {
        let log = server.log_of(room, "judge").await;
        check_log(&log);
        for sent in &sent {
            for (id, (_, seq, text)) in sent.acked.iter().filter(|(_, sent)| sent.0 == room) {
                let event = &log[*seq as usize - 1];
                let stored = [&event["id"], &event["from"], &event["text"]];
                assert_eq!(stored, [id.as_str(), &sent.user, text], "acked as {seq}");
                acked += 1;
            }
        }
        for (_, seen) in seen.iter().filter(|(of, _)| *of == room) {
            assert_eq!(seen[..], log[..seen.len()]);
        }
        if room == ROOMS[0] {
            assert!(library_saw.iter().copied().eq(1..=library_saw.len() as u64));
            for (seq, id) in &library_sent {
                assert_eq!(log[*seq as usize - 1]["id"], id.as_str());
            }
        }
    }
    println!(
        "{rounds} crashes, {acked} acked messages, {} by the library",
        library_sent.len()
    );
    assert!(!library_sent.is_empty());
    assert_eq!(server.metric("chat_log_violations_total").await, 0.0);
    assert_eq!(server.metric("chat_resume_gap_total").await, 0.0);
}

/// From 1, each after the one before, no act twice.
fn check_log(log: &[Value]) {
    let mut acts = HashSet::new();
    for (event, seq) in log.iter().zip(1_u64..) {
        assert_eq!(
            (&event["seq"], &event["prev"]),
            (&json!(seq), &json!(seq - 1))
        );
        assert!(
            acts.insert((&event["from"], &event["id"])),
            "twice: {event}"
        );
    }
}
