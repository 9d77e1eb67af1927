//! From a request on a socket to its answer.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use backend::log::{Append, Appended};
use backend::relay::Signal;
use futures_util::stream::{self, StreamExt as _};
use protocol::{
    ClientFrame, CloseCode, ErrorCode, ErrorFrame, Fetch, Hello, Position, RoomId, Seq,
    ServerFrame, Subscribe, SubscribeRoom, Subscribed, Timestamp, Typing, UserId, Welcome,
};
use rest::Refusal;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::hub::Hub;
use crate::messages::into_append;
use crate::session::{Act, answerable};

/// Who is online is told up to this number in `subscribed`.
const ONLINE_MAX: usize = 50;
/// Rooms of one `subscribe` that are entered at the same time.
const ENTERED_AT_ONCE: usize = 16;
/// A room that takes longer to be entered is to be asked for again.
const ENTERED_WITHIN: Duration = Duration::from_secs(5);

/// Serves an upgraded connection to its end. `first` is what arrived with the request.
pub async fn serve(hub: &Rc<Hub>, stream: TcpStream, first: Vec<u8>, user: Option<UserId>) {
    let connection = Connection::new(stream);
    hub.add(&connection);
    if let Some(user) = user {
        act_on(hub, &connection, Act::SignIn(user));
    }
    connection
        .run(
            first,
            hub.process.config.limits.frame_bytes,
            &hub.read_buffer,
            |message| {
                let act = connection.session.borrow_mut().on_message(message);
                if let (Act::Pong, crate::websocket::Incoming::Ping(payload)) = (&act, message) {
                    let pong = crate::websocket::pong(payload);
                    connection.push(pong, 1, crate::outbound::Lane::Answer);
                    hub.touch(&connection);
                }
                act_on(hub, &connection, act);
            },
            || {
                if connection.behind.get() > 0 {
                    hub.touch(&connection);
                }
            },
        )
        .await;
    hub.remove(&connection);
    if connection.session.borrow().user().is_some() {
        let gone = hub
            .process
            .backends
            .presence
            .disconnect(connection.id)
            .await;
        if let Err(error) = gone {
            tracing::debug!(%error, "presence did not learn that a session ended");
        }
    }
}

/// Starts a request whose answer comes later.
fn begin(
    hub: &Rc<Hub>,
    connection: &Rc<Connection>,
    request: std::pin::Pin<Box<dyn Future<Output = ()>>>,
) {
    let (hub, connection) = (Rc::clone(hub), Rc::clone(connection));
    connection.in_flight.set(connection.in_flight.get() + 1);
    actix_rt::spawn(async move {
        request.await;
        connection.done();
        hub.touch(&connection);
    });
}

fn act_on(hub: &Rc<Hub>, connection: &Rc<Connection>, act: Act) {
    match act {
        Act::SignIn(user) => {
            // Frames that follow at once are those of a signed-in user; should signing in fail, the connection ends.
            connection.session.borrow_mut().signed_in(user.clone());
            let hello = ClientFrame::Hello(Hello::default());
            in_turn(hub, connection, &user, hello);
        }
        Act::Request(frame) => {
            let Some(user) = connection.session.borrow().user().cloned() else {
                return;
            };
            request(hub, connection, &user, frame);
        }
        Act::Refuse(error) => hub.answer(connection, &ServerFrame::Error(error)),
        Act::RefuseAndClose(error, code, reason) => {
            hub.answer(connection, &ServerFrame::Error(error));
            hub.close(connection, code, reason);
        }
        Act::Close(code, reason) => hub.close(connection, code, reason),
        Act::Pong | Act::Nothing => {}
    }
}

async fn sign_in(hub: &Rc<Hub>, connection: &Rc<Connection>, user: &UserId) {
    let most = hub.process.config.limits.connections_per_user;
    let presence = &hub.process.backends.presence;
    match presence.connect(connection.id, user, most).await {
        Ok(()) => {}
        Err(backend::Error::Refused(reason)) => {
            let error = ErrorFrame::new(ErrorCode::RateLimited, reason);
            hub.answer(connection, &ServerFrame::Error(error));
            hub.close(
                connection,
                CloseCode::Policy,
                "too many connections of this user",
            );
            return;
        }
        // Without presence people can still talk.
        Err(error) => tracing::debug!(%error, "presence did not learn of a session"),
    }
    hub.welcome(connection, user);
    hub.answer(
        connection,
        &ServerFrame::Welcome(Welcome {
            session: connection.id,
            user: user.clone(),
            time: Timestamp::now(),
            heartbeat_secs: hub.process.config.gateway.heartbeat.as_secs(),
            limits: (*hub.process.limits).clone(),
        }),
    );
}

