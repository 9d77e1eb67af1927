//! The description of the whole HTTP API, put together from those of the services.

use std::collections::BTreeMap;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, web};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, Info, License, OpenApi, Ref, RefOr, Response, ResponseBuilder,
};
use utoipa::{IntoResponses, PartialSchema as _, ToSchema as _};

use crate::{PROBLEM_JSON, Problem, USER_HEADER};

/// The name of the security scheme of open mode.
const OPEN_MODE: &str = "open_mode";

/// The refusals that every request of a signed-in user may meet; handlers list it beside their own `responses`.
pub struct Refused;

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        BTreeMap::from(
            [
                (
                    "400",
                    "A parameter, a header or the body is wrong; `errors` names it.",
                ),
                ("401", "Nobody is signed in."),
                ("500", "A defect of the server."),
                (
                    "503",
                    "Something that is needed is away, or there is too much work. Try again later.",
                ),
            ]
            .map(|(status, meaning)| (status.to_owned(), problem(meaning).into())),
        )
    }
}

/// An answer that is a problem, for implementations of [`IntoResponses`].
#[must_use]
pub fn problem(meaning: &str) -> Response {
    let schema = Ref::from_schema_name(Problem::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description(meaning)
        .content(PROBLEM_JSON, content)
        .build()
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
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    info.license = Some(license);
    let mut all = OpenApi::new(info, utoipa::openapi::Paths::new());
    for service in services {
        all.merge(service);
    }
    let components = all.components.get_or_insert_with(Components::new);
    let mut key = ApiKeyValue::new(USER_HEADER);
    key.description = Some("The user's name, on trust. Only in open mode.".to_owned());
    components.add_security_scheme(OPEN_MODE, SecurityScheme::ApiKey(ApiKey::Header(key)));
    let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    all.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(
        OPEN_MODE,
        [],
    )]);
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
