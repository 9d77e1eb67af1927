//! Appends, from the queue of a room to the publisher.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::redis::Value;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use protocol::{Event, EventBody, MessageId, RoomId, Seq, Timestamp};
use runtime::trace::{self, TARGET};
use runtime::traced;
use tracing::{Span, info_span};
use uuid::Uuid;

use super::entry::{self, list, number, place, text};
use super::{Core, RANGE, Request};
use crate::cluster::generation::Open;
use crate::cluster::publisher::Placed;
use crate::cluster::sequencer::Waiter;
use crate::log::Appended;
use crate::{Error, Result};

/// Events in one call.
const BATCH: usize = 200;
/// The pause before a call that failed is made again.
const AGAIN: Duration = Duration::from_millis(40);
/// Events of a dead publisher that are taken over at once.
const HELP: usize = 200;
/// The first pause before it is asked again whether a fence is stored, and the longest.
pub(super) const FENCE_MIN: Duration = Duration::from_millis(15);
pub(super) const FENCE_MAX: Duration = Duration::from_millis(250);
/// The pause before a room is looked at again that somebody else is seeding.
const SEED_AGAIN: Duration = Duration::from_millis(15);
/// Whoever has more than this of their own waiting for the broker does not help others as well.
const HELP_WAITING_MAX: usize = 1000;

/// What is done with a batch after a call.
enum Next {
    Done,
    /// These go back to the front, after a pause if there is one.
    Again(Vec<Request>, Duration),
}

/// What MongoDB has to say before a request can be judged.
enum Ask {
    /// Whether the id is known; Redis was asked at this time.
    Id(u64),
    /// Whether the message that it is about was deleted.
    Target,
}

