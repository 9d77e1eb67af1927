//! The history paths, answered by history-service: a small reverse proxy, so that one address is enough for clients.
//!
//! Answers pass through as they are, bodies while they come. What is forwarded only reads, so a connection that turns out
//! to be stale costs a second try and nothing else. Live chat needs nothing of this.

mod connection;

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use actix_http::{RequestHead, ResponseHead};
use actix_web::body::SizedStream;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{StatusCode, Uri, Version};
use actix_web::web::{Data, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse, guard};
use futures_util::stream;
use protocol::ErrorCode;
use rest::{PROBLEM_JSON, Refusal};
use runtime::env::{self, EnvError, Variable};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::connection::{Body, Pool};
use crate::metrics::{ForwardLabels, Metrics};

/// The variables of [`Address::from_env`].
pub const VARIABLES: &[Variable] = &[Variable {
    name: "DARDA_HISTORY_URL",
    default: "",
    meaning: "Where history-service is, such as http://history:8080: it then answers history, search, inbox, export and traces. When not set, chat-service answers them itself.",
}];

/// How long history-service may take to begin its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Answers under way at once in a worker thread. Exports apart, because one lasts for as long as its reader likes.
const PAGES_MAX: usize = 256;
const EXPORTS_MAX: usize = 32;
/// How this service names itself to those behind it (RFC 9110, 7.6.3).
const VIA: HeaderValue = HeaderValue::from_static("1.1 chat-service");

/// Where history-service is: a host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address(String);

impl TryFrom<String> for Address {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const FORM: &str = "must be http://, a host, and a port if it is not 80";
        let uri: Uri = text.parse().map_err(|_| FORM)?;
        let authority = uri.authority().ok_or(FORM)?;
        let is_bare = uri.path_and_query().is_none_or(|rest| rest == "/");
        if uri.scheme_str() != Some("http") || !is_bare || authority.as_str().contains('@') {
            return Err(FORM);
        }
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self(format!("{}:{port}", authority.host())))
    }
}

impl Address {
    /// # Errors
    /// When the variable is bad.
    pub fn from_env() -> Result<Option<Self>, EnvError> {
        #[derive(Deserialize)]
        struct Flat {
            history_url: Option<Address>,
        }
        Ok(env::read::<Flat>("DARDA_")?.history_url)
    }
}

/// What the worker threads share.
#[derive(Clone)]
pub struct Forward {
    address: Address,
    metrics: Arc<Metrics>,
    /// Whether the last answer did not come.
    away: Arc<AtomicBool>,
}

impl Forward {
    pub fn new(address: Address, metrics: Arc<Metrics>) -> Self {
        Self {
            address,
            metrics,
            away: Arc::default(),
        }
    }

    /// Adds the paths. Of those that other services have too, `GET` alone.
    pub fn configure(&self, config: &mut ServiceConfig) {
        config
            .app_data(Data::new(Worker::new(self.clone())))
            .service(resource("/v1/rooms/{id}/events").get(page))
            .service(
                resource("/v1/rooms/{id}/messages")
                    .guard(guard::Get())
                    .get(page),
            )
            .service(resource("/v1/rooms/{id}/export").get(export))
            .service(resource("/v1/search").get(page))
            .service(resource("/v1/inbox").get(page))
            .service(resource("/v1/trace/{id}").get(page));
    }

    fn came(&self) {
        self.count("answered");
        if self.away.swap(false, Relaxed) {
            tracing::info!("history-service is back");
        }
    }

    fn missed(&self, why: &str) -> Refusal {
        self.count("unavailable");
        if !self.away.swap(true, Relaxed) {
            tracing::warn!(why, "history-service is away");
        }
        Refusal::new(ErrorCode::Unavailable, "history is away").after(RETRY_AFTER)
    }

    fn count(&self, outcome: &'static str) {
        let labels = ForwardLabels { outcome };
        self.metrics.history_forwards.get_or_create(&labels).inc();
    }
}

/// What a worker thread has for itself.
struct Worker {
    forward: Forward,
    pool: Rc<Pool>,
    pages: Arc<Semaphore>,
    exports: Arc<Semaphore>,
}

async fn page(request: HttpRequest, worker: Data<Worker>) -> Result<HttpResponse, Refusal> {
    worker.answer(&request, &worker.pages).await
}

async fn export(request: HttpRequest, worker: Data<Worker>) -> Result<HttpResponse, Refusal> {
    worker.answer(&request, &worker.exports).await
}

impl Worker {
    fn new(forward: Forward) -> Self {
        Self {
            pool: Rc::new(Pool::new(forward.address.0.clone())),
            forward,
            pages: Arc::new(Semaphore::new(PAGES_MAX)),
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
        }
    }

