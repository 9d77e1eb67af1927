//! The sessions of this process, and how much of it Redis has been told: a user whose state has changed is dirty until
//! a report about them is answered. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use protocol::{RoomId, SessionId, Status, UserId};
use tokio::sync::oneshot;

use crate::{Error, Result};

/// Users without sessions that Redis is still to be told of while it is away. Of more than that nobody hears.
const GONE_MAX: usize = 50_000;
/// Rooms in one report; of others the next one tells.
const ROOMS_MAX: usize = 1000;

/// What a caller waits for.
pub type Told = oneshot::Receiver<()>;
/// Whether a session may be.
pub type Verdict = oneshot::Receiver<bool>;

#[derive(Default)]
pub struct Table {
    sessions: HashMap<SessionId, Session>,
    users: HashMap<UserId, User>,
    /// Users with changes that Redis has not been told, in order of time.
    dirty: BTreeMap<u64, UserId>,
    tickets: u64,
    /// Redis does not answer: nobody waits for it.
    is_away: bool,
}

struct Session {
    user: UserId,
    rooms: HashSet<RoomId>,
    idle: bool,
    /// There until it is known whether the user may have another session.
    candidate: Option<oneshot::Sender<bool>>,
}

#[derive(Default)]
struct User {
    /// Sessions that are no candidates.
    sessions: usize,
    idle: usize,
    candidates: Vec<SessionId>,
    most: usize,
    /// The rooms they show in, and by how many sessions.
    rooms: HashMap<RoomId, usize>,
    /// The rooms of which it was told that they show there.
    told: HashSet<RoomId>,
    status: Known,
    /// Rooms of which something is to be told.
    changed: HashSet<RoomId>,
    /// The place among the dirty.
    ticket: Option<u64>,
    waiters: Vec<oneshot::Sender<()>>,
}

/// What this process knows of a user's status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Known {
    #[default]
    Nothing,
    Status(Status),
    /// A report was not answered.
    Uncertain,
}

/// What Redis is told of a user.
#[derive(Debug)]
pub struct Report {
    pub user: UserId,
    pub sessions: usize,
    pub idle: usize,
    /// Sessions to add, in this order, as far as the user then has `most` at most.
    pub candidates: Vec<SessionId>,
    pub most: usize,
    pub status: Known,
    pub rooms: Vec<Change>,
    waiters: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub room: RoomId,
    /// Whether the user shows there.
    pub here: bool,
    /// Whether the room has heard that they do.
    pub told: bool,
}

/// What Redis says to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How many of the candidates may be.
    pub admitted: usize,
    pub status: Status,
}

impl Table {
    /// Begins a session. Without a verdict to wait for it may be.
    pub fn connect(
        &mut self,
        session: SessionId,
        user: &UserId,
        most: usize,
    ) -> Result<Option<Verdict>> {
        if self.sessions.contains_key(&session) {
            return Ok(None);
        }
        let known = self.users.entry(user.clone()).or_default();
        let open = known.sessions + known.candidates.len();
        if open >= most {
            return Err(refusal(user, open));
        }
        let mut verdict = None;
        let mut candidate = None;
        if self.is_away {
            known.sessions += 1;
        } else {
            let (sender, receiver) = oneshot::channel();
            (candidate, verdict) = (Some(sender), Some(receiver));
            known.candidates.push(session);
            known.most = most;
        }
        let new = Session {
            user: user.clone(),
            rooms: HashSet::new(),
            idle: false,
            candidate,
        };
        self.sessions.insert(session, new);
        self.soil(user);
        Ok(verdict)
    }

    /// Ends a session.
    pub fn disconnect(&mut self, session: SessionId) -> Option<Told> {
        let gone = self.sessions.remove(&session)?;
        let known = self.users.get_mut(&gone.user)?;
        if gone.candidate.is_some() {
            known.candidates.retain(|candidate| *candidate != session);
        } else {
            known.sessions -= 1;
            known.idle -= usize::from(gone.idle);
        }
        for room in gone.rooms {
            known.leave(room);
        }
        let is_gone = known.sessions == 0 && known.candidates.is_empty();
        if is_gone && self.is_away && self.users.len() > self.sessions.len() + GONE_MAX {
            self.forget(&gone.user);
            return None;
        }
        self.wait(&gone.user)
    }

