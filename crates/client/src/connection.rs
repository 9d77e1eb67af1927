//! A client that stays connected: the engine, its sockets and its clock.
//!
//! One task owns the engine. Each socket has a task of its own, which reads and writes at the same time. All queues are
//! bounded:
//! - *commands* (256): [`Handle`] methods wait while it is full.
//! - *updates* (1,024): while the application does not take them, nothing is read from the sockets, so the server sees a
//!   slow reader, whom it treats as such. Commands are still accepted until another 4,096 updates are waiting.
//! - *frames to a socket* (1,024): a socket that does not take them is given up and opened anew.

mod port;

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Event, MessageId, Position, RoomId, Send, Seq, ServerFrame, SubscribeRoom, Typing};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::engine::{
    Act, ClosedReason, Config, Conn, Effect, Engine, Input, Moment, OutboxState, Saved, State,
};
use crate::socket::Incoming;
use port::{Port, Report};

const COMMANDS_MAX: usize = 256;
const UPDATES_MAX: usize = 1024;
const BACKLOG_MAX: usize = 4096;
const FRAMES_IN_MAX: usize = 16;

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Where the socket is, see [`crate::Address`].
    pub url: String,
    pub engine: Config,
    /// What an earlier client left.
    pub saved: Saved,
}

/// Something the application should know.
#[derive(Clone, Debug)]
pub enum Update {
    Status(State),
    /// A connection was lost or could not be made; the engine goes on. For people to read.
    Lost {
        reason: String,
    },
    /// The next event of a room: each once, in order, without a hole.
    Event(Arc<Event>),
    /// A frame that is not part of a room's log.
    Signal(ServerFrame),
    ResetRoom {
        room: RoomId,
        position: Seq,
        head: Seq,
    },
    RoomClosed {
        room: RoomId,
        reason: ClosedReason,
        message: Option<String>,
    },
    Outbox {
        id: MessageId,
        state: OutboxState,
    },
}

/// The client has ended: [`Handle::close`] was called, or nobody takes its updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has ended")]
pub struct Stopped;

/// Starts clients.
#[derive(Debug)]
pub struct Client;

/// Tells a client what to do. Cheap to clone; when all are dropped the client ends.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// What a client has to say, in order. Dropping it ends the client.
#[derive(Debug)]
pub struct Updates {
    queue: mpsc::Receiver<Update>,
}

#[derive(Debug)]
enum Command {
    Input(Input),
    Saved(oneshot::Sender<Saved>),
    Close(oneshot::Sender<Saved>),
}

impl Client {
    /// Starts a client that connects and stays connected. Must be called within a Tokio runtime.
    #[must_use]
    pub fn connect(config: ClientConfig) -> (Handle, Updates) {
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (updates, queue) = mpsc::channel(UPDATES_MAX);
        let (from_sockets, socket_queue) = mpsc::channel(FRAMES_IN_MAX);
        let driver = Driver {
            engine: Engine::new(config.engine, config.saved),
            url: config.url.into(),
            began: Instant::now(),
            sockets: BTreeMap::new(),
            from_sockets,
            backlog: VecDeque::new(),
        };
        tokio::spawn(driver.run(command_queue, socket_queue, updates));
        (Handle { commands }, Updates { queue })
    }
}

impl Updates {
    /// The next update; `None` when the client has ended.
    pub async fn next(&mut self) -> Option<Update> {
        self.queue.recv().await
    }
}

impl Handle {
    async fn input(&self, input: Input) -> Result<(), Stopped> {
        let command = Command::Input(input);
        self.commands.send(command).await.map_err(|_| Stopped)
    }

    /// Wants the events of rooms, see [`Input::Subscribe`].
    ///
    /// # Errors
    /// When the client has ended. So with all others.
    pub async fn subscribe(&self, rooms: Vec<SubscribeRoom>) -> Result<(), Stopped> {
        self.input(Input::Subscribe { rooms }).await
    }

    /// No longer wants the events of rooms.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn unsubscribe(&self, rooms: Vec<RoomId>) -> Result<(), Stopped> {
        self.input(Input::Unsubscribe { rooms }).await
    }

    /// Puts a text into the outbox. What becomes of it is told by [`Update::Outbox`] with the returned id.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn send(&self, room: RoomId, text: impl Into<String>) -> Result<MessageId, Stopped> {
        let id = MessageId::generate();
        let send = Send {
            id,
            room: Some(room),
            to: None,
            text: text.into(),
            reply_to: None,
            meta: None,
        };
        self.submit(Act::Send(send)).await?;
        Ok(id)
    }

    /// Puts anything that has an id into the outbox.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn submit(&self, act: Act) -> Result<(), Stopped> {
        self.input(Input::Submit { act }).await
    }

    /// Moves one's own read cursor.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn read(&self, room: RoomId, seq: Seq) -> Result<(), Stopped> {
        self.input(Input::Read(Position { room, seq })).await
    }

    /// Says that one has begun or stopped typing.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn typing(&self, typing: Typing) -> Result<(), Stopped> {
        self.input(Input::Typing(typing)).await
    }

    /// Does not wait for the backoff, because the network is back.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn retry_now(&self) -> Result<(), Stopped> {
        self.input(Input::RetryNow {}).await
    }

    /// What to write down so that another client can go on from here. Updates that were not taken yet are ahead of it.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn saved(&self) -> Result<Saved, Stopped> {
        let (answer, saved) = oneshot::channel();
        let command = Command::Saved(answer);
        self.commands.send(command).await.map_err(|_| Stopped)?;
        saved.await.map_err(|_| Stopped)
    }

    /// Says good-bye to the server and ends the client. Updates that were not taken are dropped.
    ///
    /// # Errors
    /// When the client has ended already.
    pub async fn close(self) -> Result<Saved, Stopped> {
        let (answer, saved) = oneshot::channel();
        let command = Command::Close(answer);
        self.commands.send(command).await.map_err(|_| Stopped)?;
        saved.await.map_err(|_| Stopped)
    }
}

