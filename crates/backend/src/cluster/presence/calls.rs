//! The functions of presence, with types.

use ::redis::FromRedisValue;
use protocol::{RoomId, Status, Timestamp, UserId};

use super::table::{Answer, Known, Report};
use crate::cluster::Redis;
use crate::presence::{Present, UserStatus};
use crate::relay::Signal;
use crate::{Error, Result};

/// Calls the functions.
#[derive(Clone)]
pub struct Calls {
    redis: Redis,
    /// The beginning of all keys, and the only one that is named to Redis.
    prefix: [String; 1],
}

/// Changes that are to be announced, in order.
#[derive(Debug, Default)]
pub struct Announcements {
    pub version: u64,
    pub signals: Vec<Signal>,
}

/// What a renewal says.
pub struct Renewal {
    /// Whether the lease had not ended.
    pub is_held: bool,
    /// Leases that ended and must be swept.
    pub ended: Vec<String>,
}

/// Room, user, status, time in ms or nothing.
type Told = (String, String, String, String);

impl Calls {
    pub fn new(redis: Redis) -> Self {
        let prefix = [redis.key("presence:")];
        Self { redis, prefix }
    }

    async fn call<T: FromRedisValue>(&self, function: &str, arguments: &[&str]) -> Result<T> {
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
        self.redis.call(function, &self.prefix, &arguments).await
    }

    /// Begins a lease after another; whether Redis has lost what was told under that.
    pub async fn open(&self, lease: &str, length_ms: &str, before: &str) -> Result<bool> {
        let known: u8 = self
            .call("darda_presence_open", &[lease, length_ms, before])
            .await?;
        Ok(known == 0)
    }

    pub async fn renew(&self, lease: &str, length_ms: &str) -> Result<Renewal> {
        let (held, ended): (u8, Vec<String>) = self
            .call("darda_presence_renew", &[lease, length_ms])
            .await?;
        Ok(Renewal {
            is_held: held == 1,
            ended,
        })
    }

    pub async fn end(&self, lease: &str) -> Result<()> {
        let ended: Result<u8> = self.call("darda_presence_end", &[lease]).await;
        ended.map(drop)
    }

    /// Takes some users of an ended lease away; whether there are more.
    pub async fn sweep(&self, lease: &str) -> Result<(bool, Announcements)> {
        let (more, version, told): (u8, u64, Vec<Told>) =
            self.call("darda_presence_sweep", &[lease]).await?;
        Ok((more == 1, announcements(version, told)?))
    }

    /// Says what this process has. `None` when the lease has ended.
    pub async fn report(
        &self,
        lease: &str,
        reports: &[Report],
    ) -> Result<Option<(Vec<Answer>, Announcements)>> {
        let mut arguments = vec![lease.to_owned()];
        for report in reports {
            put(report, &mut arguments);
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let (held, version, answers, told): (u8, u64, Vec<(usize, String)>, Vec<Told>) =
            self.call("darda_presence_report", &arguments).await?;
        if held == 0 {
            return Ok(None);
        }
        let answers = answers.into_iter().map(|(admitted, status)| {
            Ok(Answer {
                admitted,
                status: parse_status(&status)?,
            })
        });
        let answers = answers.collect::<Result<Vec<_>>>()?;
        if answers.len() != reports.len() {
            return Err(strange("answers", answers.len()));
        }
        Ok(Some((answers, announcements(version, told)?)))
    }

    pub async fn status(&self, users: &[UserId]) -> Result<Vec<UserStatus>> {
        let names: Vec<_> = users.iter().map(UserId::as_str).collect();
        let states: Vec<(String, i64)> = self.call("darda_presence_status", &names).await?;
        if states.len() != users.len() {
            return Err(strange("states", states.len()));
        }
        let states = users.iter().zip(states).map(|(user, (status, seen))| {
            let status = parse_status(&status)?;
            let is_offline = status == Status::Offline;
            Ok(UserStatus {
                user: user.clone(),
                status,
                last_seen: (is_offline && seen > 0).then(|| Timestamp::from_millis(seen)),
            })
        });
        states.collect()
    }

    /// Who is in each of the rooms, some of them.
    pub async fn present(&self, rooms: &[(RoomId, usize)]) -> Result<Vec<Present>> {
        let arguments: Vec<_> = rooms
            .iter()
            .flat_map(|(room, most)| [room.to_string(), most.to_string()])
            .collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let found: Vec<(u64, Vec<String>)> =
            self.call("darda_presence_present", &arguments).await?;
        if found.len() != rooms.len() {
            return Err(strange("rooms", found.len()));
        }
        let found = found.into_iter().map(|(count, users)| {
            let users = users.iter().map(|user| parse_user(user));
            Ok(Present {
                users: users.collect::<Result<_>>()?,
                count,
            })
        });
        found.collect()
    }
}

/// The arguments of a report.
fn put(report: &Report, arguments: &mut Vec<String>) {
    arguments.extend([
        report.user.to_string(),
        report.sessions.to_string(),
        report.idle.to_string(),
        report.candidates.len().to_string(),
        report.most.to_string(),
        match report.status {
            Known::Nothing => String::new(),
            Known::Status(status) => status_name(status).to_owned(),
            Known::Uncertain => "?".to_owned(),
        },
        report.rooms.len().to_string(),
    ]);
    for change in &report.rooms {
        arguments.extend([
            change.room.to_string(),
            u8::from(change.here).to_string(),
            u8::from(change.told).to_string(),
        ]);
    }
}

fn announcements(version: u64, told: Vec<Told>) -> Result<Announcements> {
    let signals = told.into_iter().map(|(room, user, status, seen)| {
        let last_seen = seen.parse().ok().map(Timestamp::from_millis);
        Ok(Signal::Presence {
            room: RoomId::parse(&room).map_err(|_| strange("a room", room))?,
            user: parse_user(&user)?,
            status: parse_status(&status)?,
            last_seen,
        })
    });
    Ok(Announcements {
        version,
        signals: signals.collect::<Result<_>>()?,
    })
}

fn parse_user(text: &str) -> Result<UserId> {
    UserId::parse(text).map_err(|_| strange("a user", text))
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Online => "online",
        Status::Away => "away",
        Status::Offline => "offline",
        Status::Unknown => "",
    }
}

fn parse_status(text: &str) -> Result<Status> {
    let all = [Status::Online, Status::Away, Status::Offline];
    all.into_iter()
        .find(|status| status_name(*status) == text)
        .ok_or_else(|| strange("a status", text))
}

fn strange(what: &str, value: impl std::fmt::Display) -> Error {
    Error::Corrupt(format!(
        "presence in redis has {what} of {value:?}",
        value = value.to_string()
    ))
}