    /// Shows a session in a room.
    pub fn enter(&mut self, session: SessionId, room: &RoomId) -> Result<Option<Told>> {
        let Some(known) = self.sessions.get_mut(&session) else {
            return Err(Error::NotFound(format!("session {session}")));
        };
        if !known.rooms.insert(room.clone()) {
            return Ok(None);
        }
        let user = known.user.clone();
        let Some(known) = self.users.get_mut(&user) else {
            return Ok(None);
        };
        let sessions = known.rooms.entry(room.clone()).or_default();
        *sessions += 1;
        if *sessions > 1 {
            return Ok(None);
        }
        known.changed.insert(room.clone());
        Ok(self.wait(&user))
    }

    /// Shows a session in a room no more.
    pub fn leave(&mut self, session: SessionId, room: &RoomId) -> Option<Told> {
        let known = self.sessions.get_mut(&session)?;
        if !known.rooms.remove(room) {
            return None;
        }
        let user = known.user.clone();
        let is_last = self.users.get_mut(&user)?.leave(room.clone());
        is_last.then(|| self.wait(&user)).flatten()
    }

    /// The person at a session went quiet, or came back.
    pub fn set_idle(&mut self, session: SessionId, idle: bool) -> Option<Told> {
        let known = self.sessions.get_mut(&session)?;
        if known.idle == idle {
            return None;
        }
        known.idle = idle;
        let (user, is_candidate) = (known.user.clone(), known.candidate.is_some());
        let known = self.users.get_mut(&user)?;
        match (is_candidate, idle) {
            // Counted when it may be.
            (true, _) => return None,
            (false, true) => known.idle += 1,
            (false, false) => known.idle -= 1,
        }
        self.wait(&user)
    }

