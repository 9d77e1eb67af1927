//! The web page: files of `web/dist`, embedded in the program (a debug build reads them from disk each time).
//!
//! Hashed assets are cached for ever, everything else is asked for again and answered 304 when it is the same. A
//! `<file>.gz` beside a file is sent to those who take gzip. The policy allows files of our own origin and nothing
//! inline; `connect-src 'self'` covers the socket too (Chromium 71, Safari 16, Firefox).

use std::borrow::Cow;
use std::fmt::Write as _;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    self, AcceptEncoding, ContentEncoding, ETag, EntityTag, Header as _, IfNoneMatch,
};
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
        .service(resource("/assets/{file:[A-Za-z0-9._-]+}", asset))
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
    let file = File {
        plain: Dist::get(name)?,
        packed: Dist::get(&format!("{name}.gz")),
    };
    Some(file.answer(request, caching))
}

/// A file and, if there is one, the same under gzip.
struct File {
    plain: EmbeddedFile,
    packed: Option<EmbeddedFile>,
}

impl File {
    fn answer(self, request: &HttpRequest, caching: Caching) -> HttpResponse {
        let packed = self.packed.filter(|_| takes_gzip(request));
        let tag = EntityTag::new_strong(tag_of(packed.as_ref().unwrap_or(&self.plain)));
        let known = is_known(request, &tag);
        let mut response = guarded(if known {
            StatusCode::NOT_MODIFIED
        } else {
            StatusCode::OK
        });
        response
            .insert_header((header::CACHE_CONTROL, cache_control(caching)))
            .insert_header((header::VARY, "accept-encoding"))
            .insert_header(ETag(tag));
        if known {
            return response.finish();
        }
        response.content_type(content_type(self.plain.metadata.mimetype()).as_ref());
        if packed.is_some() {
            response.insert_header(ContentEncoding::Gzip);
        }
        response.body(match packed.unwrap_or(self.plain).data {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        })
    }
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

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::test::TestRequest;

    use super::*;

    /// A script, packed or not.
    fn script(packed: Option<&str>) -> File {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            rust_embed::utils::read_file_from_fs(&path).unwrap()
        };
        File {
            plain: read("a.js", "let a"),
            packed: packed.map(|text| read("a.js.gz", text)),
        }
    }

    fn ask(file: File, headers: &[(&'static str, &str)]) -> HttpResponse {
        let mut request = TestRequest::default();
        for (name, value) in headers {
            request = request.insert_header((*name, *value));
        }
        file.answer(&request.to_http_request(), Caching::Forever)
    }

    fn header<'a>(answer: &'a HttpResponse, name: &str) -> &'a str {
        let value = answer.headers().get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    #[actix_web::test]
    async fn a_file_is_asked_for_once() {
        let answer = ask(script(None), &[]);
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(
            header(&answer, "content-type"),
            "text/javascript; charset=utf-8"
        );
        assert!(header(&answer, "cache-control").ends_with("immutable"));
        let tag = header(&answer, "etag").to_owned();
        assert_eq!(to_bytes(answer.into_body()).await.unwrap(), "let a");

        for known in [&*tag, &format!("\"x\", W/{tag}"), "*"] {
            let answer = ask(script(None), &[("if-none-match", known)]);
            assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
            assert_eq!(header(&answer, "etag"), tag);
            assert!(to_bytes(answer.into_body()).await.unwrap().is_empty());
        }
        let answer = ask(script(None), &[("if-none-match", "\"x\"")]);
        assert_eq!(answer.status(), StatusCode::OK);
    }

    #[actix_web::test]
    async fn gzip_goes_to_those_who_take_it() {
        for (accepts, packed) in [
            ("gzip, br", true),
            ("br;q=1.0, gzip;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("br", false),
        ] {
            let answer = ask(script(Some("packed")), &[("accept-encoding", accepts)]);
            let encoding = if packed { "gzip" } else { "" };
            assert_eq!(header(&answer, "content-encoding"), encoding, "{accepts}");
            assert_eq!(header(&answer, "vary"), "accept-encoding");
            assert_eq!(
                header(&answer, "content-type"),
                "text/javascript; charset=utf-8"
            );
            let body = if packed { "packed" } else { "let a" };
            assert_eq!(
                to_bytes(answer.into_body()).await.unwrap(),
                body,
                "{accepts}"
            );
        }
        let answer = ask(script(Some("packed")), &[]);
        assert_eq!(header(&answer, "content-encoding"), "");
        let answer = ask(script(None), &[("accept-encoding", "gzip")]);
        assert_eq!(header(&answer, "content-encoding"), "");
    }
}
