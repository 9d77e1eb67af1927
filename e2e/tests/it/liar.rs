//! Somebody between clients and a server who breaks one promise on the wire, now and then. The judge has to name it; the
//! server behind does nothing wrong, so whatever else it names would be a mistake of the checker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use e2e::judge::{Kind, Verdict, judge};
use e2e::system::System;
use e2e::workload::{Plan, Pod, Workload};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{accept_hdr_async, client_async};

use crate::programs::programs;

/// Every so many frames of the kind in question, a lie is told.
const EVERY: u64 = 40;

/// What is done to the frames of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// None: the checker finds nothing.
    None,
    /// An event is left out.
    LeaveOut,
    /// An event is left out, and the next one says that it follows the one before.
    Hide,
    /// An event is shown twice.
    Repeat,
    /// Two events of a room change places.
    Swap,
    /// An event says something else.
    Alter,
    /// Somebody is shown an event that is in no log.
    Invent,
    /// An ack is made up for something that never reaches the server.
    FalseAck,
    /// An ack names another place.
    MisplacedAck,
    /// What was right is refused for good.
    Refuse,
    /// An act is passed on under another id as well.
    Double,
    /// Events stop coming at some time, and the connection lives on.
    Silence,
}

struct Liar {
    lie: Lie,
    server: String,
    count: AtomicU64,
}

/// What one connection remembers.
#[derive(Default)]
struct Memory {
    /// The event that waits to be passed on behind the next one of its room.
    kept: Option<Value>,
    /// The event that was left out.
    hidden: Option<Value>,
    events: u64,
}

impl Liar {
    /// Whether it is time.
    fn is_time(&self) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed) % EVERY == EVERY - 1
    }

    /// What the client gets instead of a frame of the server.
    fn down(&self, mut frame: Value, memory: &mut Memory) -> Vec<Value> {
        if frame["type"] == "ack" && self.lie == Lie::MisplacedAck && self.is_time() {
            frame["seq"] = json!(frame["seq"].as_u64().unwrap() + 1);
        }
        if frame["type"] != "event" {
            return vec![frame];
        }
        memory.events += 1;
        if let Some(hidden) = memory
            .hidden
            .take_if(|hidden| hidden["room"] == frame["room"])
        {
            frame["prev"] = hidden["prev"].clone();
            return vec![frame];
        }
        if let Some(kept) = memory.kept.take_if(|kept| kept["room"] == frame["room"]) {
            return vec![frame, kept];
        }
        // Whoever has just come would notice nothing: what it lacks lies before its position.
        if memory.events < 20 || memory.kept.is_some() || memory.hidden.is_some() {
            return vec![frame];
        }
        match self.lie {
            Lie::Silence => vec![],
            Lie::LeaveOut if self.is_time() => vec![],
            Lie::Hide if self.is_time() => {
                memory.hidden = Some(frame);
                vec![]
            }
            Lie::Repeat if self.is_time() => vec![frame.clone(), frame],
            Lie::Swap if self.is_time() => {
                memory.kept = Some(frame);
                vec![]
            }
            Lie::Alter if frame["kind"] == "message" && self.is_time() => {
                frame["text"] = json!("something else");
                vec![frame]
            }
            Lie::Invent if self.is_time() => {
                let seq = frame["seq"].as_u64().unwrap();
                let mut invented = frame.clone();
                (invented["seq"], invented["prev"]) = (json!(seq + 100_000), json!(seq));
                vec![frame, invented]
            }
            _ => vec![frame],
        }
    }

    /// What the server gets instead of a frame of the client, and what the client gets at once.
    fn up(&self, frame: Value) -> (Vec<Value>, Option<Value>) {
        let is_send = frame["type"] == "send";
        match self.lie {
            Lie::FalseAck if is_send && self.is_time() => {
                let at = "2026-11-21T11:00:00.000Z";
                let (id, room) = (&frame["id"], &frame["room"]);
                let ack = json!({"type": "ack", "id": id, "room": room, "seq": 5, "at": at});
                (vec![], Some(ack))
            }
            Lie::Refuse if is_send && self.is_time() => {
                let error = json!({
                    "type": "error", "id": frame["id"], "code": "forbidden", "message": "no",
                });
                (vec![], Some(error))
            }
            Lie::Double if is_send && self.is_time() => {
                let mut again = frame.clone();
                again["id"] = json!(uuid::Uuid::now_v7());
                (vec![frame, again], None)
            }
            _ => (vec![frame], None),
        }
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream) {
        let mut begin = [0; 64];
        let Ok(read) = client.peek(&mut begin).await else {
            return;
        };
        let Ok(mut server) = TcpStream::connect(&self.server).await else {
            return;
        };
        if !begin[..read].starts_with(b"GET /v1/ws") {
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
        let mut path = String::new();
        #[expect(
            clippy::result_large_err,
            reason = "the type that the library asks for"
        )]
        let note = |request: &Request, response: Response| {
            path = request.uri().to_string();
            Ok(response)
        };
        let Ok(client) = accept_hdr_async(client, note).await else {
            return;
        };
        let url = format!("ws://{}{path}", self.server);
        let Ok((server, _)) = client_async(url, server).await else {
            return;
        };
        let (mut to_client, mut from_client) = client.split();
        let (mut to_server, mut from_server) = server.split();
        let mut memory = Memory::default();
        loop {
            tokio::select! {
                Some(Ok(message)) = from_server.next() => {
                    let messages = match message {
                        Message::Text(text) => {
                            let frame = serde_json::from_str(&text).unwrap();
                            let frames = self.down(frame, &mut memory);
                            frames.iter().map(|frame| Message::text(frame.to_string())).collect()
                        }
                        other => vec![other],
                    };
                    for message in messages {
                        if to_client.send(message).await.is_err() {
                            return;
                        }
                    }
                }
                Some(Ok(message)) = from_client.next() => {
                    let messages = match message {
                        Message::Text(text) => {
                            let (frames, answer) = self.up(serde_json::from_str(&text).unwrap());
                            if let Some(answer) = answer
                                && to_client.send(Message::text(answer.to_string())).await.is_err()
                            {
                                return;
                            }
                            frames.iter().map(|frame| Message::text(frame.to_string())).collect()
                        }
                        other => vec![other],
                    };
                    for message in messages {
                        if to_server.send(message).await.is_err() {
                            return;
                        }
                    }
                }
                else => return,
            }
        }
    }
}

