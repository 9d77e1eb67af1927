//! A well-behaved client. Reads and writes plain JSON, so that a mistake in the types that server and client share is
//! seen here.

use std::collections::VecDeque;
use std::fmt;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use uuid::Uuid;

use crate::server::{PATIENCE, Server};

/// One connection.
pub struct Chat {
    stream: WebSocketStream<TcpStream>,
    /// Frames that came while something else was waited for.
    waiting: VecDeque<Value>,
    pub welcome: Value,
}

/// The connection ended, with the close code if there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended(pub Option<u16>);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection ended: {:?}", self.0)
    }
}

/// A new message id.
pub fn new_id() -> String {
    Uuid::now_v7().to_string()
}

impl Chat {
    /// Connects and signs in.
    pub async fn open(server: &Server, user: &str) -> Self {
        Self::try_open(server, user)
            .await
            .unwrap_or_else(|ended| panic!("{user}: {ended}; {}", server.log()))
    }

    /// Connects and signs in, if there is a server.
    pub async fn try_open(server: &Server, user: &str) -> Result<Self, Ended> {
        Self::at(&server.http.to_string(), user).await
    }

    /// Connects to an address and signs in, if there is a server.
    pub async fn at(address: &str, user: &str) -> Result<Self, Ended> {
        let stream = TcpStream::connect(address).await;
        Self::over(stream.map_err(|_| Ended(None))?, address, user).await
    }

    /// Like [`open`](Self::open), with as little room for unread bytes in the kernel as there can be.
    pub async fn open_narrow(server: &Server, user: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(server.http).await.unwrap();
        let address = server.http.to_string();
        Self::over(stream, &address, user).await.unwrap()
    }

    async fn over(stream: TcpStream, address: &str, user: &str) -> Result<Self, Ended> {
        let _ = stream.set_nodelay(true);
        let url = format!("ws://{address}/v1/ws?id={user}");
        let config = WebSocketConfig::default().max_message_size(Some(32 << 20));
        let shaken = timeout(
            PATIENCE,
            client_async_with_config(url, stream, Some(config)),
        )
        .await;
        let (stream, _) = shaken
            .expect("the server does not answer the upgrade")
            .map_err(|_| Ended(None))?;
        let mut chat = Self {
            stream,
            waiting: VecDeque::new(),
            welcome: Value::Null,
        };
        chat.welcome = chat.arrive().await?;
        assert_eq!(chat.welcome["type"], "welcome", "{}", chat.welcome);
        Ok(chat)
    }

    /// Says something. A connection that broke is noticed when it is read.
    pub async fn say(&mut self, frame: Value) {
        let _ = self.stream.send(Message::text(frame.to_string())).await;
    }

    /// Says many things in as few packets as possible.
    pub async fn say_all(&mut self, frames: impl IntoIterator<Item = Value>) {
        for frame in frames {
            let _ = self.stream.feed(Message::text(frame.to_string())).await;
        }
        let _ = self.stream.flush().await;
    }

    async fn arrive(&mut self) -> Result<Value, Ended> {
        loop {
            let next = timeout(PATIENCE, self.stream.next()).await;
            match next.expect("nothing comes from the server") {
                Some(Ok(Message::Text(text))) => {
                    return Ok(serde_json::from_str(&text).unwrap());
                }
                Some(Ok(Message::Close(close))) => {
                    return Err(Ended(close.map(|close| close.code.into())));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Ended(None)),
            }
        }
    }

    /// The next frame, one that waits first.
    pub async fn next(&mut self) -> Result<Value, Ended> {
        match self.waiting.pop_front() {
            Some(frame) => Ok(frame),
            None => self.arrive().await,
        }
    }

    /// The first frame that is `right`. Others wait for later.
    pub async fn try_until(&mut self, right: impl Fn(&Value) -> bool) -> Result<Value, Ended> {
        if let Some(at) = self.waiting.iter().position(&right) {
            return Ok(self.waiting.remove(at).unwrap());
        }
        let all = async {
            loop {
                let frame = self.arrive().await?;
                if right(&frame) {
                    return Ok(frame);
                }
                self.waiting.push_back(frame);
            }
        };
        match timeout(PATIENCE, all).await {
            Ok(found) => found,
            Err(_) => panic!("it does not come; what came: {:?}", self.waiting),
        }
    }

    /// As [`try_until`](Self::try_until), on a connection that must not end.
    pub async fn until(&mut self, right: impl Fn(&Value) -> bool) -> Value {
        let found = self.try_until(right).await;
        found.unwrap_or_else(|ended| panic!("{ended}; what came: {:?}", self.waiting))
    }

    /// The first frame of a type.
    pub async fn of_type(&mut self, kind: &str) -> Value {
        self.until(|frame| frame["type"] == kind).await
    }

    /// The next event of any room.
    pub async fn event(&mut self) -> Value {
        self.of_type("event").await
    }

    /// What is waiting and what comes until an answer to a question asked now: everything that the server said before.
    pub async fn everything(&mut self) -> Vec<Value> {
        self.say(json!({"type": "unsubscribe", "ref": "mark", "rooms": []}))
            .await;
        self.until(|frame| frame["ref"] == "mark").await;
        self.waiting.drain(..).collect()
    }

    /// Subscribes; the answer.
    pub async fn subscribe(&mut self, room: &str, after: impl Into<Option<u64>>) -> Value {
        let mut wanted = json!({"room": room});
        if let Some(after) = after.into() {
            wanted["after"] = after.into();
        }
        let reference = new_id();
        self.say(json!({"type": "subscribe", "ref": reference, "rooms": [wanted]}))
            .await;
        let answer = self.until(|frame| frame["ref"] == *reference).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        answer
    }

    /// Says something with an id; the answer.
    pub async fn answer(&mut self, frame: Value) -> Value {
        let id = frame["id"].clone();
        self.say(frame).await;
        self.until(|frame| frame["id"] == id && frame["type"] != "event")
            .await
    }

    /// Sends a text; the answer.
    pub async fn try_send(&mut self, room: &str, text: &str) -> Value {
        self.answer(send(&new_id(), room, text)).await
    }

    /// Sends a text; its seq.
    pub async fn send(&mut self, room: &str, text: &str) -> u64 {
        let answer = self.try_send(room, text).await;
        assert_eq!(answer["type"], "ack", "{answer}");
        answer["seq"].as_u64().unwrap()
    }

    /// Asks something that has no id and is refused; the refusal.
    pub async fn refusal(&mut self, frame: Value) -> Value {
        self.say(frame).await;
        self.of_type("error").await
    }

    /// Reads to the end; the close code.
    pub async fn end(&mut self) -> Option<u16> {
        loop {
            if let Err(Ended(code)) = self.arrive().await {
                return code;
            }
        }
    }
}

/// A `send` frame.
pub fn send(id: &str, room: &str, text: &str) -> Value {
    json!({"type": "send", "id": id, "room": room, "text": text})
}