/// The task that owns the engine.
struct Driver {
    engine: Engine,
    url: Arc<str>,
    began: Instant,
    sockets: BTreeMap<Conn, Port>,
    from_sockets: mpsc::Sender<(Conn, Report)>,
    /// Updates that found the queue full.
    backlog: VecDeque<Update>,
}

impl Driver {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut reports: mpsc::Receiver<(Conn, Report)>,
        updates: mpsc::Sender<Update>,
    ) {
        self.handle(Input::Start { hello: None });
        let answer = loop {
            let keeping_up = self.backlog.is_empty();
            let tick = self.tick_at();
            tokio::select! {
                permit = updates.reserve(), if !keeping_up => {
                    let Ok(permit) = permit else { break None };
                    if let Some(update) = self.backlog.pop_front() {
                        permit.send(update);
                    }
                }
                () = updates.closed(), if keeping_up => break None,
                command = commands.recv(), if self.backlog.len() < BACKLOG_MAX => match command {
                    Some(Command::Input(input)) => self.handle(input),
                    // Nobody waits for an answer that cannot be delivered.
                    Some(Command::Saved(answer)) => drop(answer.send(self.engine.saved())),
                    Some(Command::Close(answer)) => break Some(answer),
                    None => break None,
                },
                Some((conn, report)) = reports.recv(), if keeping_up => self.report(conn, report),
                () = tick => {
                    if !keeping_up {
                        // Silence proves nothing while it is us who do not listen.
                        let conns: Vec<Conn> = self.sockets.keys().copied().collect();
                        for conn in conns {
                            self.handle(Input::Heard { conn });
                        }
                    }
                    self.handle(Input::Tick {});
                }
            }
            while let Some(update) = self.backlog.pop_front() {
                if let Err(mpsc::error::TrySendError::Full(update)) = updates.try_send(update) {
                    self.backlog.push_front(update);
                    break;
                }
            }
        };
        self.handle(Input::Stop {});
        for (_, port) in std::mem::take(&mut self.sockets) {
            port.goodbye().await;
        }
        if let Some(answer) = answer {
            drop(answer.send(self.engine.saved()));
        }
    }

    /// Ends when the engine wants a tick.
    fn tick_at(&self) -> impl Future<Output = ()> + use<> {
        let at = self.engine.wake_at();
        let at = at.map(|ms| self.began + Duration::from_millis(ms));
        async move {
            match at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        }
    }

    fn report(&mut self, conn: Conn, report: Report) {
        let input = match report {
            Report::Opened => Input::Opened { conn },
            Report::Incoming(Incoming::Frame(frame)) => Input::Frame { conn, frame },
            Report::Incoming(Incoming::Other) => Input::Heard { conn },
            Report::Incoming(Incoming::Closed { code, reason }) => {
                if self.sockets.remove(&conn).is_some() {
                    debug!(conn, code, reason, "the connection ended");
                    self.backlog.push_back(Update::Lost {
                        reason: reason.clone(),
                    });
                }
                Input::Closed {
                    conn,
                    code,
                    reason: Some(reason),
                }
            }
        };
        self.handle(input);
    }

    fn handle(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let moment = Moment {
                now_ms: self.began.elapsed().as_millis() as u64,
                random: rand::random(),
            };
            for effect in self.engine.handle(input, moment) {
                if let Some(lost) = self.carry_out(effect) {
                    inputs.push_back(lost);
                }
            }
        }
    }

    /// Does what the engine asks; answers with what that caused.
    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        let update = match effect {
            Effect::Connect { conn } => {
                let port = Port::open(conn, self.url.clone(), self.from_sockets.clone());
                self.sockets.insert(conn, port);
                return None;
            }
            Effect::Close { conn } => {
                self.sockets.remove(&conn);
                return None;
            }
            Effect::SendFrame { conn, frame } => {
                let port = self.sockets.get(&conn)?;
                port.frames.try_send(frame.encode()).err()?;
                self.sockets.remove(&conn);
                let reason = "the connection does not take what is sent".to_owned();
                return Some(Input::Closed {
                    conn,
                    code: None,
                    reason: Some(reason),
                });
            }
            Effect::Status(state) => Update::Status(state),
            Effect::Deliver { event } => Update::Event(event),
            Effect::Signal { frame } => Update::Signal(frame),
            Effect::ResetRoom {
                room,
                position,
                head,
            } => Update::ResetRoom {
                room,
                position,
                head,
            },
            Effect::RoomClosed {
                room,
                reason,
                message,
            } => Update::RoomClosed {
                room,
                reason,
                message,
            },
            Effect::Outbox { id, state } => Update::Outbox { id, state },
        };
        self.backlog.push_back(update);
        None
    }
}
