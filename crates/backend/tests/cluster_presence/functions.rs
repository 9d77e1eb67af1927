//! The functions in Redis, where several processes would have to meet by chance.

use backend::cluster::{Redis, Settings};

use crate::stage::{eventually, shared};

/// The functions in Redis, called as processes call them.
struct Functions {
    redis: Redis,
    prefix: [String; 1],
}

type Announced = Vec<(String, String, String)>;

/// Whether the lease is held, the version, what is said of each user, and what is announced.
type Answer = (u8, u64, Vec<(usize, String)>, Vec<Vec<String>>);

impl Functions {
    fn new(settings: &Settings) -> Self {
        let redis = Redis::new(settings).unwrap();
        let prefix = [redis.key("presence:")];
        Self { redis, prefix }
    }

    async fn call<T: redis::FromRedisValue>(&self, function: &str, arguments: &str) -> T {
        let arguments: Vec<_> = arguments.split(' ').map(str::as_bytes).collect();
        let name = format!("darda_presence_{function}");
        let answer = self.redis.call(&name, &self.prefix, &arguments).await;
        answer.unwrap()
    }

    /// Opens a lease of so many ms; whether Redis knows of the one before.
    async fn open(&self, lease: &str, length_ms: u32, before: &str) -> bool {
        let known: u8 = self
            .call("open", &format!("{lease} {length_ms} {before}"))
            .await;
        known == 1
    }

    /// Reports one user; how many candidates were admitted, and what is announced.
    async fn report(&self, lease: &str, report: &str) -> (usize, Announced) {
        let (held, _, answers, told): Answer =
            self.call("report", &format!("{lease} {report}")).await;
        assert_eq!(held, 1);
        let told = told
            .into_iter()
            .map(|told| (told[0].clone(), told[1].clone(), told[2].clone()));
        (answers[0].0, told.collect())
    }

    async fn lose_everything(&self) {
        let mut lose = redis::cmd("EVAL");
        lose.arg("for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end")
            .arg(0)
            .arg(format!("{}*", self.prefix[0]));
        self.redis.query::<()>(&lose).await.unwrap();
    }
}

fn told(room: &str, user: &str, status: &str) -> (String, String, String) {
    (room.to_owned(), user.to_owned(), status.to_owned())
}

#[tokio::test]
async fn who_left_one_process_after_a_loss_still_shows_by_another() {
    let Some(settings) = shared().await else {
        return;
    };
    let redis = Functions::new(&settings);
    for lease in ["a", "b"] {
        redis.open(lease, 9000, "").await;
        redis.report(lease, "alice 1 0 0 3  1 general 1 0").await;
    }
    redis.lose_everything().await;
    assert!(!redis.open("b2", 9000, "b").await);
    // The first process back says that she left; it cannot know that another one still has her.
    let left = redis
        .report("b2", "alice 0 0 0 3 online 1 general 0 1")
        .await;
    assert_eq!(left.1, [told("general", "alice", "offline")]);
    assert!(!redis.open("a2", 9000, "a").await);
    let back = redis
        .report("a2", "alice 1 0 0 3 online 1 general 1 1")
        .await;
    assert_eq!(back.1, [told("general", "alice", "online")]);
    let again = redis
        .report("a2", "alice 1 0 0 3 online 1 general 1 1")
        .await;
    assert_eq!(again.1, []);
}

#[tokio::test]
async fn what_may_not_have_been_announced_is_announced_again() {
    let Some(settings) = shared().await else {
        return;
    };
    let redis = Functions::new(&settings);
    redis.open("a", 9000, "").await;
    let enter = "alice 1 0 0 3  1 general 1 0";
    let online = [told("general", "alice", "online")];
    assert_eq!(redis.report("a", enter).await.1, online);
    // The answer was lost: the same again.
    assert_eq!(redis.report("a", enter).await.1, online);
    let idle = redis.report("a", "alice 1 1 0 3 online 0").await;
    assert_eq!(idle.1, [told("general", "alice", "away")]);
    let uncertain = redis.report("a", "alice 1 1 0 3 ? 0").await;
    assert_eq!(uncertain.1, [told("general", "alice", "away")]);
    let certain = redis.report("a", "alice 1 1 0 3 away 0").await;
    assert_eq!(certain.1, []);
}

#[tokio::test]
async fn a_lease_that_has_ended_counts_for_nothing_and_is_swept_once() {
    let Some(settings) = shared().await else {
        return;
    };
    let redis = Functions::new(&settings);
    redis.open("a", 300, "").await;
    redis.open("b", 9000, "").await;
    let (admitted, _) = redis.report("a", "alice 0 0 2 3  1 general 1 0").await;
    assert_eq!(admitted, 2);
    let (admitted, _) = redis.report("b", "alice 0 0 2 3  1 general 1 0").await;
    assert_eq!(admitted, 1);
    let mut ended = Vec::new();
    eventually("the end", async || {
        let (held, found): (u8, Vec<String>) = redis.call("renew", "b 9000").await;
        assert_eq!(held, 1);
        ended = found;
        !ended.is_empty()
    })
    .await;
    assert_eq!(ended, ["a"]);
    let (held, _): (u8, Vec<String>) = redis.call("renew", "a 9000").await;
    assert_eq!(held, 0);
    let (held, ..): Answer = redis.call("report", "a alice 3 0 0 3  0").await;
    assert_eq!(held, 0);
    // The dead process's two are in nobody's way.
    let (admitted, _) = redis.report("b", "alice 1 0 2 3 online 0").await;
    assert_eq!(admitted, 2);
    redis
        .report("b", "alice 0 0 0 3 online 1 general 0 1")
        .await;
    let states: Vec<(String, i64)> = redis.call("status", "alice").await;
    assert_eq!(states[0].0, "offline");

    let (more, _, announced): (u8, u64, Vec<Vec<String>>) = redis.call("sweep", "a").await;
    assert_eq!((more, announced.len()), (0, 1));
    assert_eq!(announced[0][..3], ["general", "alice", "offline"]);
    let (more, _, announced): (u8, u64, Vec<Vec<String>>) = redis.call("sweep", "a").await;
    assert_eq!((more, announced.len()), (0, 0));
    // Whoever had that lease knows that all was announced.
    assert!(redis.open("a2", 9000, "a").await);
}
