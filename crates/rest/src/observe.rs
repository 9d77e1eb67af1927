//! What happens around every request: an id, a span, a trace for some, headers, and problems in place of bare refusals.

use std::time::Instant;

use actix_web::Error;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::middleware::Next;
use actix_web::web::Data;
use protocol::ErrorCode;
use runtime::trace::{self, TARGET, TRACEPARENT};
use tracing::{Instrument, Span, debug, field, info_span};
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::problem::{self, PROBLEM_JSON};

/// Names a request, in both directions.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The middleware of every app, outermost: `App::new().wrap(from_fn(rest::observe))`.
///
/// # Errors
/// Those of inner middleware.
pub async fn observe<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = request_id(request.headers());
    // For those that the request is forwarded to.
    request.headers_mut().insert(REQUEST_ID_HEADER, id.clone());
    let span = info_span!(
        "request",
        request_id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        route = field::Empty,
        status = field::Empty,
        duration_ms = field::Empty,
    );
    let traced = trace_of(&mut request, &id);
    let answer = next.call(request);
    let answer = if traced.is_disabled() {
        answer.instrument(span.clone()).await?
    } else {
        answer.instrument(traced.clone()).await?
    };
    let refused = problem::code(answer.response());
    let answer = finish(answer, id);
    count(&answer, refused, started);
    record(&span, &answer, started);
    record_trace(&traced, &answer);
    Ok(answer)
}

/// The span of a request that is traced: because its sender records its trace, or because it is one of those chosen. Whoever it
/// is forwarded to goes on with the trace.
fn trace_of(request: &mut ServiceRequest, id: &HeaderValue) -> Span {
    // Who asks how it is all the time is no request of anybody.
    if !trace::is_on() || ["/healthz", "/readyz"].contains(&request.path()) {
        return Span::none();
    }
    let span = || {
        info_span!(
            target: TARGET,
            parent: None,
            "request",
            otel.kind = "server",
            otel.status_code = field::Empty,
            trace_id = field::Empty,
            // Of the two spans only this one is current, and what is logged under it has it too.
            request_id = id.to_str().unwrap_or_default(),
            http.request.method = %request.method(),
            http.route = field::Empty,
            http.response.status_code = field::Empty,
        )
    };
    let sent = request.headers().get(TRACEPARENT);
    let sent = sent.and_then(|sent| sent.to_str().ok());
    let span = match sent.filter(|sent| trace::is_recorded(sent)) {
        Some(sent) => trace::follow(sent, span),
        None if sent.is_none() => {
            let id = Uuid::new_v4().as_u128();
            if !trace::is_chosen(id) {
                return Span::none();
            }
            trace::begin(id, span)
        }
        // Its sender has decided that it is not traced.
        None => return Span::none(),
    };
    if let Some(value) = trace::traceparent(&span).and_then(|text| text.try_into().ok()) {
        let name = HeaderName::from_static(TRACEPARENT);
        request.headers_mut().insert(name, value);
    }
    span
}

/// The id of a request: the client's, if it is fit for logs, or a new one.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sent = headers.get(&REQUEST_ID_HEADER);
    sent.filter(|id| is_sane(id.as_bytes()))
        .cloned()
        .unwrap_or_else(new_id)
}

/// Ids of others go into logs: short, and of harmless characters.
fn is_sane(id: &[u8]) -> bool {
    matches!(id.len(), 1..=64)
        && id
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

fn new_id() -> HeaderValue {
    let id = Uuid::now_v7().hyphenated().to_string();
    HeaderValue::from_str(&id).expect("hex digits and hyphens are allowed in headers")
}

fn count(answer: &ServiceResponse<BoxBody>, refused: Option<ErrorCode>, started: Instant) {
    let request = answer.request();
    let Some(metrics) = request.app_data::<Data<Metrics>>() else {
        return;
    };
    let route = request.match_pattern();
    metrics.answered(request.method(), route, answer.status(), started.elapsed());
    if let Some(code) = refused {
        metrics.refused(code);
    }
}

fn finish<B: MessageBody + 'static>(
    answer: ServiceResponse<B>,
    id: HeaderValue,
) -> ServiceResponse<BoxBody> {
    let mut answer = if is_bare(&answer) {
        let (request, answer) = answer.into_parts();
        ServiceResponse::new(request, problem::overwrite(answer))
    } else {
        answer.map_into_boxed_body()
    };
    let headers = answer.headers_mut();
    headers.insert(REQUEST_ID_HEADER, id);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    answer
}

/// Whether this is a refusal of actix itself, which has no body or one line of text.
fn is_bare<B: MessageBody>(answer: &ServiceResponse<B>) -> bool {
    let is_refusal = answer.status().is_client_error() || answer.status().is_server_error();
    let is_problem = answer
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == PROBLEM_JSON);
    let is_empty = matches!(
        answer.response().body().size(),
        BodySize::None | BodySize::Sized(0)
    );
    is_refusal && !is_problem && (is_empty || answer.response().error().is_some())
}

fn record(span: &Span, answer: &ServiceResponse<BoxBody>, started: Instant) {
    if span.is_disabled() {
        return;
    }
    // The pattern, not the path: paths hold names.
    let route = answer.request().match_pattern();
    span.record("route", route.as_deref().unwrap_or("none"));
    span.record("status", answer.status().as_u16());
    let millis = started.elapsed().as_secs_f64() * 1000.0;
    span.record("duration_ms", millis);
    span.in_scope(|| debug!("answered"));
}

