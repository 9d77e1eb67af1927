//! The client over real sockets. The other end is played by the test, frame by frame.

use std::time::Duration;

use client::engine::{Config, OutboxState, Saved, State};
use client::{Client, ClientConfig, Handle, Incoming, Socket, SocketError, Update, Updates};
use futures_util::{SinkExt, StreamExt};
use protocol::{
    ClientFrame, Event, EventBody, Hello, Limits, MessageId, RoomId, Seq, ServerFrame, SessionId,
    SubscribeRoom, Subscribed, Timestamp, UserId, Welcome,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

fn room() -> RoomId {
    RoomId::parse("general").unwrap()
}

fn alice() -> UserId {
    UserId::parse("alice").unwrap()
}

fn event(seq: u64) -> ServerFrame {
    ServerFrame::Event(
        Event {
            room: room(),
            seq: Seq::new(seq).unwrap(),
            prev: Some(Seq::new(seq - 1).unwrap()),
            at: Timestamp::from_millis(0),
            from: Some(UserId::parse("bob").unwrap()),
            id: Some(MessageId::generate()),
            body: EventBody::Message {
                text: "x".repeat(1000),
                reply_to: None,
                meta: None,
            },
        }
        .into(),
    )
}

/// The server's end of a connection.
struct Peer(WebSocketStream<TcpStream>);

impl Peer {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        Self(accept_async(stream).await.unwrap())
    }

    /// Accepts a client, takes its hello and its subscription, and returns from where it wants to read.
    async fn greet(listener: &TcpListener, head: u64) -> (Self, Seq) {
        let mut peer = Self::accept(listener).await;
        assert!(matches!(peer.next().await, Some(ClientFrame::Hello(_))));
        peer.send(&ServerFrame::Welcome(Welcome {
            session: SessionId::generate(),
            user: alice(),
            time: Timestamp::from_millis(0),
            heartbeat_secs: 25,
            limits: Limits::default(),
        }))
        .await;
        let Some(ClientFrame::Subscribe(subscribe)) = peer.next().await else {
            panic!("no subscription");
        };
        let after = subscribe.rooms[0].after.unwrap();
        peer.send(&ServerFrame::Subscribed(Subscribed {
            reference: subscribe.reference,
            room: room(),
            head: Seq::new(head).unwrap(),
            after,
            read: Seq::ZERO,
            members: 2,
            online: vec![],
        }))
        .await;
        (peer, after)
    }

    async fn send(&mut self, frame: &ServerFrame) {
        self.0.send(Message::text(frame.encode())).await.unwrap();
    }

    async fn next(&mut self) -> Option<ClientFrame> {
        while let Some(Ok(message)) = self.0.next().await {
            if let Message::Text(text) = message {
                return Some(ClientFrame::decode(text.as_bytes()).unwrap());
            }
        }
        None
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v1/ws", listener.local_addr().unwrap());
    (listener, url)
}

fn connect(url: String) -> (Handle, Updates) {
    let engine = Config {
        hello: Some(Hello {
            user: Some(alice()),
            ..Hello::default()
        }),
        backoff_base_ms: 10,
        ..Config::default()
    };
    let saved = Saved {
        positions: [(room(), Seq::ZERO)].into(),
        outbox: vec![],
    };
    Client::connect(ClientConfig { url, engine, saved })
}

async fn until<T>(updates: &mut Updates, mut wanted: impl FnMut(Update) -> Option<T>) -> T {
    let search = async {
        loop {
            let update = updates.next().await.expect("the client has ended");
            if let Some(found) = wanted(update) {
                return found;
            }
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, search)
        .await
        .expect("never came")
}

fn seq_of(update: Update) -> Option<u64> {
    match update {
        Update::Event(event) => Some(event.seq.get()),
        _ => None,
    }
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_broke() {
    let (listener, url) = listen().await;
    let (handle, mut updates) = connect(url);
    let (mut first, after) = Peer::greet(&listener, 2).await;
    assert_eq!(after, Seq::ZERO);
    first.send(&event(1)).await;
    first.send(&event(2)).await;
    assert_eq!(until(&mut updates, seq_of).await, 1);
    assert_eq!(until(&mut updates, seq_of).await, 2);
    let id = handle.send(room(), "hi").await.unwrap();
    while !matches!(first.next().await, Some(ClientFrame::Send(_))) {}
    drop(first);

    let (mut second, after) = Peer::greet(&listener, 3).await;
    assert_eq!(after.get(), 2);
    let again = loop {
        if let Some(ClientFrame::Send(send)) = second.next().await {
            break send;
        }
    };
    assert_eq!(again.id, id, "the same message, not a second one");
    let ack = ServerFrame::Ack {
        id,
        room: room(),
        seq: Seq::new(3).unwrap(),
        at: Timestamp::from_millis(0),
        duplicate: true,
    };
    second.send(&ack).await;
    let done = |update| {
        matches!(
            update,
            Update::Outbox {
                state: OutboxState::Sent { .. },
                ..
            }
        )
        .then_some(())
    };
    until(&mut updates, done).await;
    let saved = handle.close().await.unwrap();
    assert_eq!(saved.positions[&room()].get(), 2);
    assert!(second.next().await.is_none(), "it said good-bye");
}

#[tokio::test]
async fn a_slow_application_slows_the_server_and_misses_nothing() {
    const COUNT: u64 = 20_000;
    let (listener, url) = listen().await;
    let (handle, mut updates) = connect(url);
    let (mut peer, _) = Peer::greet(&listener, COUNT).await;
    let (progress, mut sent) = tokio::sync::watch::channel(0);
    let server = tokio::spawn(async move {
        for seq in 1..=COUNT {
            peer.send(&event(seq)).await;
            progress.send_replace(seq);
        }
        peer
    });
    // Nothing is taken: after the queues and the buffers of the machine the server has to wait.
    while tokio::time::timeout(Duration::from_millis(500), sent.changed())
        .await
        .is_ok()
    {}
    assert!(*sent.borrow() < COUNT, "everything was swallowed");
    let id = handle.send(room(), "I can still speak").await.unwrap();
    for expected in 1..=COUNT {
        assert_eq!(until(&mut updates, seq_of).await, expected);
    }
    let mut peer = server.await.unwrap();
    loop {
        match peer.next().await.unwrap() {
            ClientFrame::Send(send) if send.id == id => break,
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for() {
    let (listener, url) = listen().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (_handle, mut updates) = connect(url);
    let lost = |update| match update {
        Update::Lost { reason } => Some(reason),
        _ => None,
    };
    let reason = until(&mut updates, lost).await;
    assert!(reason.contains("refused"), "{reason}");
    let listener = TcpListener::bind(address).await.unwrap();
    let (_peer, _) = Peer::greet(&listener, 0).await;
    let online = |update| matches!(update, Update::Status(State::Online)).then_some(());
    until(&mut updates, online).await;
}

#[tokio::test]
async fn http_401_on_the_upgrade_stops_the_client() {
    let (listener, url) = listen().await;
    let (_handle, mut updates) = connect(url);
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = vec![0; 4096];
    assert!(stream.read(&mut request).await.unwrap() > 0);
    let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(answer).await.unwrap();
    let stopped = |update| matches!(update, Update::Status(State::Stopped { .. })).then_some(());
    until(&mut updates, stopped).await;
}

#[tokio::test]
async fn a_raw_socket_shows_everything() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        let hello = peer.next().await.unwrap();
        peer.0.send(Message::Ping(vec![1].into())).await.unwrap();
        peer.0
            .send(Message::text("{\"type\":\"later\"}"))
            .await
            .unwrap();
        peer.send(&event(1)).await;
        let bye = tokio_tungstenite::tungstenite::protocol::CloseFrame {
            code: 4408.into(),
            reason: "no answer".into(),
        };
        peer.0.close(Some(bye)).await.unwrap();
        while let Some(Ok(_)) = peer.0.next().await {}
        hello
    });
    let mut socket = Socket::open(&url).await.unwrap();
    let hello = ClientFrame::Hello(Hello::default());
    socket.send(&hello).await.unwrap();
    assert_eq!(socket.next().await, Incoming::Other);
    assert_eq!(socket.next().await, Incoming::Other);
    assert!(matches!(
        socket.next().await,
        Incoming::Frame(ServerFrame::Event(_))
    ));
    let closed = Incoming::Closed {
        code: Some(4408),
        reason: "no answer".to_owned(),
    };
    assert_eq!(socket.next().await, closed);
    socket.close().await;
    assert_eq!(server.await.unwrap(), hello);
    let nobody = Socket::open("ws://127.0.0.1:1/v1/ws").await;
    assert!(matches!(nobody, Err(SocketError::Broken(_))));
}

#[tokio::test]
async fn a_client_ends_when_nobody_holds_it() {
    let (listener, url) = listen().await;
    let (handle, mut updates) = connect(url);
    let (mut peer, _) = Peer::greet(&listener, 0).await;
    let rooms = vec![SubscribeRoom {
        room: RoomId::parse("random").unwrap(),
        after: None,
    }];
    handle.subscribe(rooms).await.unwrap();
    drop(handle);
    while updates.next().await.is_some() {}
    while peer.next().await.is_some() {}
}