impl Core {
    /// Works through the queue of a room. One call at a time: what comes meanwhile shares the next one, and keeps its
    /// order.
    pub(super) async fn work(self: Arc<Self>, room: RoomId) {
        loop {
            let batch = {
                let mut queues = self.queues();
                let Some(queue) = queues.get_mut(&room) else {
                    return;
                };
                queue.retain(|request| !request.is_given_up());
                if queue.is_empty() {
                    queues.remove(&room);
                    return;
                }
                let count = queue.len().min(BATCH);
                queue.drain(..count).collect::<Vec<_>>()
            };
            if let Next::Again(back, pause) = self.append_batch(&room, batch).await {
                {
                    let mut queues = self.queues();
                    let queue = queues.entry(room.clone()).or_default();
                    for request in back.into_iter().rev() {
                        queue.push_front(request);
                    }
                }
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn queues(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::HashMap<RoomId, VecDeque<Request>>> {
        self.queues
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn append_batch(self: &Arc<Self>, room: &RoomId, batch: Vec<Request>) -> Next {
        let publisher = match self.publisher() {
            Ok(publisher) => publisher,
            Err(error) => return refuse(batch, &error),
        };
        let open = match self.generations.current().await {
            Ok(open) => open,
            Err(error) => return retry_or_refuse(batch, &error),
        };
        publisher.raise_floor(open.generation);
        let spans: Vec<Span> = batch
            .iter()
            .map(|request| {
                traced!(
                    &request.span,
                    "number",
                    otel.kind = "client",
                    db.system.name = "redis",
                    batch = batch.len()
                )
            })
            .filter(|span| !span.is_disabled())
            .collect();
        let called = self.call(room, &open, &batch).await;
        drop(spans);
        match called {
            Ok(answer) => match self.judge(room, &open, batch, &answer).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(%error, room.id = %room, "an append was answered strangely");
                    Next::Done
                }
            },
            Err(error) => retry_or_refuse(batch, &error),
        }
    }

    async fn call(&self, room: &RoomId, open: &Open, batch: &[Request]) -> Result<Value> {
        let mut texts: Vec<String> = vec![
            open.generation.to_string(),
            self.settings.backlog_max.to_string(),
        ];
        for request in batch {
            let append = &request.append;
            let looked_up = request
                .looked_up
                .filter(|(generation, _)| *generation == open.generation);
            texts.extend([
                append.from.to_string(),
                append.id.to_string(),
                made_at(append.id).map_or(String::new(), |ms| ms.to_string()),
                append
                    .body
                    .target()
                    .map_or(String::new(), |target| target.to_string()),
                match append.body {
                    EventBody::Delete { .. } => "d",
                    EventBody::Edit { .. } | EventBody::Reaction { .. } if request.target_lives => {
                        "l"
                    }
                    EventBody::Edit { .. } | EventBody::Reaction { .. } => "t",
                    _ => "n",
                }
                .to_owned(),
                looked_up.map_or(String::new(), |(_, asked_at)| asked_at.to_string()),
            ]);
        }
        let mut arguments: Vec<&[u8]> = texts[..2].iter().map(|text| text.as_bytes()).collect();
        for (texts, request) in texts[2..].chunks_exact(6).zip(batch) {
            arguments.extend(texts.iter().map(|text| text.as_bytes()));
            arguments.push(&request.body);
        }
        let keys = self.keys_with_generation(room);
        self.redis
            .call_in(&open.session, "log_append", &keys[..8], &arguments)
            .await
    }

    async fn judge(
        self: &Arc<Self>,
        room: &RoomId,
        open: &Open,
        batch: Vec<Request>,
        answer: &Value,
    ) -> Result<Next> {
        let answer = list(answer)?;
        let head = answer.first().map_or(Ok(""), text)?;
        match head {
            "ok" => {}
            "stale" => {
                return Ok(match self.generations.doubt(open.generation, false).await {
                    Ok(()) => Next::Again(batch, Duration::from_millis(5)),
                    Err(error) => retry_or_refuse(batch, &error),
                });
            }
            "cold" => {
                return Ok(match self.seed(room, open).await {
                    Ok(()) => Next::Again(batch, Duration::ZERO),
                    Err(error) => retry_or_refuse(batch, &error),
                });
            }
            _ => {
                for request in batch {
                    request.answer(Err(Error::NotFound(format!("room {room}"))));
                }
                return Ok(Next::Done);
            }
        }
        let [_, pods, fence, persisted, answers @ ..] = answer else {
            return Err(Error::Corrupt("redis: a short answer".to_owned()));
        };
        let pods = entry::pods(pods)?;
        self.relay.learn_routes(room, &pods);
        let fence = Some(number(fence)?)
            .filter(|fence| *fence > 0)
            .filter(|fence| number(persisted).is_ok_and(|persisted| persisted < *fence));
        let mut asked = Vec::new();
        for (request, answer) in batch.into_iter().zip(answers) {
            asked.extend(self.one(room, open, request, list(answer)?, &pods)?);
        }
        // What comes meanwhile waits: acts keep the order in which they came.
        let asked = asked.into_iter().map(|(request, ask)| match ask {
            Ask::Id(at) => self.look_up(request, (open.generation, at), fence).boxed(),
            Ask::Target => self.look_at_target(request).boxed(),
        });
        let again: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        Ok(if again.is_empty() {
            Next::Done
        } else {
            Next::Again(again, Duration::ZERO)
        })
    }

    /// What became of one request; whatever has to be asked in MongoDB first comes back.
    fn one(
        self: &Arc<Self>,
        room: &RoomId,
        open: &Open,
        request: Request,
        answer: &[Value],
        pods: &Arc<[String]>,
    ) -> Result<Option<(Request, Ask)>> {
        let code = answer.first().map_or(Ok(""), text)?;
        match code {
            "new" | "known" | "pending" => {
                let [_, seq, prev, at] = answer else {
                    return Err(Error::Corrupt("redis: a short answer".to_owned()));
                };
                let event = Arc::new(Event {
                    room: room.clone(),
                    seq: place(number(seq)?)?,
                    prev: Some(place(number(prev)?)?),
                    at: Timestamp::from_millis(number(at)?.cast_signed()),
                    from: Some(request.append.from.clone()),
                    id: Some(request.append.id),
                    body: request.append.body.clone(),
                });
                let appended = Appended {
                    event: Arc::clone(&event),
                    duplicate: code != "new",
                };
                if code == "known" {
                    request.answer(Ok(appended));
                    return Ok(None);
                }
                let span = traced!(
                    &request.span,
                    "publish",
                    otel.kind = "producer",
                    messaging.system = "rabbitmq"
                );
                // First the sender waits, then what they wait for begins.
                self.sequencer.wait(room, Waiter { request, appended });
                if code == "new"
                    && let Some(publisher) = self.publisher.get()
                {
                    self.counters.appended.fetch_add(1, Ordering::Relaxed);
                    let pods = Arc::clone(pods);
                    publisher.publish(open.generation, Placed { event, pods, span });
                }
            }
            "ask" => {
                let asked_at = answer.get(1).map_or(Ok(0), number)?;
                return Ok(Some((request, Ask::Id(asked_at))));
            }
            "ahead" => request.answer(Err(Error::Refused(
                "the id says that it was made more than ten minutes from now: the clock that made it is wrong; a version 4 UUID tells no time"
                    .to_owned(),
            ))),
            "target" => return Ok(Some((request, Ask::Target))),
            "deleted" => {
                let gone = no_target(&request);
                request.answer(Err(gone));
            }
            "conflict" => {
                let conflict = conflict(request.append.id);
                request.answer(Err(conflict));
            }
            "full" => request.answer(Err(Error::Overloaded {
                message: "too many events of this room wait to be stored".to_owned(),
                retry_after: Duration::from_secs(2),
            })),
            other => {
                return Err(Error::Corrupt(format!("redis: an append is {other}")));
            }
        }
        Ok(None)
    }

    /// Redis does not know the id and cannot know whether it is new: MongoDB does, once the room's fence is stored there.
    /// The request comes back when it is new.
    async fn look_up(
        &self,
        mut request: Request,
        asked: (u64, u64),
        fence: Option<u64>,
    ) -> Option<Request> {
        let append = &request.append;
        if let Some(fence) = fence
            && let Err(error) = self
                .fence_is_stored(&append.room, fence, request.deadline)
                .await
        {
            request.answer(Err(error));
            return None;
        }
        let found = self
            .store
            .by_id(&append.room, &append.from, append.id)
            .await;
        match found {
            Err(error) => request.answer(Err(error)),
            Ok(None) => {
                request.looked_up = Some(asked);
                return Some(request);
            }
            Ok(Some(event)) if event.body == append.body => {
                let event = Arc::new(event);
                request.answer(Ok(Appended {
                    event,
                    duplicate: true,
                }));
            }
            Ok(Some(_)) => {
                let conflict = conflict(append.id);
                request.answer(Err(conflict));
            }
        }
        None
    }

    async fn fence_is_stored(&self, room: &RoomId, fence: u64, until: Instant) -> Result<()> {
        let mut pause = FENCE_MIN;
        while Instant::now() < until {
            if self.store.is_stored(room, place(fence)?).await? {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FENCE_MAX);
        }
        Err(Error::unavailable(
            "what was sent before Redis was lost is still being stored",
        ))
    }

    /// Whether the message that an act is about still lives; then the request comes back.
    async fn look_at_target(&self, mut request: Request) -> Option<Request> {
        let target = request.append.body.target().unwrap_or(Seq::ZERO);
        match self.store.is_deleted(&request.append.room, target).await {
            Err(error) => request.answer(Err(error)),
            Ok(true) => {
                let gone = no_target(&request);
                request.answer(Err(gone));
            }
            Ok(false) => {
                request.target_lives = true;
                return Some(request);
            }
        }
        None
    }

    /// Gives a room its place in the generation.
    pub(super) async fn seed(&self, room: &RoomId, open: &Open) -> Result<()> {
        let keys = self.keys_with_generation(room);
        let generation = open.generation.to_string();
        let token = Uuid::new_v4().to_string();
        let ticket: String = self
            .redis
            .call_in(
                &open.session,
                "log_ticket",
                &[keys[0].clone(), keys[8].clone()],
                &[generation.as_bytes(), token.as_bytes()],
            )
            .await?;
        match ticket.as_str() {
            "ok" => {}
            "later" => {
                tokio::time::sleep(SEED_AGAIN).await;
                return Ok(());
            }
            _ => return self.generations.doubt(open.generation, false).await,
        }
        let last = self.store.last(room).await?;
        let forgotten = self.store.is_forgotten(room).await?;
        let (seq, at) = last.map_or((0, 0), |last| (last.seq.get(), last.at.as_millis()));
        let (seq, at) = (seq.to_string(), at.to_string());
        let seeded: String = self
            .redis
            .call_in(
                &open.session,
                "log_seed",
                &keys,
                &[
                    generation.as_bytes(),
                    token.as_bytes(),
                    seq.as_bytes(),
                    at.as_bytes(),
                    if forgotten { b"1" } else { b"0" },
                ],
            )
            .await?;
        self.counters.seeded.fetch_add(1, Ordering::Relaxed);
        match seeded.as_str() {
            "fence" => self.publish_fence(room, open).await,
            "stale" => self.generations.doubt(open.generation, false).await,
            // Somebody else did it, or does.
            _ => Ok(()),
        }
    }

    async fn publish_fence(&self, room: &RoomId, open: &Open) -> Result<()> {
        let entries = self
            .entry_of_fence(room, open.generation * RANGE + 1)
            .await?;
        let pods: Arc<[String]> = Arc::from([]);
        for event in entries {
            let pods = Arc::clone(&pods);
            self.publisher()?.publish(
                open.generation,
                Placed {
                    event,
                    pods,
                    span: Span::none(),
                },
            );
        }
        Ok(())
    }

    /// Publishes pending events of a room whose publisher seems to be gone.
    pub(super) async fn help(self: Arc<Self>, room: RoomId) {
        if let Err(error) = self.try_help(&room).await {
            tracing::debug!(%error, room.id = %room, "pending events wait for another helper");
        }
    }

    async fn try_help(&self, room: &RoomId) -> Result<()> {
        // While the broker takes nothing, every try would put the same events into the queue once more.
        let publisher = self.publisher()?;
        publisher.admit()?;
        if publisher.waiting() > HELP_WAITING_MAX {
            return Err(Error::overloaded("enough waits for the broker already"));
        }
        let open = self.generations.current().await?;
        let (generation, limit) = (open.generation.to_string(), HELP.to_string());
        let keys = self.keys(room);
        let answer: Value = self
            .redis
            .call_in(
                &open.session,
                "log_help",
                &keys[..7],
                &[generation.as_bytes(), limit.as_bytes()],
            )
            .await?;
        let [pods, entries] = list(&answer)? else {
            return Ok(());
        };
        let pods = entry::pods(pods)?;
        let events = entry::events(room, entries)?;
        if !events.is_empty() {
            self.counters
                .helped
                .fetch_add(events.len() as u64, Ordering::Relaxed);
            tracing::info!(room.id = %room, events = events.len(), "publishing for somebody who did not");
        }
        for event in events {
            let pods = Arc::clone(&pods);
            let span = event.id.map_or_else(Span::none, |id| {
                trace::under(id.as_uuid().as_u128(), || {
                    info_span!(
                        target: TARGET,
                        parent: None,
                        "publish",
                        otel.kind = "producer",
                        messaging.system = "rabbitmq",
                        helped = true
                    )
                })
            });
            publisher.publish(open.generation, Placed { event, pods, span });
        }
        Ok(())
    }
}

/// When the id says it was made, in milliseconds: a version 7 UUID does.
fn made_at(id: MessageId) -> Option<u64> {
    let (secs, nanos) = id
        .as_uuid()
        .get_timestamp()
        .filter(|_| id.as_uuid().get_version_num() == 7)?
        .to_unix();
    Some(secs * 1000 + u64::from(nanos) / 1_000_000)
}

fn conflict(id: MessageId) -> Error {
    Error::Conflict(format!("the id {id} was used before with other content"))
}

fn no_target(request: &Request) -> Error {
    let target = request.append.body.target().unwrap_or(Seq::ZERO);
    Error::NotFound(format!("there is no message {target} in this room"))
}

fn refuse(batch: Vec<Request>, error: &Error) -> Next {
    for request in batch {
        request.answer(Err(Error::unavailable(error.to_string())));
    }
    Next::Done
}

/// Those who still have time wait for another try; the error is for the others.
fn retry_or_refuse(batch: Vec<Request>, error: &Error) -> Next {
    let (Error::Unavailable { message, .. } | Error::Overloaded { message, .. }) = error else {
        let text = error.to_string();
        for request in batch {
            request.answer(Err(Error::Corrupt(text.clone())));
        }
        return Next::Done;
    };
    let full = matches!(error, Error::Overloaded { .. });
    let now = Instant::now();
    let (back, late): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .partition(|request| !full && request.deadline > now + AGAIN * 3);
    for request in late {
        let message = message.clone();
        let retry_after = Duration::from_secs(1);
        request.answer(Err(if full {
            Error::Overloaded {
                message,
                retry_after,
            }
        } else {
            Error::Unavailable {
                message,
                retry_after,
            }
        }));
    }
    if back.is_empty() {
        Next::Done
    } else {
        Next::Again(back, AGAIN)
    }
}