/// A session of some seconds with a liar before the server.
async fn session(system: &System, lie: Lie) -> Verdict {
    let liar = Arc::new(Liar {
        lie,
        server: system.pods()[0].address.authority().to_owned(),
        count: AtomicU64::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let accepts = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(liar.clone().serve(client));
        }
    });
    let pod = Pod {
        name: "liar".into(),
        address: address.parse().unwrap(),
    };
    let name = format!("lie-{}", format!("{lie:?}").to_lowercase());
    let mut plan = Plan::new(5, name);
    // A library mends what it can, and holes are for those who do not.
    (plan.libraries, plan.patience) = (0, Duration::from_secs(6));
    let workload = Workload::start(&plan, vec![pod]).unwrap();
    workload.recovered(0).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    let (history, ended) = workload.finish(Vec::new()).await;
    ended.unwrap();
    accepts.abort();
    judge(&history)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_lie_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut system = System::standalone(&programs(), folder.path())
        .await
        .unwrap();
    let lies: [(Lie, &[Kind]); 12] = [
        (Lie::None, &[]),
        (Lie::LeaveOut, &[Kind::Hole]),
        (Lie::Hide, &[Kind::Hole]),
        (Lie::Repeat, &[Kind::Doubled]),
        (Lie::Swap, &[Kind::Disordered]),
        (Lie::Alter, &[Kind::Altered]),
        (Lie::Invent, &[Kind::TakenBack]),
        (Lie::FalseAck, &[Kind::Lost]),
        (Lie::MisplacedAck, &[Kind::Lost, Kind::Moved]),
        (Lie::Refuse, &[Kind::Refused]),
        (Lie::Double, &[Kind::Foreign]),
        (Lie::Silence, &[Kind::Behind]),
    ];
    for (lie, expected) in lies {
        let verdict = session(&system, lie).await;
        println!("{lie:?}: {:?}", verdict.counts);
        for kind in expected {
            assert!(
                verdict.count(*kind) > 0,
                "{lie:?}: {:#?}",
                verdict.violations
            );
        }
        assert!(
            !expected.is_empty() || verdict.is_clean(),
            "{:#?}",
            verdict.violations
        );
    }
    system.end().await.unwrap();
}