    /// Takes reports about the users who have waited longest, `most` users and rooms together or a little more.
    pub fn take(&mut self, most: usize) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut size = 0;
        while size < most
            && let Some((_, user)) = self.dirty.pop_first()
        {
            let Some(known) = self.users.get_mut(&user) else {
                continue;
            };
            let report = known.report(user);
            size += 1 + report.rooms.len();
            if !known.changed.is_empty() {
                self.soil(&report.user);
            }
            reports.push(report);
        }
        reports
    }

    /// Whether there is something to tell.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// A report was answered.
    pub fn answered(&mut self, report: Report, answer: Answer) {
        let Some(known) = self.users.get_mut(&report.user) else {
            return;
        };
        known.status = match answer.status {
            Status::Offline => Known::Nothing,
            status => Known::Status(status),
        };
        for change in report.rooms {
            if change.here {
                known.told.insert(change.room);
            } else {
                known.told.remove(&change.room);
            }
        }
        let mut is_dirty = false;
        for (at, id) in report.candidates.into_iter().enumerate() {
            let may_be = at < answer.admitted;
            // One that has gone meanwhile was counted: Redis must hear of it.
            let Some(session) = self.sessions.get_mut(&id) else {
                is_dirty |= may_be;
                continue;
            };
            let Some(candidate) = session.candidate.take() else {
                continue;
            };
            // Whoever did not wait for the verdict has the session.
            let stays = candidate.send(may_be).is_err() || may_be;
            if stays {
                known.sessions += 1;
                known.idle += usize::from(session.idle);
                is_dirty |= session.idle || !may_be;
            } else {
                self.sessions.remove(&id);
            }
        }
        for waiter in report.waiters {
            // Nobody waits any more: fine.
            let _ = waiter.send(());
        }
        if is_dirty {
            self.soil(&report.user);
        } else {
            self.tidy(&report.user);
        }
    }

    /// Reports were not answered, or nothing was done about them.
    pub fn put_back(&mut self, reports: Vec<Report>, is_uncertain: bool) {
        for report in reports {
            let Some(known) = self.users.get_mut(&report.user) else {
                continue;
            };
            if is_uncertain {
                known.status = Known::Uncertain;
            }
            let rooms = report.rooms.into_iter().map(|change| change.room);
            known.changed.extend(rooms);
            let mut candidates = report.candidates;
            candidates.retain(|id| self.sessions.contains_key(id));
            candidates.append(&mut known.candidates);
            known.candidates = candidates;
            known.waiters.extend(report.waiters);
            self.soil(&report.user);
        }
    }

    /// Redis does not answer: everybody may go on, and nobody waits until [`Table::back`].
    pub fn away(&mut self) {
        self.is_away = true;
        for user in self.dirty.values() {
            let Some(known) = self.users.get_mut(user) else {
                continue;
            };
            for id in std::mem::take(&mut known.candidates) {
                if let Some(session) = self.sessions.get_mut(&id)
                    && let Some(candidate) = session.candidate.take()
                {
                    known.sessions += 1;
                    known.idle += usize::from(session.idle);
                    // Nobody waits any more: fine.
                    let _ = candidate.send(true);
                }
            }
            for waiter in std::mem::take(&mut known.waiters) {
                let _ = waiter.send(());
            }
        }
    }

    /// Redis answers again.
    pub fn back(&mut self) {
        self.is_away = false;
    }

    /// A lease has begun under which nothing is told. When Redis has lost what was told before, nobody is to hear it
    /// twice, but of those who went meanwhile it must be said.
    pub fn begin_again(&mut self, was_lost: bool) {
        let users: Vec<_> = self.users.keys().cloned().collect();
        for user in users {
            let Some(known) = self.users.get_mut(&user) else {
                continue;
            };
            if !was_lost {
                known.told.clear();
                known.status = Known::Nothing;
            }
            known.touch();
            if known.sessions + known.candidates.len() + known.changed.len() == 0 {
                self.forget(&user);
            } else {
                self.soil(&user);
            }
        }
    }

    /// Tells again what was told of one part of the users: what is in Redis does not live for ever.
    pub fn touch(&mut self, part: u64, parts: u64) {
        let is_in_part = |user: &&UserId| {
            let mut hasher = DefaultHasher::new();
            user.hash(&mut hasher);
            hasher.finish() % parts == part % parts
        };
        let users: Vec<_> = self.users.keys().filter(is_in_part).cloned().collect();
        for user in users {
            if let Some(known) = self.users.get_mut(&user) {
                known.touch();
            }
            self.soil(&user);
        }
    }

    /// Sessions of this process.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Something of the user is to be told.
    fn soil(&mut self, user: &UserId) {
        if let Some(known) = self.users.get_mut(user)
            && known.ticket.is_none()
        {
            self.tickets += 1;
            known.ticket = Some(self.tickets);
            self.dirty.insert(self.tickets, user.clone());
        }
    }

    /// As [`Table::soil`], for a caller who waits.
    fn wait(&mut self, user: &UserId) -> Option<Told> {
        self.soil(user);
        let known = self.users.get_mut(user).filter(|_| !self.is_away)?;
        let (sender, receiver) = oneshot::channel();
        known.waiters.push(sender);
        Some(receiver)
    }

    /// Forgets a user of whom there is nothing left to say.
    fn tidy(&mut self, user: &UserId) {
        if let Some(known) = self.users.get(user)
            && known.sessions + known.candidates.len() + known.changed.len() == 0
            && known.ticket.is_none()
        {
            self.users.remove(user);
        }
    }

    fn forget(&mut self, user: &UserId) {
        if let Some(ticket) = self.users.remove(user).and_then(|known| known.ticket) {
            self.dirty.remove(&ticket);
        }
    }
}

impl User {
    /// One session less in the room; whether it was the last.
    fn leave(&mut self, room: RoomId) -> bool {
        let Some(sessions) = self.rooms.get_mut(&room) else {
            return false;
        };
        *sessions -= 1;
        if *sessions > 0 {
            return false;
        }
        self.rooms.remove(&room);
        self.changed.insert(room);
        true
    }

