//! What Redis does with leases, changes and values that nobody looks after any more.

use backend::cluster::Redis;

use super::stage::Stage;

/// State, whether there is a lease, value, received, read.
type Raw = (String, u8, Option<String>, i64, i64);

struct Key {
    redis: Redis,
    key: String,
}

impl Key {
    async fn call(&self, function: &str, arguments: &[&str]) -> u64 {
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
        let function = format!("darda_directory_{function}");
        let keys = [self.key.clone()];
        self.redis.call(&function, &keys, &arguments).await.unwrap()
    }

    async fn get(&self, lease: &str) -> Raw {
        self.get_in("here", lease).await
    }

    async fn get_in(&self, primary: &str, lease: &str) -> Raw {
        let arguments = [primary.as_bytes(), lease.as_bytes()];
        let keys = [self.key.clone()];
        let answers: Vec<Raw> = self
            .redis
            .call("darda_directory_get", &keys, &arguments)
            .await
            .unwrap();
        answers.into_iter().next().unwrap()
    }

    async fn fill(&self, lease: &str, value: &str, fresh_ms: &str) -> bool {
        let arguments = [lease, "here", fresh_ms, "60000", value, "3", "2"];
        self.call("fill", &arguments).await == 1
    }

    /// Answers when it began.
    async fn begin(&self, change: &str, give_up_ms: &str) -> u64 {
        self.call("begin", &[change, "1", give_up_ms]).await
    }

    /// Settles a change that has begun just now.
    async fn settle(&self, change: &str, number: &str, value: &str) {
        let command = redis::cmd("TIME");
        let (secs, _): (u64, u64) = self.redis.query(&command).await.unwrap();
        self.settle_begun(change, number, value, secs * 1000).await;
    }

    async fn settle_begun(&self, change: &str, number: &str, value: &str, at: u64) {
        let at = at.to_string();
        let arguments = [
            change, number, "here", "5000", "60000", &at, value, "0", "0", "0",
        ];
        self.call("settle", &arguments).await;
    }
}

async fn key() -> Option<Key> {
    let stage = Stage::new().await?;
    let redis = stage.redis();
    Some(Key {
        key: redis.key("dir:{general}:member:bob"),
        redis,
    })
}

fn is(raw: &Raw, state: &str, leased: u8, value: Option<&str>) -> bool {
    (raw.0.as_str(), raw.1, raw.2.as_deref()) == (state, leased, value)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whoever_has_the_lease_fills_a_gap() {
    let Some(key) = key().await else {
        return;
    };
    assert!(is(&key.get("a").await, "none", 1, None));
    assert!(is(&key.get("b").await, "none", 0, None));
    assert!(!key.fill("b", "{}", "5000").await);
    assert!(key.fill("a", "{}", "5000").await);
    assert!(!key.fill("a", "[]", "5000").await);
    let raw = key.get("c").await;
    assert!(is(&raw, "fresh", 0, Some("{}")));
    assert_eq!((raw.3, raw.4), (3, 2));
    // Another Redis has nothing to say.
    assert!(is(&key.get_in("other", "c").await, "none", 1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_breaks_leases_and_silences_redis_until_it_is_settled() {
    let Some(key) = key().await else {
        return;
    };
    key.get("a").await;
    key.begin("change", "60000").await;
    assert!(!key.fill("a", "{}", "5000").await);
    assert!(is(&key.get("b").await, "busy", 0, None));
    key.begin("another", "60000").await;
    key.settle("change", "7", "{}").await;
    assert!(is(&key.get("b").await, "busy", 0, None));
    key.call("abandon", &["another"]).await;
    assert!(is(&key.get("b").await, "fresh", 0, Some("{}")));
    // What comes late does not cover what came after it.
    key.settle("late", "6", "[]").await;
    assert!(is(&key.get("b").await, "fresh", 0, Some("{}")));
    key.settle("next", "8", "-").await;
    assert!(is(&key.get("b").await, "fresh", 0, Some("-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_given_up_leaves_nothing_to_believe() {
    let Some(key) = key().await else {
        return;
    };
    key.settle("first", "1", "{}").await;
    key.begin("crash", "0").await;
    assert!(is(&key.get("a").await, "none", 1, None));
    assert!(key.fill("a", "[]", "5000").await);
    assert!(is(&key.get("b").await, "fresh", 0, Some("[]")));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_settles_too_late_leaves_nothing_to_believe() {
    let Some(key) = key().await else {
        return;
    };
    // Ten seconds later a change that came after this one may be forgotten.
    let begun = key.begin("late", "60000").await;
    key.settle_begun("late", "7", "{}", begun - 10_000).await;
    assert!(is(&key.get("a").await, "none", 1, None));
    // Where it is not, it holds.
    key.settle("next", "9", "-").await;
    key.settle_begun("another", "8", "{}", 0).await;
    assert!(is(&key.get("b").await, "fresh", 0, Some("-")));
    // What was true before is not believed either.
    key.settle_begun("other", "10", "{}", 0).await;
    assert!(is(&key.get("c").await, "none", 1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_gets_old_and_is_read_again_by_one() {
    let Some(key) = key().await else {
        return;
    };
    key.get("a").await;
    key.fill("a", "{}", "0").await;
    assert!(is(&key.get("b").await, "old", 1, Some("{}")));
    assert!(is(&key.get("c").await, "old", 0, Some("{}")));
    assert!(key.fill("b", "[]", "5000").await);
    assert!(is(&key.get("d").await, "fresh", 0, Some("[]")));
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_only_go_up_in_redis_too() {
    let Some(key) = key().await else {
        return;
    };
    // What moves while somebody reads is not lost.
    key.get("a").await;
    key.call("advance", &["10", "1"]).await;
    key.fill("a", "{}", "5000").await;
    let raw = key.get("b").await;
    assert_eq!((raw.3, raw.4), (10, 2));
    let largest = "9007199254740991";
    key.call("advance", &["9", largest]).await;
    let raw = key.get("b").await;
    assert_eq!((raw.3, raw.4), (10, 9_007_199_254_740_991));
    // A role leaves them, a new membership does not.
    key.settle("role", "5", "[]").await;
    let raw = key.get("b").await;
    assert_eq!((raw.3, raw.4), (10, 9_007_199_254_740_991));
    let now = key.begin("join", "60000").await.to_string();
    let anew = [
        "join", "6", "here", "5000", "60000", &now, "{}", "0", "0", "1",
    ];
    key.call("settle", &anew).await;
    let raw = key.get("b").await;
    assert_eq!((raw.3, raw.4), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_expires() {
    let Some(key) = key().await else {
        return;
    };
    let lives = async || {
        let mut command = redis::cmd("PTTL");
        key.redis.query::<i64>(command.arg(&key.key)).await.unwrap()
    };
    key.get("a").await;
    assert!((1..=10_000).contains(&lives().await));
    key.fill("a", "-", "5000").await;
    assert!((1..=10_000).contains(&lives().await));
    key.settle("change", "1", "{}").await;
    assert!((10_000..=60_000).contains(&lives().await));
    key.begin("another", "90000").await;
    assert!((90_000..=180_000).contains(&lives().await));
    key.call("advance", &["1", "1"]).await;
    assert!(lives().await > 0);
}
