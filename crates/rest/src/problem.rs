//! Problem documents (RFC 9457): how HTTP says that a request was refused.

use std::fmt;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use protocol::ErrorCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::refusal::{FieldError, Refusal};

/// The content type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was not carried out (RFC 9457). `code` is for programs, `detail` for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub kind: &'static str,
    /// The words of the HTTP status.
    #[schema(example = "Not Found")]
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599, example = 404)]
    pub status: u16,
    /// What is wrong and what would be right.
    #[schema(example = "no such room")]
    pub detail: String,
    pub code: ErrorCode,
    /// The fields that were wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
    /// When the same request is worth another try.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    pub retry_after_ms: Option<u64>,
}

impl Problem {
    /// A refusal as a problem with a status of its own, for the few that the codes do not name.
    #[must_use]
    pub fn with_status(refusal: &Refusal, status: StatusCode) -> Self {
        Self {
            kind: "about:blank",
            title: status
                .canonical_reason()
                .unwrap_or("Unknown Status")
                .to_owned(),
            status: status.as_u16(),
            detail: refusal.message.clone(),
            code: refusal.code,
            errors: refusal.errors.clone(),
            retry_after_ms: refusal
                .retry_after
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        Self::with_status(refusal, refusal.status_code())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut answer = HttpResponse::build(self.status_code());
        if let Some(after) = self.retry_after {
            // Whole seconds, and never earlier than said.
            let secs = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            answer.insert_header((RETRY_AFTER, secs.to_string()));
        }
        if self.code == ErrorCode::Unauthenticated {
            answer.insert_header((WWW_AUTHENTICATE, "Darda realm=\"open\""));
        }
        answer.content_type(PROBLEM_JSON).body(body(&self.into()))
    }
}

fn body(problem: &Problem) -> String {
    serde_json::to_string(problem).expect("a problem has string keys and no failing parts")
}

/// The code of a refusal: what a handler said, or what the status of another answer means, also of one that was forwarded.
pub(crate) fn code<B>(answer: &HttpResponse<B>) -> Option<ErrorCode> {
    let status = answer.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return None;
    }
    let refusal = answer.error().and_then(|error| error.as_error::<Refusal>());
    Some(refusal.map_or_else(|| explain(status).code, |refusal| refusal.code))
}

/// Writes a problem over an answer of actix that has none, keeping its status and its headers such as `allow`.
pub(crate) fn overwrite<B>(answer: HttpResponse<B>) -> HttpResponse<BoxBody> {
    let status = answer.status();
    let problem = Problem::with_status(&explain(status), status);
    let mut answer = answer.set_body(BoxBody::new(body(&problem)));
    let kind = HeaderValue::from_static(PROBLEM_JSON);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// What a bare status means here.
fn explain(status: StatusCode) -> Refusal {
    let code = ErrorCode::ALL
        .into_iter()
        .find(|code| code.http_status() == status.as_u16())
        .unwrap_or(if status.is_server_error() {
            ErrorCode::Internal
        } else {
            ErrorCode::BadRequest
        });
    let message = match status {
        StatusCode::NOT_FOUND => "there is nothing at this path",
        StatusCode::METHOD_NOT_ALLOWED => {
            "this path does not have this method; see the header allow"
        }
        StatusCode::PAYLOAD_TOO_LARGE => "the body is too large",
        _ if status.is_server_error() => "the server made a mistake",
        _ => "the request cannot be understood",
    };
    Refusal::new(code, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_web::body::to_bytes;

    use super::*;

    #[actix_web::test]
    async fn a_refusal_becomes_a_problem_with_the_status_of_its_code() {
        let refusal = Refusal::new(ErrorCode::RateLimited, "too many sends")
            .after(Duration::from_millis(1500));
        let answer = refusal.error_response();
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(answer.headers().get("retry-after").unwrap(), "2");
        assert_eq!(answer.headers().get("content-type").unwrap(), PROBLEM_JSON);
        let body = to_bytes(answer.into_body()).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Too Many Requests", "status": 429, "detail": "too many sends",
            "code": "rate_limited", "retry_after_ms": 1500,
        });
        assert_eq!(body, expected);
    }

    #[actix_web::test]
    async fn every_code_has_a_title() {
        for code in ErrorCode::ALL {
            let problem = Problem::from(&Refusal::new(code, ""));
            assert_eq!(problem.status, code.http_status());
            assert_ne!(problem.title, "Unknown Status");
        }
    }
}