    async fn answer(
        &self,
        request: &HttpRequest,
        gate: &Arc<Semaphore>,
    ) -> Result<HttpResponse, Refusal> {
        let forward = &self.forward;
        if came_through_here(request.headers()) {
            let reason = "DARDA_HISTORY_URL leads back to chat-service";
            tracing::error!("{reason}");
            return Err(Refusal::new(ErrorCode::Internal, reason));
        }
        let Ok(permit) = Arc::clone(gate).try_acquire_owned() else {
            forward.count("overloaded");
            return Err(backend::Error::overloaded("too many reads at once").into());
        };
        let head = Rc::new(self.head(request));
        let asked = tokio::time::timeout(ANSWER_WITHIN, self.pool.ask(head)).await;
        let (head, body) = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(forward.missed(&why.to_string())),
            Err(_) => {
                self.pool.clear();
                return Err(forward.missed("it does not answer in time"));
            }
        };
        if is_of_a_proxy(&head) {
            return Err(forward.missed(&format!("the answer is {}", head.status)));
        }
        forward.came();
        Ok(pass_on(&head, body, permit))
    }

    /// The request as history-service gets it.
    fn head(&self, request: &HttpRequest) -> RequestHead {
        let mut head = RequestHead::default();
        head.method = request.method().clone();
        head.uri = request.uri().clone();
        head.version = Version::HTTP_11;
        head.headers = end_to_end(request.headers());
        // What is forwarded has no body.
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.remove(header::EXPECT);
        let host = HeaderValue::from_str(&self.forward.address.0);
        let host = host.expect("an address is made of a host and a port");
        head.headers.insert(header::HOST, host);
        head.headers.append(header::VIA, VIA);
        head
    }
}

/// Whether this service has forwarded the request already.
fn came_through_here(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::VIA)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|through| through.trim() == VIA)
}

/// Whether somebody on the way says that history-service is away: itself it says so in a problem document.
fn is_of_a_proxy(head: &ResponseHead) -> bool {
    let is_away = matches!(
        head.status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    );
    is_away
        && head
            .headers()
            .get(header::CONTENT_TYPE)
            .is_none_or(|kind| kind != PROBLEM_JSON)
}

/// The answer as the client gets it; the permit is given back at its end.
fn pass_on(head: &ResponseHead, body: Option<Body>, permit: OwnedSemaphorePermit) -> HttpResponse {
    let mut answer = HttpResponse::build(head.status);
    for (name, value) in &end_to_end(head.headers()) {
        if name != header::CONTENT_LENGTH {
            answer.append_header((name, value));
        }
    }
    let Some(body) = body else {
        return answer.finish();
    };
    let length = head
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.trim().parse().ok());
    let chunks = stream::try_unfold((body, permit), |(mut body, permit)| async move {
        let chunk = body.next().await.inspect_err(|error| {
            tracing::warn!(%error, "an answer of history-service broke off");
        })?;
        Ok::<_, std::io::Error>(chunk.map(|chunk| (chunk, (body, permit))))
    });
    match length {
        Some(length) => answer.body(SizedStream::new(length, chunks)),
        None => answer.streaming(chunks),
    }
}

/// Headers without those that are about one connection (RFC 9110, 7.6.1).
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: HashSet<HeaderName> = headers
        .get_all(header::CONNECTION)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if !HOP_BY_HOP.contains(&name.as_str()) && !named.contains(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let read = |text: &str| Address::try_from(text.to_owned()).map(|address| address.0);
        assert_eq!(read("http://history:8080").as_deref(), Ok("history:8080"));
        assert_eq!(read("http://history/").as_deref(), Ok("history:80"));
        assert_eq!(read("http://[::1]:9").as_deref(), Ok("[::1]:9"));
        for bad in [
            "history:8080",
            "https://history",
            "http://history/v1",
            "http://history/?q",
            "http://me:secret@history",
            "http://",
            "/",
            "",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_of_one_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, x-private"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("x-private", "1"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ] {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        let kept = end_to_end(&headers);
        assert_eq!(kept.get_all("set-cookie").count(), 2);
        assert_eq!(kept.len(), 2);
    }

    #[test]
    fn a_request_that_was_here_is_recognised() {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_static("1.1 vegur, 1.0 chat-services");
        headers.append(header::VIA, value);
        assert!(!came_through_here(&headers));
        headers.append(
            header::VIA,
            HeaderValue::from_static("2 front,1.1 chat-service"),
        );
        assert!(came_through_here(&headers));
    }
}
