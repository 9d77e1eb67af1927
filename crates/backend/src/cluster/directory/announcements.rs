//! Announcements that wait to be taken to the log.
//!
//! Every process takes its own there at once, and those of others when they are old enough to be a crash's. So that a
//! room's log tells changes in their order, it takes what came before its own in the same rooms too. Two processes may
//! take the same one: its id is fixed, so that the log keeps it once.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::bson;
use mongodb::options::FindOptions;
use protocol::Timestamp;

use super::Inner;
use super::documents::{ANNOUNCEMENTS, AnnouncementDocument, binary};
use super::sessions::in_time;
use crate::Result;
use crate::log::Append;

/// After this time whoever made it has left it behind.
const LEFT_BEHIND: Duration = Duration::from_secs(2);
/// For so long after its start a process takes all it finds: what a crash left behind a moment ago may be its own.
const START: Duration = Duration::from_secs(10);
/// Announcements in one command.
const TOGETHER_MAX: usize = 1000;
/// Rooms in one query: so many that MongoDB still merges their parts of the index instead of sorting.
const ROOMS_MAX: usize = 100;

impl Inner {
    /// What waits, oldest first.
    pub async fn unannounced(&self, limit: usize) -> Result<Vec<Append>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let young = if self.begun.elapsed() < START {
            Duration::ZERO
        } else {
            LEFT_BEHIND
        };
        self.unannounced_but(young, limit).await
    }

    /// What waits, but those of others that are younger, oldest first.
    async fn unannounced_but(&self, young: Duration, limit: usize) -> Result<Vec<Append>> {
        let before = Timestamp::now().as_millis() - i64::try_from(young.as_millis()).unwrap_or(0);
        let (mut waiting, mine) = tokio::try_join!(
            self.waiting(doc! { "at": { "$lte": before } }, limit),
            self.waiting(doc! { "maker": &*self.transactions.maker }, limit),
        )?;
        let rooms: BTreeSet<&str> = mine.iter().map(|mine| mine.room.as_str()).collect();
        let rooms: Vec<&str> = rooms.into_iter().collect();
        let last = mine.last().map_or(0, |mine| mine.at);
        for rooms in rooms.chunks(ROOMS_MAX) {
            let filter = doc! { "room": { "$in": rooms }, "at": { "$lte": last } };
            waiting.extend(self.waiting(filter, limit).await?);
        }
        waiting.sort_by(|a, b| (a.at, a.n, &a.room).cmp(&(b.at, b.n, &b.room)));
        waiting.dedup_by(|a, b| a.id == b.id);
        waiting.truncate(limit);
        waiting
            .into_iter()
            .map(AnnouncementDocument::append)
            .collect()
    }

    /// These are in the log.
    pub async fn announced(&self, done: &[Append]) -> Result<()> {
        for done in done.chunks(TOGETHER_MAX) {
            let ids: Vec<_> = done.iter().map(|append| binary(append.id)).collect();
            in_time(async {
                let _permit = self.sessions.permit().await?;
                let mut session = self.sessions.open().await?;
                let announcements = self.sessions.mongo.collection::<Document>(ANNOUNCEMENTS);
                let deleted = announcements
                    .delete_many(doc! { "_id": { "$in": ids } })
                    .session(&mut session);
                self.sessions.mongo.run(deleted).await?;
                self.sessions.changed(&session);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    async fn waiting(&self, filter: Document, limit: usize) -> Result<Vec<AnnouncementDocument>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let options = FindOptions::builder()
            .sort(doc! { "at": 1, "n": 1 })
            .limit(limit)
            .build();
        self.sessions.all(ANNOUNCEMENTS, filter, options).await
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Role, RoomId, UserId};

    use super::*;
    use crate::Directory;
    use crate::cluster::settings::Endpoint;
    use crate::cluster::{Mongo, MongoDirectory, Redis, Settings, migrations};
    use crate::directory::{NewRoom, RoomKind};

    fn id(text: &str) -> RoomId {
        RoomId::parse(text).unwrap()
    }

    fn user(text: &str) -> UserId {
        UserId::parse(text).unwrap()
    }

    /// Two processes.
    async fn open() -> Option<[MongoDirectory; 2]> {
        if let Some(what) = testbed::missing() {
            testbed::skipped(&what);
            return None;
        }
        let servers = testbed::shared().await;
        let endpoint = |url: &str| Endpoint {
            url: url.to_owned(),
            verify: true,
            ca_file: None,
        };
        let settings = Settings {
            redis: endpoint(&servers.redis_url),
            rabbitmq: endpoint(&servers.rabbitmq_url),
            mongodb: endpoint(&servers.mongodb_uri),
            namespace: testbed::namespace(),
            shards: 1,
            backlog_max: 1,
        };
        let mongo = Mongo::new(&settings).await.unwrap();
        migrations::migrate(&mongo).await.unwrap();
        Some([(); 2].map(|()| MongoDirectory::new(mongo.clone(), Redis::new(&settings).unwrap())))
    }

    async fn create(directory: &MongoDirectory, room: &str) {
        let new = NewRoom {
            id: id(room),
            kind: RoomKind::Public,
            name: String::new(),
            topic: String::new(),
            by: user("alice"),
            at: Timestamp::now(),
        };
        directory.create_room(new, None).await.unwrap();
    }

    async fn join(directory: &MongoDirectory, room: &str, name: &str) {
        let (room, name) = (id(room), user(name));
        let joined = directory.put_member(&room, &name, Role::Member, &name);
        joined.await.unwrap();
    }

    /// Rooms with the number of their announcements, in the order in which they are to be made.
    fn rooms(waiting: &[Append]) -> Vec<&str> {
        waiting.iter().map(|append| append.room.as_str()).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn young_ones_of_others_are_left_to_them_unless_mine_follow() {
        let Some([one, two]) = open().await else {
            return;
        };
        let young = Duration::from_secs(3600);
        let waiting = async |directory: &MongoDirectory, limit| {
            let waiting = directory.inner.unannounced_but(young, limit).await;
            waiting.unwrap()
        };
        create(&one, "mine").await;
        create(&two, "yours").await;
        assert_eq!(rooms(&waiting(&one, 10).await), ["mine"; 2]);
        assert_eq!(rooms(&waiting(&two, 10).await), ["yours"; 2]);
        // A change of mine in your room comes after what you have done there.
        join(&one, "yours", "bob").await;
        let all = waiting(&one, 10).await;
        assert_eq!(rooms(&all), ["mine", "mine", "yours", "yours", "yours"]);
        assert_eq!(all[4].from, user("bob"));
        assert_eq!(waiting(&one, 3).await, all[..3]);
        assert_eq!(rooms(&waiting(&two, 10).await), ["yours"; 2]);
        // What is old enough is anybody's, and so is everything right after a start.
        let old = two.inner.unannounced_but(Duration::ZERO, 10).await;
        assert_eq!(old.unwrap(), all);
        assert_eq!(two.unannounced(10).await.unwrap(), all);
        two.announced(&all[..4]).await.unwrap();
        assert_eq!(waiting(&one, 10).await, all[4..]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_rooms_order_is_that_of_its_changes_whatever_the_limit() {
        let Some([one, two]) = open().await else {
            return;
        };
        let names = ["a", "b", "c"];
        for room in names {
            create(&one, room).await;
        }
        for number in 0..30 {
            let by = if number % 2 == 0 { &one } else { &two };
            join(by, names[number % 3], &format!("user-{number}")).await;
        }
        let young = Duration::from_secs(3600);
        for (directory, limit) in [(&one, 7), (&two, 11), (&one, 100)] {
            let all = one
                .inner
                .unannounced_but(Duration::ZERO, 100)
                .await
                .unwrap();
            let some = directory.inner.unannounced_but(young, limit).await.unwrap();
            assert!(some.len() <= limit && !some.is_empty());
            for room in names {
                let of_room = |waiting: &[Append]| -> Vec<_> {
                    let here = waiting.iter().filter(|append| append.room == id(room));
                    here.map(|append| append.id).collect()
                };
                let (some, all) = (of_room(&some), of_room(&all));
                assert_eq!(some, all[..some.len()], "no hole in {room}");
            }
            directory.announced(&some).await.unwrap();
        }
    }
}