/// Does what can be done at once, and starts the rest.
fn request(hub: &Rc<Hub>, connection: &Rc<Connection>, user: &UserId, frame: ClientFrame) {
    if is_a_persons(&frame) {
        hub.person_acted(connection);
    }
    match frame {
        ClientFrame::Received(Position { room, seq }) => {
            cursor(hub, connection, user, room, seq, Seq::ZERO);
        }
        ClientFrame::Read(Position { room, seq }) => {
            cursor(hub, connection, user, room, seq, seq);
        }
        ClientFrame::Typing(Typing { room, on }) => {
            if hub.is_subscribed(connection, &room) {
                if hub.process.rates.typing.take(user, Instant::now()).is_err() {
                    hub.process.metrics.signals_dropped.inc();
                    return;
                }
                let user = user.clone();
                let signal = Signal::Typing { room, user, on };
                hub.process.backends.relay.signal(signal);
            } else {
                hub.answer(connection, &ServerFrame::Error(not_subscribed(&room)));
            }
        }
        ClientFrame::Send(send) if is_plain(hub, connection, &send) => {
            plain_send(hub, connection, user, send);
        }
        frame => in_turn(hub, connection, user, frame),
    }
}

/// Whether somebody did something, or only their client.
fn is_a_persons(frame: &ClientFrame) -> bool {
    match frame {
        ClientFrame::Send(_)
        | ClientFrame::Edit(_)
        | ClientFrame::Delete(_)
        | ClientFrame::React(_)
        | ClientFrame::Typing(_)
        | ClientFrame::Read(_) => true,
        ClientFrame::Hello(_)
        | ClientFrame::Subscribe(_)
        | ClientFrame::Unsubscribe(_)
        | ClientFrame::Fetch(_)
        | ClientFrame::Received(_) => false,
    }
}

fn not_subscribed(room: &RoomId) -> ErrorFrame {
    ErrorFrame {
        room: Some(room.clone()),
        ..ErrorFrame::new(
            ErrorCode::NotFound,
            "this connection is not subscribed to the room",
        )
    }
}

fn cursor(
    hub: &Rc<Hub>,
    connection: &Rc<Connection>,
    user: &UserId,
    room: RoomId,
    received: Seq,
    read: Seq,
) {
    let known = hub.known_head(connection, &room);
    match known {
        Some(head) if received.get() <= head => {
            hub.move_cursor(room, user.clone(), received, read);
        }
        Some(head) => {
            let error = ErrorFrame {
                room: Some(room),
                ..ErrorFrame::new(
                    ErrorCode::BadRequest,
                    format!("seq: {received} is after the last event, {head}"),
                )
            };
            hub.answer(connection, &ServerFrame::Error(error));
        }
        None => hub.answer(connection, &ServerFrame::Error(not_subscribed(&room))),
    }
}

/// A send that needs no look at anything but the log: into a room the connection is subscribed to, answering nothing.
fn is_plain(hub: &Rc<Hub>, connection: &Rc<Connection>, send: &protocol::Send) -> bool {
    send.to.is_none()
        && send.reply_to.is_none()
        && connection.queue.borrow().is_empty()
        && !connection.queue_runs.get()
        && send
            .room
            .as_ref()
            .is_some_and(|room| hub.is_subscribed(connection, room))
}

fn plain_send(hub: &Rc<Hub>, connection: &Rc<Connection>, user: &UserId, send: protocol::Send) {
    let id = send.id;
    let Some(room) = send.room.clone() else {
        return;
    };
    if let Err(refusal) = hub.process.messages.check(user, &send) {
        hub.answer(connection, &refused(refusal, None, Some(id)));
        return;
    }
    line_up(hub, connection, into_append(user, room, send));
}

