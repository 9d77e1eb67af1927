//! Joining, leaving, roles and invitations.

use std::time::Duration;

use backend::directory::{Invite, Member, Room};
use protocol::{ErrorCode, NoticeKind, Role, RoomId, Timestamp, UserId};
use rest::Refusal;

use super::{Made, Rooms, about_room, detached, forbidden};

const INVITE_USES_MAX: u32 = 1000;
const INVITE_SECS_MAX: u64 = 30 * 24 * 3600;
const INVITE_CODE_CHARS: usize = 26;

/// What an invite is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InviteTerms {
    pub max_uses: u32,
    pub expires_in_secs: u64,
}

impl Default for InviteTerms {
    /// Ten people within a week.
    fn default() -> Self {
        Self {
            max_uses: 10,
            expires_in_secs: 7 * 24 * 3600,
        }
    }
}

impl Rooms {
    /// The members in order of name.
    ///
    /// # Errors
    /// `not_found` when the user cannot see the room.
    pub async fn members(
        &self,
        user: &UserId,
        room: &RoomId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>, Refusal> {
        let (room, _) = self.visible(user, room).await?;
        let directory = &self.backends.directory;
        Ok(directory.members(&room.id, after, limit).await?)
    }

    /// Makes `user` a member: oneself of a public room, others as admin or owner. Who is a member already stays as
    /// they are.
    ///
    /// # Errors
    /// `not_found`, or `forbidden` when one may not, or the room is full.
    pub async fn put_member(
        &self,
        by: &UserId,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Made<Member>, Refusal> {
        let (room, mine) = self.visible(by, room).await?;
        let theirs = if by == user {
            mine
        } else {
            self.led_by(by, &room.id, Role::Admin).await?;
            self.backends.directory.member(&room.id, user).await?
        };
        if let Some(member) = theirs {
            return Ok(Made {
                value: member,
                new: false,
            });
        }
        self.spend(by)?;
        self.add(by, room.id, user).await
    }

    /// Gives a member another role. Owners may give any; an admin may only step down.
    ///
    /// # Errors
    /// `not_found`, or `forbidden`, also for the last owner's own.
    pub async fn set_role(
        &self,
        by: &UserId,
        room: &RoomId,
        user: &UserId,
        role: Role,
    ) -> Result<Member, Refusal> {
        let (room, me) = self.led_by(by, room, Role::Admin).await?;
        let steps_down = by == user && role <= me.role;
        if me.role != Role::Owner && !steps_down {
            return Err(forbidden("only owners give and take roles"));
        }
        let (rooms, by, user) = (self.clone(), by.clone(), user.clone());
        detached(async move {
            let directory = &rooms.backends.directory;
            let changed = directory.set_role(&room.id, &user, role, &by).await;
            let changed = changed.map_err(about_member)?;
            if !changed.announce.is_empty() {
                rooms.announce().await;
            }
            Ok(changed.value)
        })
        .await
    }

    /// Ends a membership: one's own, or another's as owner, or a plain member's as admin. It also ends that user's
    /// subscriptions, for which the hub listens to the event this makes.
    ///
    /// # Errors
    /// `not_found`, or `forbidden`, also for the last owner while others remain and for the last member of a private
    /// room, whom nobody could follow.
    pub async fn remove_member(
        &self,
        by: &UserId,
        room: &RoomId,
        user: &UserId,
    ) -> Result<(), Refusal> {
        let least = if by == user {
            Role::Member
        } else {
            Role::Admin
        };
        let (room, me) = self.led_by(by, room, least).await?;
        if by != user {
            let them = self.backends.directory.member(&room.id, user).await?;
            let them = them.ok_or_else(no_member)?;
            if me.role != Role::Owner && them.role != Role::Member {
                return Err(forbidden("only owners remove admins and owners"));
            }
        }
        let (rooms, by, user) = (self.clone(), by.clone(), user.clone());
        detached(async move {
            let directory = &rooms.backends.directory;
            let removed = directory.remove_member(&room.id, &user, &by).await;
            removed.map_err(about_member)?;
            rooms.announce().await;
            rooms.notice(&user, NoticeKind::RoomRemoved, &room.id);
            Ok(())
        })
        .await
    }

    /// Makes a code that lets its bearers in. Admins and owners may. It ends with its time or its uses, and when the
    /// inviter leaves the room or becomes a plain member.
    ///
    /// # Errors
    /// `not_found`, `forbidden`, `bad_request` with the field, or `too_large` when the room has a hundred already.
    pub async fn invite(
        &self,
        by: &UserId,
        room: &RoomId,
        terms: InviteTerms,
    ) -> Result<Invite, Refusal> {
        let (room, _) = self.led_by(by, room, Role::Admin).await?;
        if !(1..=INVITE_USES_MAX).contains(&terms.max_uses) {
            return Err(Refusal::field(
                "max_uses",
                format!("must be from 1 to {INVITE_USES_MAX}"),
            ));
        }
        if !(1..=INVITE_SECS_MAX).contains(&terms.expires_in_secs) {
            return Err(Refusal::field(
                "expires_in_secs",
                format!("must be from 1 to {INVITE_SECS_MAX}"),
            ));
        }
        let now = Timestamp::now();
        let validity = Duration::from_secs(terms.expires_in_secs);
        let validity_ms = i64::try_from(validity.as_millis()).unwrap_or(i64::MAX);
        let invite = Invite {
            code: invite_code(),
            room: room.id.clone(),
            by: by.clone(),
            uses_left: terms.max_uses,
            expires_at: Timestamp::from_millis(now.as_millis().saturating_add(validity_ms)),
        };
        let directory = &self.backends.directory;
        match directory.put_invite(invite.clone(), now).await {
            Ok(()) => Ok(invite),
            Err(backend::Error::Refused(reason)) => {
                // Either the right to invite was lost meanwhile, or there are too many invites.
                self.led_by(by, &room.id, Role::Admin).await?;
                Err(Refusal::new(ErrorCode::TooLarge, reason))
            }
            Err(error) => Err(about_room(error)),
        }
    }

    /// Enters a room by a code.
    ///
    /// # Errors
    /// `not_found` when the code is unknown, used up or expired; `forbidden` when the room is full.
    pub async fn redeem(&self, user: &UserId, code: &str) -> Result<Room, Refusal> {
        if code.len() != INVITE_CODE_CHARS || !code.bytes().all(|b| CODE_LETTERS.contains(&b)) {
            return Err(no_invite());
        }
        self.spend(user)?;
        let (rooms, user, code) = (self.clone(), user.clone(), code.to_owned());
        detached(async move {
            let directory = &rooms.backends.directory;
            let joined = directory
                .redeem_invite(&code, &user, Timestamp::now())
                .await
                .map_err(|error| match error {
                    backend::Error::NotFound(_) => no_invite(),
                    error => error.into(),
                })?;
            if !joined.announce.is_empty() {
                rooms.announce().await;
                rooms.notice(&user, NoticeKind::RoomAdded, &joined.value.id);
            }
            Ok(joined.value)
        })
        .await
    }

    /// Adds somebody who was no member a moment ago.
    pub(super) async fn add(
        &self,
        by: &UserId,
        room: RoomId,
        user: &UserId,
    ) -> Result<Made<Member>, Refusal> {
        let rooms = self.clone();
        let (by, user) = (by.clone(), user.clone());
        detached(async move {
            let directory = &rooms.backends.directory;
            let changed = directory
                .put_member(&room, &user, Role::Member, &by)
                .await
                .map_err(about_room)?;
            let new = !changed.announce.is_empty();
            if new {
                rooms.announce().await;
                rooms.notice(&user, NoticeKind::RoomAdded, &room);
            }
            Ok(Made {
                value: changed.value,
                new,
            })
        })
        .await
    }
}

fn no_member() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "no such member")
}

fn no_invite() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "no such invite")
}

/// A port's error about a member that was there a moment ago.
fn about_member(error: backend::Error) -> Refusal {
    match error {
        backend::Error::NotFound(_) => no_member(),
        error => about_room(error),
    }
}

/// Thirty-two letters and digits that are hard to mistake for each other.
const CODE_LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// 130 random bits: nobody guesses one.
fn invite_code() -> String {
    let bytes: [u8; INVITE_CODE_CHARS] = rand::random();
    bytes
        .iter()
        .map(|byte| char::from(CODE_LETTERS[usize::from(byte % 32)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_long_plain_and_different() {
        let (one, other) = (invite_code(), invite_code());
        assert_ne!(one, other);
        assert_eq!(one.len(), INVITE_CODE_CHARS);
        assert!(one.bytes().all(|b| CODE_LETTERS.contains(&b)));
    }
}
