//! Parts of a request as types. What does not fit is refused with the name of the field.

use std::future::{Future, Ready, ready};
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{FromRequest, HttpRequest, web};
use protocol::{ErrorCode, RoomId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use serde_json::Value;

use crate::Refusal;

/// A body larger than this is refused: the largest text with every character escaped, and room for the rest.
pub const BODY_BYTES_MAX: usize = 128 * 1024;

/// The variable parts of the path. Fields are text or ids.
#[derive(Clone, Debug)]
pub struct Path<T>(pub T);

/// The query. A field that occurs twice is refused, unknown ones are ignored.
#[derive(Clone, Debug)]
pub struct Query<T>(pub T);

/// The body: one JSON object.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

/// The path of everything about one room.
#[derive(Clone, Debug, Deserialize)]
pub struct RoomPath {
    pub id: RoomId,
}

impl<T: DeserializeOwned> FromRequest for Path<T> {
    type Error = Refusal;
    type Future = Ready<Result<Self, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let parts = MapDeserializer::<_, serde::de::value::Error>::new(request.match_info().iter());
        let path = serde_path_to_error::deserialize(parts);
        ready(path.map(Self).map_err(|error| refuse("path", error)))
    }
}

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Refusal;
    type Future = Ready<Result<Self, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let pairs = form_urlencoded::parse(request.query_string().as_bytes());
        let query = serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs));
        ready(query.map(Self).map_err(|error| refuse("query", error)))
    }
}

impl<T: DeserializeOwned + 'static> FromRequest for Json<T> {
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Refusal>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let is_json = is_json(request);
        let body = web::Payload::from_request(request, payload);
        Box::pin(async move {
            if !is_json {
                return Err(Refusal::field("content-type", "must be application/json"));
            }
            let body = body
                .await
                .map_err(|error| Refusal::field("body", error.to_string()))?
                .to_bytes_limited(BODY_BYTES_MAX)
                .await
                .map_err(|_| {
                    let message = format!("the body is over {BODY_BYTES_MAX} bytes");
                    Refusal::new(ErrorCode::TooLarge, message)
                })?
                .map_err(|error| Refusal::field("body", error.to_string()))?;
            object(&body).map(Self)
        })
    }
}

fn is_json(request: &HttpRequest) -> bool {
    request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // A list would be taken for the fields of an object in their order.
    if body.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Refusal::field("body", "must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = match serde_path_to_error::deserialize(&mut json) {
        Ok(value) => value,
        Err(error) => return with_whole_numbers(body).ok_or_else(|| refuse("body", error)),
    };
    json.end()
        .map_err(|error| Refusal::field("body", error.to_string()))?;
    Ok(value)
}

/// Reads a body in which a whole number was written as `42.0`: to JSON they are the same, to serde they are not.
fn with_whole_numbers<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let mut value: Value = serde_json::from_slice(body).ok()?;
    make_whole(&mut value).then_some(())?;
    serde_json::from_value(value).ok()
}

/// Writes whole numbers as such, and tells whether there were any that were not.
fn make_whole(value: &mut Value) -> bool {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().filter(|float| {
                // Only these are exact.
                float.fract() == 0.0 && float.abs() < (1_u64 << 53) as f64
            });
            if let Some(float) = float {
                *value = Value::from(float as i64);
            }
            float.is_some()
        }
        Value::Array(items) => items
            .iter_mut()
            .fold(false, |any, item| make_whole(item) | any),
        Value::Object(fields) => fields
            .values_mut()
            .fold(false, |any, field| make_whole(field) | any),
        _ => false,
    }
}

/// Names the field. Where serde names it only in its sentence, as it does for missing and repeated ones, it is taken
/// from there.
fn refuse<E: std::fmt::Display>(whole: &str, error: serde_path_to_error::Error<E>) -> Refusal {
    let path = error.path().to_string();
    let reason = error.into_inner().to_string();
    let quoted = |start: &str| reason.strip_prefix(start)?.split('`').next();
    if let Some(field) = quoted("missing field `") {
        return Refusal::field(join(&path, field), "is missing");
    }
    if let Some(field) = quoted("duplicate field `") {
        return Refusal::field(join(&path, field), "is there more than once");
    }
    let field = if path == "." { whole } else { &path };
    let reason = match &*reason {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be a whole number"
        }
        "provided string was not `true` or `false`" => "must be true or false",
        other => other,
    };
    Refusal::field(field, reason)
}

