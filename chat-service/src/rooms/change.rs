//! Making, renaming and deleting rooms.

use std::time::Duration;

use backend::directory::{Member, NewRoom, Room, RoomKind, RoomPatch};
use protocol::{NoticeKind, Role, RoomId, Timestamp, UserId};
use rest::Refusal;

use super::{Made, Rooms, about_room, detached};

const NAME_CHARS_MAX: usize = 100;
const TOPIC_CHARS_MAX: usize = 1000;
/// How long a deletion waits for the log before it goes on in the background.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(1);

/// A room somebody wishes for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Only public rooms may choose; otherwise the server makes an id.
    pub id: Option<RoomId>,
    pub kind: RoomKind,
    pub name: String,
    pub topic: String,
}

impl Rooms {
    /// Makes a public or private room that the user owns.
    ///
    /// # Errors
    /// `bad_request` names the field that is wrong; `conflict` when the id is or ever was in use.
    pub async fn create(&self, user: &UserId, draft: Draft) -> Result<Room, Refusal> {
        let id = match (draft.kind, draft.id) {
            (RoomKind::Direct, _) => {
                return Err(Refusal::field(
                    "kind",
                    "must be public or private; a direct room is made by PUT /v1/direct/{user}",
                ));
            }
            (RoomKind::Private, Some(_)) => {
                return Err(Refusal::field(
                    "id",
                    "only a public room can choose its id; leave it out",
                ));
            }
            (RoomKind::Public, Some(id)) if id.is_generated() => {
                return Err(Refusal::field(
                    "id",
                    "must not look like a UUID; leave it out to get one",
                ));
            }
            (_, Some(id)) => id,
            (_, None) => RoomId::generate(),
        };
        let new = NewRoom {
            id,
            kind: draft.kind,
            name: check_line("name", &draft.name, NAME_CHARS_MAX)?,
            topic: check_line("topic", &draft.topic, TOPIC_CHARS_MAX)?,
            by: user.clone(),
            at: Timestamp::now(),
        };
        self.spend(user)?;
        Ok(self.make(new, None).await?.value)
    }

    /// As [`Rooms::direct`], and tells whether the room is new.
    ///
    /// # Errors
    /// `bad_request` when both are the same, `rate_limited`.
    pub async fn open_direct(&self, user: &UserId, with: &UserId) -> Result<Made<Room>, Refusal> {
        self.spend(user)?;
        self.between(user, with).await
    }

    pub(super) async fn between(
        &self,
        user: &UserId,
        with: &UserId,
    ) -> Result<Made<Room>, Refusal> {
        if user == with {
            return Err(Refusal::field("user", "must be somebody else"));
        }
        let new = NewRoom {
            id: RoomId::generate(),
            kind: RoomKind::Direct,
            name: String::new(),
            topic: String::new(),
            by: user.clone(),
            at: Timestamp::now(),
        };
        self.make(new, Some(with.clone())).await
    }

    /// Changes name and topic. Admins and owners may.
    ///
    /// # Errors
    /// `not_found`, `forbidden`, or `bad_request` with the field.
    pub async fn patch(
        &self,
        user: &UserId,
        room: &RoomId,
        patch: RoomPatch,
    ) -> Result<(Room, Member), Refusal> {
        let (room, member) = self.led_by(user, room, Role::Admin).await?;
        let patch = RoomPatch {
            name: patch
                .name
                .map(|name| check_line("name", &name, NAME_CHARS_MAX))
                .transpose()?,
            topic: patch
                .topic
                .map(|topic| check_line("topic", &topic, TOPIC_CHARS_MAX))
                .transpose()?,
        };
        let (rooms, user) = (self.clone(), user.clone());
        let room = detached(async move {
            let directory = &rooms.backends.directory;
            let changed = directory
                .patch_room(&room.id, patch, &user)
                .await
                .map_err(about_room)?;
            if !changed.announce.is_empty() {
                rooms.announce().await;
            }
            Ok(changed.value)
        })
        .await?;
        Ok((room, member))
    }

    /// Deletes the room with everything in it, for good. Owners may.
    ///
    /// The members' sessions learn it from a last event and a notice; then the log is forgotten.
    ///
    /// # Errors
    /// `not_found` or `forbidden`.
    pub async fn delete(&self, user: &UserId, room: &RoomId) -> Result<(), Refusal> {
        let (room, _) = self.led_by(user, room, Role::Owner).await?;
        let (rooms, by) = (self.clone(), user.clone());
        detached(async move {
            let directory = &rooms.backends.directory;
            let deleted = directory.delete_room(&room.id, &by).await;
            let members = deleted.map_err(about_room)?;
            // From here on nobody can enter, so that a session which is sent away does not come back. A log that is away
            // does not hold up the rest: the room is gone already.
            let announcing = rooms.clone();
            let announced = tokio::spawn(async move { announcing.announce().await });
            let _ = tokio::time::timeout(ANNOUNCE_WAIT, announced).await;
            for member in &members {
                rooms.notice(member, NoticeKind::RoomDeleted, &room.id);
            }
            Ok(())
        })
        .await
    }

    /// Stores a new room; of a pair, the one they have if they have one.
    pub(super) async fn make(
        &self,
        new: NewRoom,
        with: Option<UserId>,
    ) -> Result<Made<Room>, Refusal> {
        let rooms = self.clone();
        detached(async move {
            let by = new.by.clone();
            let directory = &rooms.backends.directory;
            let made = directory.create_room(new, with.as_ref()).await?;
            let new = !made.announce.is_empty();
            if new {
                rooms.announce().await;
                for user in std::iter::once(&by).chain(with.as_ref()) {
                    rooms.notice(user, NoticeKind::RoomAdded, &made.value.id);
                }
            }
            Ok(Made {
                value: made.value,
                new,
            })
        })
        .await
    }
}

/// A line for people: no control characters, no white space around it, not too long. Empty takes it away.
fn check_line(field: &str, text: &str, chars_max: usize) -> Result<String, Refusal> {
    if text.chars().any(char::is_control) {
        return Err(Refusal::field(
            field,
            "must be one line without control characters",
        ));
    }
    let text = text.trim();
    let chars = text.chars().count();
    if chars > chars_max {
        return Err(Refusal::field(
            field,
            format!("is {chars} characters, at most {chars_max} are allowed"),
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_trimmed_and_bounded() {
        assert_eq!(check_line("name", "  a b ", 3).unwrap(), "a b");
        assert_eq!(check_line("name", "ääää", 4).unwrap(), "ääää");
        assert_eq!(
            check_line("name", "abcd", 3).unwrap_err().errors[0].field,
            "name"
        );
        assert!(check_line("topic", "a\nb", 10).is_err());
    }
}