/// Puts an act in line for the log, in which those of a connection keep their order. Its answer comes later: others do
/// not wait for it.
fn line_up(hub: &Rc<Hub>, connection: &Rc<Connection>, append: Append) {
    let id = append.id;
    let (app, session) = (Arc::clone(&hub.process), connection.id);
    let mut append = Box::pin(async move { app.messages.append(append, Some(session)).await });
    // The first poll puts it in line.
    let mut cx = std::task::Context::from_waker(Waker::noop());
    match append.as_mut().poll(&mut cx) {
        Poll::Ready(result) => hub.answer(connection, &acked(result, id)),
        Poll::Pending => {
            let task = (Rc::clone(hub), Rc::clone(connection));
            begin(
                hub,
                connection,
                Box::pin(async move {
                    let (hub, connection) = task;
                    let result = append.await;
                    hub.answer(&connection, &acked(result, id));
                }),
            );
        }
    }
}

fn acked(result: Result<Appended, Refusal>, id: protocol::MessageId) -> ServerFrame {
    match result {
        Ok(Appended { event, duplicate }) => ServerFrame::Ack {
            id,
            room: event.room.clone(),
            seq: event.seq,
            at: event.at,
            duplicate,
        },
        Err(refusal) => refused(refusal, None, Some(id)),
    }
}

fn refused(
    refusal: Refusal,
    reference: Option<String>,
    id: Option<protocol::MessageId>,
) -> ServerFrame {
    ServerFrame::Error(ErrorFrame {
        reference,
        id,
        ..refusal.into_frame()
    })
}

/// Queues a request that must not overtake another of its connection.
fn in_turn(hub: &Rc<Hub>, connection: &Rc<Connection>, user: &UserId, frame: ClientFrame) {
    connection.queue.borrow_mut().push_back(frame);
    connection.in_flight.set(connection.in_flight.get() + 1);
    if connection.queue_runs.replace(true) {
        return;
    }
    let (hub, connection, user) = (Rc::clone(hub), Rc::clone(connection), user.clone());
    actix_rt::spawn(async move {
        loop {
            connection.answers_fit().await;
            let next = connection.queue.borrow_mut().pop_front();
            let Some(frame) = next else {
                break;
            };
            if !connection.is_over() {
                carry_out(&hub, &connection, &user, frame).await;
            }
            connection.done();
        }
        connection.queue_runs.set(false);
        hub.touch(&connection);
    });
}

async fn carry_out(hub: &Rc<Hub>, connection: &Rc<Connection>, user: &UserId, frame: ClientFrame) {
    let (reference, id) = answerable(&frame);
    let messages = &hub.process.messages;
    let result = match frame {
        ClientFrame::Subscribe(subscribe) => {
            return subscribe_all(hub, connection, user, subscribe).await;
        }
        ClientFrame::Unsubscribe(frame) => {
            for room in &frame.rooms {
                hub.unsubscribe(connection, room);
            }
            let answer = ServerFrame::Unsubscribed {
                reference: frame.reference,
                rooms: frame.rooms,
            };
            return hub.answer(connection, &answer);
        }
        ClientFrame::Fetch(frame) => match fetch(hub, user, frame).await {
            Ok(answer) => return hub.answer(connection, &answer),
            Err(refusal) => Err(refusal),
        },
        ClientFrame::Send(send) => messages.sending(user, send).await,
        ClientFrame::Edit(edit) => messages.editing(user, edit).await,
        ClientFrame::Delete(delete) => messages.deleting(user, delete).await,
        ClientFrame::React(react) => messages.reacting(user, react).await,
        ClientFrame::Hello(_) => return sign_in(hub, connection, user).await,
        ClientFrame::Received(_) | ClientFrame::Read(_) | ClientFrame::Typing(_) => return,
    };
    match result {
        Ok(append) => line_up(hub, connection, append),
        Err(refusal) => hub.answer(connection, &refused(refusal, reference, id)),
    }
}

async fn fetch(hub: &Rc<Hub>, user: &UserId, fetch: Fetch) -> Result<ServerFrame, Refusal> {
    let most = hub.process.limits.fetch_events;
    let limit = fetch.limit as usize;
    if !(1..=most).contains(&limit) {
        return Err(Refusal::field("limit", format!("must be from 1 to {most}")));
    }
    hub.process.rooms.member(user, &fetch.room).await?;
    let log = &hub.process.backends.log;
    let page = log.read(&fetch.room, fetch.after, limit).await?;
    let last = page.events.last().map_or(fetch.after, |event| event.seq);
    Ok(ServerFrame::Events {
        reference: fetch.reference,
        room: fetch.room,
        more: last < page.head,
        head: page.head,
        events: page.events,
    })
}