    /// Everything is to be told.
    fn touch(&mut self) {
        let rooms = self.rooms.keys().chain(&self.told).cloned();
        self.changed.extend(rooms);
    }

    fn report(&mut self, user: UserId) -> Report {
        let rooms: Vec<_> = if self.changed.len() > ROOMS_MAX {
            let some: Vec<_> = self.changed.iter().take(ROOMS_MAX).cloned().collect();
            for room in &some {
                self.changed.remove(room);
            }
            some
        } else {
            self.changed.drain().collect()
        };
        self.ticket = None;
        let is_all = self.changed.is_empty();
        Report {
            user,
            sessions: self.sessions,
            idle: self.idle,
            candidates: std::mem::take(&mut self.candidates),
            most: self.most,
            status: self.status,
            rooms: rooms
                .into_iter()
                .map(|room| Change {
                    here: self.rooms.contains_key(&room),
                    told: self.told.contains(&room),
                    room,
                })
                .collect(),
            // They wait for the last part.
            waiters: if is_all {
                std::mem::take(&mut self.waiters)
            } else {
                Vec::new()
            },
        }
    }
}

pub fn refusal(user: &UserId, open: usize) -> Error {
    Error::Refused(format!("user {user} has {open} sessions already"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(text: &str) -> RoomId {
        RoomId::parse(text).unwrap()
    }

    fn alice() -> UserId {
        UserId::parse("alice").unwrap()
    }

    fn connect(table: &mut Table, most: usize) -> (SessionId, Verdict) {
        let session = SessionId::generate();
        let verdict = table.connect(session, &alice(), most).unwrap();
        (session, verdict.expect("a verdict to wait for"))
    }

    /// Takes the only report and answers it; what it said.
    fn tell(table: &mut Table, admitted: usize) -> (usize, usize, Known, Vec<Change>) {
        let mut reports = table.take(100);
        assert_eq!(reports.len(), 1, "{reports:?}");
        let report = reports.remove(0);
        let said = (
            report.sessions,
            report.idle,
            report.status,
            report.rooms.clone(),
        );
        let sessions = report.sessions + admitted;
        let status = match sessions {
            0 => Status::Offline,
            _ if report.idle == sessions => Status::Away,
            _ => Status::Online,
        };
        table.answered(report, Answer { admitted, status });
        said
    }

    fn change(name: &str, here: bool, told: bool) -> Change {
        let room = room(name);
        Change { room, here, told }
    }

    #[test]
    fn those_who_came_first_are_admitted() {
        let mut table = Table::default();
        let mut verdicts: Vec<_> = (0..3).map(|_| connect(&mut table, 3)).collect();
        table
            .connect(SessionId::generate(), &alice(), 3)
            .expect_err("even of this process alone there are too many");
        assert_eq!(tell(&mut table, 2), (0, 0, Known::Nothing, vec![]));
        let said = verdicts.iter_mut().map(|(_, verdict)| verdict.try_recv());
        assert_eq!(said.collect::<Vec<_>>(), [Ok(true), Ok(true), Ok(false)]);
        assert_eq!(table.len(), 2);
        assert!(!table.is_dirty());
        let last = verdicts.pop().unwrap().0;
        table
            .enter(last, &room("a"))
            .expect_err("a refused session is none");
    }

    #[test]
    fn a_session_that_ended_before_it_was_admitted_is_taken_back() {
        let mut table = Table::default();
        let (session, _verdict) = connect(&mut table, 3);
        let report = table.take(100).remove(0);
        let _told = table.disconnect(session);
        let answer = Answer {
            admitted: 1,
            status: Status::Online,
        };
        table.answered(report, answer);
        assert_eq!(tell(&mut table, 0).0, 0);
        assert!(table.users.is_empty() && !table.is_dirty());
    }

    #[test]
    fn rooms_are_told_when_the_first_comes_and_the_last_goes() {
        let mut table = Table::default();
        let (first, _verdict) = connect(&mut table, 3);
        let (second, _verdict) = connect(&mut table, 3);
        tell(&mut table, 2);
        assert!(table.enter(first, &room("a")).unwrap().is_some());
        assert!(table.enter(second, &room("a")).unwrap().is_none());
        assert!(table.enter(second, &room("a")).unwrap().is_none());
        assert_eq!(tell(&mut table, 0).3, [change("a", true, false)]);
        assert!(table.leave(first, &room("a")).is_none());
        assert!(!table.is_dirty());
        assert!(table.disconnect(second).is_some());
        let online = Known::Status(Status::Online);
        let left = vec![change("a", false, true)];
        assert_eq!(tell(&mut table, 0), (1, 0, online, left));
        assert!(table.set_idle(first, true).is_some());
        assert_eq!(tell(&mut table, 0), (1, 1, online, vec![]));
        assert!(table.disconnect(first).is_some());
        tell(&mut table, 0);
        assert!(table.users.is_empty());
    }

    #[test]
    fn nobody_waits_while_redis_is_away_and_all_is_told_later() {
        let mut table = Table::default();
        let (session, mut verdict) = connect(&mut table, 3);
        let reports = table.take(100);
        table.put_back(reports, true);
        table.away();
        assert_eq!(verdict.try_recv(), Ok(true));
        let more = SessionId::generate();
        assert!(table.connect(more, &alice(), 3).unwrap().is_none());
        assert!(table.enter(more, &room("a")).unwrap().is_none());
        assert!(table.disconnect(session).is_none());
        table.back();
        let here = vec![change("a", true, false)];
        assert_eq!(tell(&mut table, 0), (1, 0, Known::Uncertain, here));
    }

    #[test]
    fn what_redis_lost_is_told_again_with_what_became_of_it() {
        let mut table = Table::default();
        let (session, _verdict) = connect(&mut table, 3);
        tell(&mut table, 1);
        for name in ["a", "b"] {
            let _told = table.enter(session, &room(name)).unwrap();
        }
        tell(&mut table, 0);
        table.away();
        table.leave(session, &room("b"));
        table.begin_again(true);
        let (sessions, _, status, mut rooms) = tell(&mut table, 0);
        assert_eq!((sessions, status), (1, Known::Status(Status::Online)));
        rooms.sort_by(|a, b| a.room.cmp(&b.room));
        assert_eq!(rooms, [change("a", true, true), change("b", false, true)]);
        // When it is known that the end of the old lease was announced, all is news.
        table.begin_again(false);
        let (_, _, status, rooms) = tell(&mut table, 0);
        assert_eq!(status, Known::Nothing);
        assert_eq!(rooms, [change("a", true, false)]);
        table.touch(3, 1);
        assert_eq!(tell(&mut table, 0).3, [change("a", true, true)]);
        assert!(!table.is_dirty());
    }

    #[test]
    fn who_went_while_redis_was_away_is_remembered_up_to_a_limit() {
        let mut table = Table::default();
        table.away();
        for n in 0..GONE_MAX + 10 {
            let user = UserId::parse(&format!("user-{n}")).unwrap();
            let session = SessionId::generate();
            table.connect(session, &user, 3).unwrap();
            table.disconnect(session);
        }
        assert_eq!(table.users.len(), GONE_MAX);
        assert_eq!(table.dirty.len(), GONE_MAX);
    }

    #[test]
    fn many_rooms_take_several_reports() {
        let mut table = Table::default();
        let (session, _verdict) = connect(&mut table, 3);
        tell(&mut table, 1);
        let mut told: Vec<_> = (0..ROOMS_MAX + 1)
            .filter_map(|n| table.enter(session, &room(&format!("r-{n}"))).unwrap())
            .collect();
        let mut reports = table.take(1);
        assert_eq!(reports[0].rooms.len(), ROOMS_MAX);
        let answer = Answer {
            admitted: 0,
            status: Status::Online,
        };
        table.answered(reports.remove(0), answer);
        assert!(told[0].try_recv().is_err(), "it waits for all");
        assert_eq!(tell(&mut table, 0).3.len(), 1);
        assert_eq!(told[0].try_recv(), Ok(()));
    }
}
