//! The web page: files of `web/dist`, embedded in the program (a debug build reads them from disk each time).
//!
//! Hashed assets are cached for ever, everything else is asked for again and answered 304 when it is the same. A
//! `<file>.gz` beside a file is sent to those who take gzip. The policy allows files of our own origin and nothing
//! inline; `connect-src 'self'` covers the socket too (Chromium 71, Safari 16, Firefox).

use std::borrow::Cow;
use std::fmt::Write as _;

use actix_web::http::header::{
    self, AcceptEncoding, ContentEncoding, ETag, EntityTag, Header as _, IfNoneMatch,
};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, Bytes, Path, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use protocol::ErrorCode;
use rest::Refusal;
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "../web/dist"]
struct Dist;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    manifest-src 'self'";

const NOT_BUILT: &str = "The web page is not part of this build; run make web and build again.\n";

/// How long a client may keep a file without asking.
#[derive(Clone, Copy)]
enum Caching {
    /// The name changes with the content.
    Forever,
    /// Keep it, but ask each time whether it is still the same.
    Ask,
}

/// Serves `/`, `/docs`, `/assets/…` and the icons and manifest beside them.
pub fn configure(config: &mut ServiceConfig) {
    config
        .service(resource("/", index))
        .service(resource("/docs", docs))
        .service(resource("/assets/{file:[^/]+}", asset))
        .service(resource(
            "/{file:[A-Za-z0-9_-]+\\.(?:svg|png|ico|webmanifest|txt)}",
            beside,
        ));
}

fn resource<F, Args>(path: &str, handler: F) -> actix_web::Resource
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    web::resource(path)
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
}

async fn index(request: HttpRequest) -> HttpResponse {
    page(&request, "index.html")
}

async fn docs(request: HttpRequest) -> HttpResponse {
    page(&request, "docs.html")
}

async fn asset(request: HttpRequest, file: Path<String>) -> Result<HttpResponse, Refusal> {
    file_of(&request, &format!("assets/{file}"), Caching::Forever).ok_or_else(no_file)
}

async fn beside(request: HttpRequest, file: Path<String>) -> Result<HttpResponse, Refusal> {
    file_of(&request, &file, Caching::Ask).ok_or_else(no_file)
}

fn no_file() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "no such file")
}

fn page(request: &HttpRequest, name: &str) -> HttpResponse {
    file_of(request, name, Caching::Ask).unwrap_or_else(|| {
        guarded(StatusCode::SERVICE_UNAVAILABLE)
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .content_type("text/plain; charset=utf-8")
            .body(NOT_BUILT)
    })
}

fn file_of(request: &HttpRequest, name: &str, caching: Caching) -> Option<HttpResponse> {
    let plain = Dist::get(name)?;
    let content_type = content_type(plain.metadata.mimetype());
    let packed = takes_gzip(request)
        .then(|| Dist::get(&format!("{name}.gz")))
        .flatten();
    let tag = EntityTag::new_strong(tag_of(packed.as_ref().unwrap_or(&plain)));

    let mut response = guarded(if is_known(request, &tag) {
        StatusCode::NOT_MODIFIED
    } else {
        StatusCode::OK
    });
    response
        .insert_header((header::CACHE_CONTROL, cache_control(caching)))
        .insert_header((header::VARY, "accept-encoding"))
        .insert_header(ETag(tag.clone()));
    if is_known(request, &tag) {
        return Some(response.finish());
    }
    response.content_type(content_type.as_ref());
    if packed.is_some() {
        response.insert_header(ContentEncoding::Gzip);
    }
    let body = match packed.unwrap_or(plain).data {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    };
    Some(response.body(body))
}

fn cache_control(caching: Caching) -> &'static str {
    match caching {
        Caching::Forever => "public, max-age=31536000, immutable",
        Caching::Ask => "no-cache",
    }
}

/// An answer that a browser treats as narrowly as it can.
fn guarded(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .insert_header(("content-security-policy", POLICY))
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("cross-origin-opener-policy", "same-origin"))
        .insert_header(("cross-origin-resource-policy", "same-origin"))
        .insert_header((
            "permissions-policy",
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ));
    response
}

fn takes_gzip(request: &HttpRequest) -> bool {
    use actix_web::http::header::Encoding;

    AcceptEncoding::parse(request).is_ok_and(|accepted| {
        accepted
            .negotiate([Encoding::gzip()].iter())
            .is_some_and(|encoding| encoding == Encoding::gzip())
    })
}

fn is_known(request: &HttpRequest, tag: &EntityTag) -> bool {
    debug_assert!(matches!(*request.method(), Method::GET | Method::HEAD));
    match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(tag)),
        Err(_) => false,
    }
}

fn tag_of(file: &EmbeddedFile) -> String {
    let hash = file.metadata.sha256_hash();
    hash[..16].iter().fold(String::new(), |mut tag, byte| {
        let _ = write!(tag, "{byte:02x}");
        tag
    })
}

fn content_type(mime: &str) -> Cow<'_, str> {
    if mime.starts_with("text/") || mime == "application/javascript" {
        format!("{mime}; charset=utf-8").into()
    } else {
        mime.into()
    }
}
