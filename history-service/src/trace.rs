//! `GET /v1/trace/{id}`: what became of a message.

use actix_web::HttpResponse;
use actix_web::web::Data;
use backend::directory::Member;
use backend::log::{Passed, Step, Way};
use backend::{Backends, Error};
use protocol::{ErrorCode, MessageId, RoomId, Seq, Timestamp, UserId};
use rest::openapi::Refused;
use rest::{Caller, Path, Problem, Query, Refusal};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::History;
use crate::search::rooms_of;

/// Members whose cursors are looked at, and how many are read at once.
const MEMBERS_MAX: usize = 1000;
const MEMBERS_AT_ONCE: usize = 200;
/// Users who are named in a step.
const NAMED_MAX: usize = 100;

#[derive(Debug, Deserialize)]
pub struct TracePath {
    id: MessageId,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Parameters {
    /// Only in this room; otherwise in all rooms the caller is a member of.
    #[param(value_type = Option<String>, pattern = "^[a-z0-9][a-z0-9-]{0,63}$", nullable = false)]
    room: Option<RoomId>,
}

/// The ways of what has an id: mostly one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Trace {
    items: Vec<TracedMessage>,
}

/// The way of a message, or of another act that has an id.
#[derive(Debug, Serialize, ToSchema)]
pub struct TracedMessage {
    id: MessageId,
    room: RoomId,
    seq: Seq,
    /// Who sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    from: Option<UserId>,
    /// What it is: `message`, `edit` and so on.
    kind: &'static str,
    /// In their order. An embedded server has no `published`, `confirmed` and `relayed`.
    steps: Vec<TraceStep>,
}

/// A step of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// It got its place in the room's log.
    Appended,
    /// A process handed it to the broker.
    Published,
    /// The broker has it for good, since `at` at the latest. Its sender is answered.
    Confirmed,
    /// It was told to the processes that have readers in the room: `pods` are those of now.
    Relayed,
    /// It was stored where it stays.
    Persisted,
    /// Clients of members have it.
    Received,
    /// Members have seen it.
    Read,
}

/// What is known of a step.
#[derive(Debug, Serialize, ToSchema)]
pub struct TraceStep {
    step: StepName,
    /// Whether it is known to be done; of `received` and `read`, by everybody who is counted.
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    at: Option<Timestamp>,
    /// The process that did it, as the metric `chat_pod_info` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by: Option<String>,
    /// Of `relayed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pods: Option<Vec<String>>,
    /// Of `received` and `read`: how many other members have done it,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    count: Option<usize>,
    /// of how many that were looked at, 1000 at most,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    of: Option<usize>,
    /// and who, 100 at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    users: Option<Vec<UserId>>,
}

/// Tells what became of a message.
///
/// Members of its room may ask. What is not in the log for good yet is told to its sender alone. The steps `received` and
/// `read` are left out while the members cannot be read.
#[utoipa::path(
    get, path = "/v1/trace/{id}", tag = "history", operation_id = "trace_message",
    params(("id" = MessageId, Path, description = "The id that its sender gave it."), Parameters),
    responses(
        (status = 200, description = "Its way.", body = Trace),
        (status = 404, description = "No such message in a room of the caller's, or no such room.", body = Problem,
            content_type = "application/problem+json"),
        Refused
    )
)]
pub async fn read(
    Caller(caller): Caller,
    Path(TracePath { id }): Path<TracePath>,
    Query(parameters): Query<Parameters>,
    history: Data<History>,
) -> Result<HttpResponse, Refusal> {
    let backends = &history.backends;
    let rooms = match parameters.room {
        Some(room) => {
            let member = backends.directory.member(&room, &caller).await?;
            member.ok_or_else(Refusal::no_room)?;
            vec![room]
        }
        None => rooms_of(backends, &caller).await?,
    };
    let mut items = Vec::new();
    for way in backends.log.ways(id, &rooms).await? {
        if way.is_safe || way.event.from.as_ref() == Some(&caller) {
            items.push(traced(backends, id, way).await?);
        }
    }
    if items.is_empty() {
        return Err(Refusal::new(ErrorCode::NotFound, "no such message"));
    }
    Ok(rest::ok(&Trace { items }))
}

async fn traced(backends: &Backends, id: MessageId, way: Way) -> Result<TracedMessage, Refusal> {
    let event = &way.event;
    let mut steps: Vec<TraceStep> = way.steps.into_iter().map(TraceStep::from).collect();
    match others(backends, &event.room, event.from.as_ref()).await {
        Ok(others) => {
            let have = |cursor: fn(&Member) -> Seq| {
                let done = others.iter().filter(|member| cursor(member) >= event.seq);
                done.map(|member| member.user.clone()).collect()
            };
            let received: Vec<UserId> = have(|member| member.received);
            let read: Vec<UserId> = have(|member| member.read);
            steps.push(TraceStep::by_members(
                StepName::Received,
                received,
                others.len(),
            ));
            steps.push(TraceStep::by_members(StepName::Read, read, others.len()));
        }
        Err(Error::Unavailable { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(TracedMessage {
        id,
        room: event.room.clone(),
        seq: event.seq,
        from: event.from.clone(),
        kind: event.body.kind(),
        steps,
    })
}

/// The members of a room without one.
async fn others(
    backends: &Backends,
    room: &RoomId,
    sender: Option<&UserId>,
) -> backend::Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    while members.len() < MEMBERS_MAX {
        let after = members.last().map(|member| &member.user);
        let page = backends
            .directory
            .members(room, after, MEMBERS_AT_ONCE)
            .await?;
        let is_last = page.len() < MEMBERS_AT_ONCE;
        members.extend(page);
        if is_last {
            break;
        }
    }
    members.retain(|member| Some(&member.user) != sender);
    Ok(members)
}

impl From<Passed> for TraceStep {
    fn from(passed: Passed) -> Self {
        let step = match passed.step {
            Step::Appended => StepName::Appended,
            Step::Published => StepName::Published,
            Step::Confirmed => StepName::Confirmed,
            Step::Relayed => StepName::Relayed,
            Step::Persisted => StepName::Persisted,
        };
        Self {
            done: passed.is_done,
            at: passed.at,
            by: passed.by,
            pods: (step == StepName::Relayed).then_some(passed.pods),
            ..Self::new(step)
        }
    }
}

impl TraceStep {
    fn new(step: StepName) -> Self {
        Self {
            step,
            done: false,
            at: None,
            by: None,
            pods: None,
            count: None,
            of: None,
            users: None,
        }
    }

    fn by_members(step: StepName, mut users: Vec<UserId>, of: usize) -> Self {
        let count = users.len();
        users.truncate(NAMED_MAX);
        Self {
            done: count == of,
            count: Some(count),
            of: Some(of),
            users: Some(users),
            ..Self::new(step)
        }
    }
}
