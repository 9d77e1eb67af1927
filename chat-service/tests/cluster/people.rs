//! Somebody with one socket, which they never open anew.

use std::time::Duration;

use client::{Incoming, Socket};
use protocol::{
    ClientFrame, ErrorCode, ErrorFrame, Event, EventBody, MessageId, RoomId, Seq, ServerFrame,
    Subscribe, SubscribeRoom,
};
use tokio::time::{Instant, sleep, timeout};

use crate::stage::{PATIENCE, Pod};

/// An outage is told within two seconds. The third is for a machine that has too much to do.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// A member of the room `general` who checks that its events are a chain.
pub struct Person {
    socket: Socket,
    position: u64,
    /// The messages that came, in order.
    pub heard: Vec<String>,
}

/// What became of a send.
#[derive(Debug)]
pub enum Answer {
    Ack,
    Refused(ErrorFrame),
}

pub fn general() -> RoomId {
    RoomId::parse("general").unwrap()
}

impl Person {
    /// Subscribes after a place; waits until it is confirmed.
    pub async fn enter(pod: &Pod, user: &str, after: u64) -> Self {
        let url = format!("ws://{}/v1/ws?id={user}", pod.http);
        let mut socket = Socket::open(&url).await.unwrap();
        let subscribe = Subscribe {
            reference: None,
            rooms: vec![SubscribeRoom {
                room: general(),
                after: Some(Seq::new(after).unwrap()),
            }],
        };
        let subscribe = ClientFrame::Subscribe(subscribe);
        let begun = Instant::now();
        loop {
            socket.send(&subscribe).await.unwrap();
            let answer = timeout(PATIENCE, async {
                loop {
                    match socket.next_frame().await.expect("an open socket") {
                        ServerFrame::Subscribed(subscribed) => return Ok(subscribed),
                        ServerFrame::Error(error) => return Err(error),
                        _ => {}
                    }
                }
            });
            match answer.await.expect("an answer") {
                Ok(subscribed) => {
                    assert_eq!(subscribed.after.get(), after);
                    break;
                }
                Err(error) => {
                    assert!(begun.elapsed() < PATIENCE, "{error:?}");
                    sleep(pause(&error)).await;
                }
            }
        }
        Self {
            socket,
            position: after,
            heard: Vec::new(),
        }
    }

    /// The last event that came.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub async fn tell(&mut self, frame: &ClientFrame) {
        self.socket.send(frame).await.unwrap();
    }

    async fn next(&mut self) -> ServerFrame {
        loop {
            match timeout(PATIENCE, self.socket.next()).await {
                Ok(Incoming::Frame(frame)) => return frame,
                Ok(Incoming::Other) => {}
                Ok(Incoming::Closed { code, reason }) => {
                    panic!("the socket was closed: {code:?} {reason}")
                }
                Err(_) => panic!("nothing comes"),
            }
        }
    }

    fn take(&mut self, event: &Event) {
        let prev = event.prev.map(Seq::get);
        assert!(
            prev.is_none_or(|prev| prev == self.position),
            "{event:?} does not follow {}",
            self.position
        );
        self.position = event.seq.get();
        if let EventBody::Message { text, .. } = &event.body {
            self.heard.push(text.clone());
        }
    }

    /// Waits until a message has come.
    pub async fn hears(&mut self, text: &str) {
        while !self.heard.iter().any(|heard| heard == text) {
            if let ServerFrame::Event(event) = self.next().await {
                self.take(&event);
            }
        }
    }

    /// Sends several messages at once and waits for what becomes of each.
    pub async fn try_send(&mut self, messages: &[(MessageId, String)]) -> Vec<Answer> {
        for (id, text) in messages {
            let send = protocol::Send {
                id: *id,
                room: Some(general()),
                to: None,
                text: text.clone(),
                reply_to: None,
                meta: None,
            };
            self.socket.send(&ClientFrame::Send(send)).await.unwrap();
        }
        let mut answers: Vec<Option<Answer>> = messages.iter().map(|_| None).collect();
        let place = |wanted: MessageId| messages.iter().position(|(id, _)| *id == wanted);
        while answers.iter().any(Option::is_none) {
            match self.next().await {
                ServerFrame::Event(event) => self.take(&event),
                ServerFrame::Ack { id, .. } => {
                    answers[place(id).unwrap()] = Some(Answer::Ack);
                }
                ServerFrame::Error(error) => {
                    let id = error.id.expect("an error about a message");
                    answers[place(id).unwrap()] = Some(Answer::Refused(error));
                }
                _ => {}
            }
        }
        answers.into_iter().flatten().collect()
    }

    /// Sends as a client does: again, with the same ids, until all are acknowledged.
    pub async fn send_all(&mut self, messages: Vec<(MessageId, String)>) {
        let begun = Instant::now();
        let mut left = messages;
        while !left.is_empty() {
            let mut again = Vec::new();
            let mut wait = Duration::ZERO;
            for (message, answer) in left.clone().into_iter().zip(self.try_send(&left).await) {
                if let Answer::Refused(error) = answer {
                    assert!(begun.elapsed() < PATIENCE, "{error:?}");
                    wait = wait.max(pause(&error));
                    again.push(message);
                }
            }
            sleep(wait).await;
            left = again;
        }
    }

    pub async fn say(&mut self, text: &str) {
        self.send_all(vec![message(text)]).await;
    }

    /// One send that must be refused for the moment, and soon.
    pub async fn is_refused(&mut self, message: &(MessageId, String)) -> ErrorFrame {
        let begun = Instant::now();
        let answer = self.try_send(std::slice::from_ref(message)).await.remove(0);
        let took = begun.elapsed();
        assert!(took < TOLD_WITHIN, "{answer:?} after {took:?}");
        let Answer::Refused(error) = answer else {
            panic!("a false {answer:?}");
        };
        assert!(error.retry_after_ms.is_some_and(|ms| ms > 0), "{error:?}");
        assert_eq!(error.code, ErrorCode::Unavailable, "{error:?}");
        error
    }
}

pub fn message(text: &str) -> (MessageId, String) {
    (MessageId::generate(), text.to_owned())
}

/// How long a client waits. Any other refusal is a failure.
fn pause(error: &ErrorFrame) -> Duration {
    assert!(
        matches!(error.code, ErrorCode::Unavailable | ErrorCode::Overloaded),
        "{error:?}"
    );
    Duration::from_millis(error.retry_after_ms.expect("a time to wait"))
}