async fn subscribe_all(
    hub: &Rc<Hub>,
    connection: &Rc<Connection>,
    user: &UserId,
    subscribe: Subscribe,
) {
    let most = hub.process.limits.subscribe_rooms;
    if subscribe.rooms.len() > most {
        let refusal = Refusal {
            code: ErrorCode::TooLarge,
            ..Refusal::field("rooms", format!("names at most {most} rooms at once"))
        };
        return hub.answer(connection, &refused(refusal, subscribe.reference, None));
    }
    if subscribe.rooms.is_empty() {
        let refusal = Refusal::field("rooms", "must name a room");
        return hub.answer(connection, &refused(refusal, subscribe.reference, None));
    }
    let reference = subscribe.reference.as_deref();
    let entering = subscribe.rooms.into_iter().map(|wanted| {
        let room = wanted.room.clone();
        async {
            let entered = timeout(ENTERED_WITHIN, enter(hub, connection, user, wanted)).await;
            (room, entered.unwrap_or_else(|_| Err(too_late())))
        }
    });
    // A room that has to wait for something must not add its time to that of the others. They are answered in order.
    let mut entered = stream::iter(entering).buffered(ENTERED_AT_ONCE);
    while let Some((room, result)) = entered.next().await {
        if connection.is_over() {
            return;
        }
        let result = result.and_then(|entered| subscribe_one(hub, connection, entered, reference));
        if let Err(refusal) = result {
            hub.unsubscribe(connection, &room);
            let error = ErrorFrame {
                reference: reference.map(str::to_owned),
                room: Some(room),
                ..refusal.into_frame()
            };
            hub.answer(connection, &ServerFrame::Error(error));
        }
    }
}

fn too_late() -> Refusal {
    backend::Error::unavailable("what there is to know of the room did not come in time").into()
}

/// A room that may be subscribed to.
struct Entered {
    /// Where the worker holds it.
    key: usize,
    /// The answer, but for the `ref`.
    answer: Subscribed,
}

/// Finds out what a subscription begins with.
async fn enter(
    hub: &Rc<Hub>,
    connection: &Rc<Connection>,
    user: &UserId,
    wanted: SubscribeRoom,
) -> Result<Entered, Refusal> {
    let process = &hub.process;
    let most = process.limits.subscriptions;
    let count = connection.subscriptions.borrow().len();
    if count >= most && !hub.is_subscribed(connection, &wanted.room) {
        let reason = format!("a connection has at most {most} subscriptions");
        return Err(Refusal::new(ErrorCode::TooLarge, reason));
    }
    // First the worker listens, then the rights and the head are looked at: nothing can fall in between, neither an
    // event nor the loss of the right to read.
    let id = &wanted.room;
    let key = hub.hold(connection, id);
    let (room, member) = process.rooms.enter(user, id).await?;
    let log = &process.backends.log;
    let mut head = log.head(id).await?;
    if wanted.after.is_some_and(|after| after > head) {
        // The client will take the log for another one. That must not be because of a server that forgot for a while.
        head = log.certain_head(id).await?;
    }
    let after = wanted.after.map_or(head, |after| after.min(head));
    let presence = &process.backends.presence;
    let online = match presence.enter(connection.id, id).await {
        Ok(()) => presence
            .present(id, ONLINE_MAX)
            .await
            .map(|present| present.users),
        Err(error) => Err(error),
    };
    let online = online.unwrap_or_else(|error| {
        tracing::debug!(%error, "presence is not known");
        Vec::new()
    });
    let answer = Subscribed {
        reference: None,
        room: room.id,
        head,
        after,
        read: member.read,
        members: room.members,
        online,
    };
    Ok(Entered { key, answer })
}

/// Answers, and begins to deliver.
fn subscribe_one(
    hub: &Rc<Hub>,
    connection: &Rc<Connection>,
    entered: Entered,
    reference: Option<&str>,
) -> Result<(), Refusal> {
    let Entered { key, mut answer } = entered;
    answer.reference = reference.map(str::to_owned);
    let (room, after, head) = (answer.room.clone(), answer.after.get(), answer.head.get());
    hub.answer(connection, &ServerFrame::Subscribed(answer));
    if hub.begin(connection, key, &room, after, head) {
        Ok(())
    } else {
        Err(Refusal::no_room())
    }
}
