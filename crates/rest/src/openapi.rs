//! The description of the whole HTTP API, put together from those of the services.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, web};
use utoipa::IntoResponses;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::openapi::{Components, Info, License, OpenApi};

use crate::{Problem, USER_HEADER};

/// The name of the security scheme of open mode, for `security((…))` of handlers.
pub const OPEN_MODE: &str = "open_mode";

/// The refusals that every request for a signed-in user may meet. Handlers list the others themselves.
#[derive(IntoResponses)]
pub enum Refused {
    /// A parameter, header or the body is wrong; `errors` names it.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(#[to_schema] Problem),
    /// Nobody is signed in.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(#[to_schema] Problem),
    /// A defect of the server.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(#[to_schema] Problem),
    /// Something the request needs is away, or there is too much work; try again later.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] Problem),
}

/// One description out of several.
#[must_use]
pub fn merge(services: impl IntoIterator<Item = OpenApi>) -> OpenApi {
    let mut info = Info::new("Darda", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "The HTTP API of Darda, a chat system. Rooms are logs of events; `seq` is the place of an event in its room. \
         Every refusal is a problem document whose `code` is for programs."
            .to_owned(),
    );
    info.license = Some(License::new("Apache-2.0"));
    let mut all = OpenApi::new(info, utoipa::openapi::Paths::new());
    for service in services {
        all.merge(service);
    }
    let components = all.components.get_or_insert_with(Components::new);
    let mut key = ApiKeyValue::new(USER_HEADER);
    key.description = Some("The user's name, on trust. Only in open mode.".to_owned());
    components.add_security_scheme(OPEN_MODE, SecurityScheme::ApiKey(ApiKey::Header(key)));
    all
}

/// Mounts a description at `/openapi.json`.
pub fn serve(description: &OpenApi) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    let text = description
        .to_json()
        .expect("a description has string keys and no failing parts");
    let text = web::Bytes::from(text);
    move |cfg| {
        let answer = move || {
            let text = text.clone();
            async move {
                HttpResponse::Ok()
                    .insert_header((CACHE_CONTROL, "no-cache"))
                    .content_type("application/json")
                    .body(text)
            }
        };
        cfg.service(web::resource("/openapi.json").get(answer));
    }
}
