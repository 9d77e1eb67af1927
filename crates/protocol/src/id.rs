//! Names of users, rooms, messages and sessions. `parse` is the only way from text to one of them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;
use uuid::Uuid;

/// What is wrong with an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error(
        "a user id is 1 to 64 characters of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
    )]
    User,
    #[error("a room id is 1 to 64 characters of a-z, 0-9 and '-', starting with a letter or digit")]
    Room,
    #[error("a message id is a UUID such as 0198c0de-0000-7000-8000-000000000001")]
    Message,
    #[error("a session id is a UUID")]
    Session,
}

fn is_slug(text: &str, more: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    matches!(bytes.len(), 1..=64)
        && plain(bytes[0])
        && bytes.iter().all(|&b| plain(b) || more.contains(&b))
}

macro_rules! slug_id {
    ($name:ident, $more:expr, $error:expr, $pattern:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
        #[schema(value_type = String, pattern = $pattern, max_length = 64)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and keeps a name.
            ///
            /// # Errors
            /// When `text` does not have the form of such an id.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                if is_slug(text, $more) {
                    Ok(Self(text.into()))
                } else {
                    Err($error)
                }
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(ParseVisitor {
                    expected: concat!("a string matching ", $pattern),
                    parse: Self::parse,
                })
            }
        }
    };
}

/// Parses an id out of a borrowed or owned string.
struct ParseVisitor<T> {
    expected: &'static str,
    parse: fn(&str) -> Result<T, IdError>,
}

impl<T> de::Visitor<'_> for ParseVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

slug_id!(
    UserId,
    b"._-",
    IdError::User,
    "^[a-z0-9][a-z0-9._-]{0,63}$",
    "A user: `[a-z0-9][a-z0-9._-]{0,63}`. Cheap to clone."
);

slug_id!(
    RoomId,
    b"-",
    IdError::Room,
    "^[a-z0-9][a-z0-9-]{0,63}$",
    "A room: `[a-z0-9][a-z0-9-]{0,63}`, a UUID where the server made it. Cheap to clone."
);

impl RoomId {
    /// A new server-made id, a version 7 UUID.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().hyphenated().to_string().into())
    }

    /// Whether this id looks server-made. Such ids cannot be chosen by a user.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        Uuid::try_parse(&self.0).is_ok()
    }
}

macro_rules! uuid_id {
    ($name:ident, $error:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
        #[schema(value_type = Uuid)]
        pub struct $name(Uuid);

        impl $name {
            /// Checks and keeps an id.
            ///
            /// # Errors
            /// When `text` is not a UUID in its hyphenated form.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                // The other notations (braced, urn, no hyphens) would give one id several spellings.
                if text.len() != 36 {
                    return Err($error);
                }
                Uuid::try_parse(text).map(Self).map_err(|_| $error)
            }

            /// A new id, a version 7 UUID: sortable by the time it was made.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id as a UUID.
            #[must_use]
            pub fn as_uuid(&self) -> Uuid {
                self.0
            }

            /// An id from the sixteen bytes a store kept.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut buffer = Uuid::encode_buffer();
                serializer.serialize_str(self.0.hyphenated().encode_lower(&mut buffer))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(ParseVisitor {
                    expected: "a UUID string",
                    parse: Self::parse,
                })
            }
        }
    };
}

uuid_id!(
    MessageId,
    IdError::Message,
    "The sender's id of a message or another act in a room: a UUID, version 7 preferred."
);
uuid_id!(
    SessionId,
    IdError::Session,
    "One connection of a user: a UUID made by the server."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_has_a_narrow_form() {
        for good in ["a", "alice", "0", "a.b_c-d", &"x".repeat(64)] {
            assert_eq!(UserId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "Alice", "-a", ".a", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert_eq!(UserId::parse(bad), Err(IdError::User), "{bad}");
        }
    }

    #[test]
    fn a_room_id_has_no_dots_and_no_capitals() {
        assert!(RoomId::parse("general").is_ok());
        assert!(RoomId::parse("a.b").is_err());
        assert!(RoomId::parse("General").is_err());
        assert!(RoomId::generate().is_generated());
        assert!(!RoomId::parse("general").unwrap().is_generated());
    }

    #[test]
    fn a_message_id_has_one_spelling() {
        let text = "0198c0de-0000-7000-8000-00000000000a";
        assert_eq!(MessageId::parse(text).unwrap().to_string(), text);
        assert_eq!(
            MessageId::parse(&text.to_uppercase()).unwrap().to_string(),
            text
        );
        assert!(MessageId::parse("0198c0de00007000800000000000000a").is_err());
        assert!(MessageId::parse("{0198c0de-0000-7000-8000-00000000000a}").is_err());
        assert!(MessageId::parse("").is_err());
    }
}
