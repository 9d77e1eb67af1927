//! Pages, limits, and the answers that carry them.

use actix_web::HttpResponse;
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

/// The most things on a page.
pub const LIMIT_MAX: usize = 200;
/// How many there are when nobody says.
pub const LIMIT_DEFAULT: usize = 50;

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the list goes on: the `cursor` of the next request. Null at its end.
    #[schema(required = true)]
    pub next: Option<String>,
}

/// How many things the caller wants on a page: 1 to 200, 50 when absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(usize);

impl Limit {
    /// The number.
    #[must_use]
    pub fn get(self) -> usize {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(LIMIT_DEFAULT)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .map(Self)
            .ok_or_else(|| {
                de::Error::custom(format!("must be a whole number from 1 to {LIMIT_MAX}"))
            })
    }
}

/// `200` with a body.
pub fn ok<T: Serialize>(body: &T) -> HttpResponse {
    HttpResponse::Ok().json(body)
}

/// `201` with a body.
pub fn created<T: Serialize>(body: &T) -> HttpResponse {
    HttpResponse::Created().json(body)
}

/// `204`.
#[must_use]
pub fn no_content() -> HttpResponse {
    HttpResponse::NoContent().finish()
}