fn record_trace(span: &Span, answer: &ServiceResponse<BoxBody>) {
    if span.is_disabled() {
        return;
    }
    let request = answer.request();
    let route = request.match_pattern();
    let route = route.as_deref().unwrap_or("none");
    trace::rename(span, format!("{} {route}", request.method()));
    span.record("http.route", route);
    span.record("http.response.status_code", answer.status().as_u16());
    if answer.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::{Method, StatusCode};
    use actix_web::middleware::from_fn;
    use actix_web::test::{TestRequest, call_service, init_service, read_body_json};
    use actix_web::{App, HttpResponse, web};

    use super::*;
    use crate::{Caller, Refusal};

    async fn hello(caller: Caller) -> Result<HttpResponse, Refusal> {
        match caller.0.as_str() {
            "eve" => Err(Refusal::no_room()),
            _ => Ok(HttpResponse::Ok().body("hello")),
        }
    }

    async fn ask(request: TestRequest) -> ServiceResponse<BoxBody> {
        ask_counted(request, &runtime::Metrics::new("x", "1")).await
    }

    async fn ask_counted(
        request: TestRequest,
        metrics: &runtime::Metrics,
    ) -> ServiceResponse<BoxBody> {
        let app = App::new()
            .app_data(Data::new(Metrics::register(metrics)))
            .wrap(from_fn(observe))
            .service(web::resource("/hello").get(hello))
            .service(web::resource("/cached").get(async || {
                HttpResponse::Ok()
                    .insert_header((CACHE_CONTROL, "max-age=60"))
                    .finish()
            }))
            .service(web::resource("/unready").get(async || {
                HttpResponse::ServiceUnavailable().json(serde_json::json!({"status": "unready"}))
            }))
            .service(web::resource("/actix").post(async |_: web::Json<u8>| HttpResponse::Ok()));
        call_service(&init_service(app).await, request.to_request()).await
    }

    fn header<'a>(answer: &'a ServiceResponse<BoxBody>, name: &str) -> &'a str {
        answer.headers().get(name).unwrap().to_str().unwrap()
    }

    #[actix_web::test]
    async fn every_answer_has_an_id_and_safe_headers() {
        let alice = ("x-darda-user", "alice");
        let answer = ask(TestRequest::get().uri("/hello").insert_header(alice)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(header(&answer, "x-request-id").len(), 36);
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        assert_eq!(header(&answer, "cache-control"), "no-store");
        let answer = ask(TestRequest::get().uri("/cached")).await;
        assert_eq!(header(&answer, "cache-control"), "max-age=60");
    }

    #[actix_web::test]
    async fn a_sane_id_is_kept_and_another_is_not() {
        let ask_with = async |id: &str| {
            let request = TestRequest::get().uri("/hello");
            let answer = ask(request.insert_header(("x-request-id", id))).await;
            header(&answer, "x-request-id").to_owned()
        };
        assert_eq!(ask_with("trace-7.a_B").await, "trace-7.a_B");
        for bad in ["", "a b", "a\tb", &"x".repeat(65)] {
            assert_ne!(ask_with(bad).await, bad);
        }
    }

    #[actix_web::test]
    async fn every_refusal_is_a_problem() {
        let post = |path: &str| TestRequest::post().uri(path);
        let get = |path: &str| TestRequest::get().uri(path);
        let not_json = post("/actix").insert_header((CONTENT_TYPE, "application/json"));
        for (request, status, code) in [
            (get("/nowhere"), 404, "not_found"),
            (post("/hello"), 405, "bad_request"),
            (get("/hello"), 401, "unauthenticated"),
            (
                get("/hello").insert_header(("x-darda-user", "eve")),
                404,
                "not_found",
            ),
            (not_json.set_payload("x"), 400, "bad_request"),
        ] {
            let answer = ask(request).await;
            assert_eq!(answer.status().as_u16(), status);
            assert_eq!(header(&answer, "content-type"), PROBLEM_JSON);
            assert_eq!(header(&answer, "x-request-id").len(), 36);
            if status == 405 {
                assert_eq!(header(&answer, "allow"), "GET");
            }
            let body: serde_json::Value = read_body_json(answer).await;
            assert_eq!(
                (&body["status"], &body["code"]),
                (&status.into(), &code.into())
            );
        }
    }

    #[actix_web::test]
    async fn requests_are_counted_by_what_clients_cannot_make_up() {
        let post = TestRequest::post().uri("/hello/or/something");
        let odd = TestRequest::with_uri("/hello").method(Method::from_bytes(b"ODD").unwrap());
        let eve = TestRequest::with_uri("/hello").insert_header(("x-darda-user", "eve"));
        let alice = TestRequest::with_uri("/hello").insert_header(("x-darda-user", "alice"));
        for (request, labels, code) in [
            (
                post,
                r#"method="POST",route="none",status="4xx""#,
                "not_found",
            ),
            (
                odd,
                r#"method="other",route="/hello",status="4xx""#,
                "bad_request",
            ),
            (
                eve,
                r#"method="GET",route="/hello",status="4xx""#,
                "not_found",
            ),
            (alice, r#"method="GET",route="/hello",status="2xx""#, ""),
        ] {
            let metrics = runtime::Metrics::new("x", "1");
            ask_counted(request, &metrics).await;
            let text = metrics.render().unwrap();
            let line = format!("chat_http_request_seconds_count{{{labels}}} 1\n");
            assert!(text.contains(&line), "{line} is not in {text}");
            for known in ErrorCode::ALL.map(ErrorCode::as_str) {
                let is_it = u8::from(known == code);
                let line = format!("chat_http_refusals_total{{code=\"{known}\"}} {is_it}\n");
                assert!(text.contains(&line), "{line} is not in {text}");
            }
        }
    }

    #[actix_web::test]
    async fn an_answer_with_its_own_body_is_left_alone() {
        let answer = ask(TestRequest::get().uri("/unready")).await;
        let body: serde_json::Value = read_body_json(answer).await;
        assert_eq!(body, serde_json::json!({"status": "unready"}));
    }
}
