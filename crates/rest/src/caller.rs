//! Who is asking.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use protocol::{ErrorCode, UserId};

use crate::Refusal;

/// Names the user in open mode.
pub const USER_HEADER: &str = "x-darda-user";

/// The user who makes the request. Take it first, so that nobody else learns what is wrong with the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(pub UserId);

impl Caller {
    fn of(request: &HttpRequest) -> Result<Self, Refusal> {
        let refuse = |message: &str| Refusal::new(ErrorCode::Unauthenticated, message);
        let mut values = request.headers().get_all(USER_HEADER);
        let value = values.next().ok_or_else(|| {
            refuse("nobody is signed in: name the user in the header x-darda-user")
        })?;
        if values.next().is_some() {
            return Err(refuse("the header x-darda-user is there more than once"));
        }
        value
            .to_str()
            .ok()
            .and_then(|name| UserId::parse(name).ok())
            .map(Self)
            .ok_or_else(|| {
                let reason = protocol::IdError::User;
                refuse(&format!("the header x-darda-user names no user: {reason}"))
            })
    }
}

impl FromRequest for Caller {
    type Error = Refusal;
    type Future = Ready<Result<Self, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn one_good_name_is_needed() {
        let of = |names: &[&str]| {
            let mut request = TestRequest::default();
            for name in names {
                request = request.append_header((USER_HEADER, *name));
            }
            Caller::of(&request.to_http_request())
        };
        assert_eq!(of(&["alice"]).unwrap().0.as_str(), "alice");
        for bad in [&[][..], &[""], &["Alice"], &["alice", "bob"]] {
            assert_eq!(of(bad).unwrap_err().code, ErrorCode::Unauthenticated);
        }
    }
}