fn join(path: &str, field: &str) -> String {
    if path == "." || path == field || path.ends_with(&format!(".{field}")) {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use protocol::Seq;

    use super::*;
    use crate::Limit;

    #[derive(Debug, Deserialize)]
    struct Asked {
        after: Option<Seq>,
        mine: Option<bool>,
        #[serde(default)]
        limit: Limit,
    }

    async fn query(text: &str) -> Result<Asked, Refusal> {
        let request = TestRequest::with_uri(&format!("/x?{text}")).to_http_request();
        Query::extract(&request).await.map(|Query(asked)| asked)
    }

    #[actix_web::test]
    async fn a_query_is_read() {
        let asked = query("after=7&limit=200&other=1").await.unwrap();
        assert_eq!(asked.after.unwrap().get(), 7);
        assert_eq!(asked.limit.get(), 200);
        let asked = query("mine=true").await.unwrap();
        assert_eq!((asked.limit.get(), asked.mine), (50, Some(true)));
    }

    #[actix_web::test]
    async fn a_bad_query_field_is_named() {
        for (bad, field) in [
            ("limit=0", "limit"),
            ("limit=201", "limit"),
            ("limit=", "limit"),
            ("limit=abc", "limit"),
            ("after=-1", "after"),
            ("after=9007199254740992", "after"),
            ("after=x", "after"),
            ("after=1&after=2", "after"),
            ("mine=1", "mine"),
        ] {
            let refusal = query(bad).await.unwrap_err();
            assert_eq!(refusal.errors[0].field, field, "{bad}: {refusal}");
        }
        let refusal = query("limit=abc").await.unwrap_err();
        assert_eq!(
            refusal.message,
            "limit: must be a whole number from 1 to 200"
        );
    }

    #[actix_web::test]
    async fn a_bad_path_part_is_named() {
        let request = TestRequest::default().param("id", "No").to_http_request();
        let refusal = Path::<RoomPath>::extract(&request).await.unwrap_err();
        assert_eq!(refusal.errors[0].field, "id");
    }

    #[derive(Debug, Deserialize)]
    struct Body {
        name: String,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        seq: Seq,
    }

    async fn json(kind: &str, body: &str) -> Result<Body, Refusal> {
        let (request, mut payload) = TestRequest::post()
            .insert_header((CONTENT_TYPE, kind.to_owned()))
            .set_payload(body.to_owned())
            .to_http_parts();
        Json::from_request(&request, &mut payload)
            .await
            .map(|Json(body)| body)
    }

    #[actix_web::test]
    async fn a_body_is_one_json_object() {
        let kind = "application/json; charset=utf-8";
        let body = json(kind, r#" {"name":"a","inner":[{"seq":1}]}"#).await;
        let body = body.unwrap();
        assert_eq!((&*body.name, body.inner[0].seq.get()), ("a", 1));
        let body = json(kind, r#"{"name":"a","inner":[{"seq":7.0}]}"#).await;
        assert_eq!(body.unwrap().inner[0].seq.get(), 7);
        for (bad, field) in [
            ("", "body"),
            (r#"["a"]"#, "body"),
            (r#"{"name":"a"}}"#, "body"),
            (r#"{"name":"#, "name"),
            ("{}", "name"),
            (r#"{"name":1}"#, "name"),
            (r#"{"name":"a","name":"b"}"#, "name"),
            (r#"{"name":"a","inner":[{"seq":-1}]}"#, "inner[0].seq"),
            (r#"{"name":"a","inner":[{"seq":1.5}]}"#, "inner[0].seq"),
            (r#"{"name":"a","inner":[{"seq":1e300}]}"#, "inner[0].seq"),
            (r#"{"name":"a","inner":[{}]}"#, "inner[0].seq"),
        ] {
            let refusal = json(kind, bad).await.unwrap_err();
            assert_eq!(refusal.errors[0].field, field, "{bad}: {refusal}");
        }
        let refusal = json("text/plain", "{}").await.unwrap_err();
        assert_eq!(refusal.errors[0].field, "content-type");
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(BODY_BYTES_MAX));
        let refusal = json(kind, &long).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::TooLarge);
    }
}
