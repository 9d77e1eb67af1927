//! What goes on while MongoDB or Redis is away, and what does not.

use std::time::{Duration, Instant};

use backend::Directory;
use backend::directory::{Cursor, RoomKind};
use protocol::{Role, Seq};
use testbed::{Data, Proxy, RedisOptions};

use super::stage::*;

/// Servers of its own, to be broken.
struct Servers {
    redis: testbed::Redis,
    mongo: testbed::Mongo,
    stage: Stage,
}

impl Servers {
    async fn start() -> Option<Self> {
        if let Some(what) = testbed::missing() {
            testbed::skipped(&what);
            return None;
        }
        let options = RedisOptions {
            append_only: false,
            ..RedisOptions::default()
        };
        let (redis, mongo) =
            tokio::try_join!(testbed::Redis::start(options), testbed::Mongo::start(1)).unwrap();
        let stage = Stage::on(&redis.url(), &mongo.url()).await;
        Some(Self {
            redis,
            mongo,
            stage,
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_known_while_mongodb_is_away() {
    let Some(servers) = Servers::start().await else {
        return;
    };
    let (one, two) = (
        servers.stage.directory().await,
        servers.stage.directory().await,
    );
    general(&one).await;
    for name in ["bob", "carol", "dora"] {
        join(&one, name).await.unwrap();
    }
    assert!(member(&one, "bob").await.unwrap().is_some());
    assert!(member(&two, "carol").await.unwrap().is_some());
    leave(&two, "carol").await.unwrap();

    servers.mongo.kill();
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    // Longer than Redis calls a value good.
    while begun.elapsed() < Duration::from_secs(12) {
        for directory in [&one, &two] {
            let asked = Instant::now();
            let known = in_time(member(directory, "bob")).await;
            slowest = slowest.max(asked.elapsed());
            assert_eq!(known.unwrap().unwrap().role, Role::Member);
            // Nobody believes what was before a change. That somebody is no member is not known for long.
            let carol = in_time(member(directory, "carol")).await;
            assert!(!matches!(carol, Ok(Some(_))), "{carol:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("the slowest answer took {slowest:?}");
    // Somebody who comes back on another pod is known there too.
    let three = servers.stage.directory().await;
    eventually("somebody known", async || {
        let dora = in_time(member(&three, "dora")).await;
        dora.is_ok_and(|dora| dora.is_some())
    })
    .await;
    unavailable(member(&three, "nobody")).await;
    unavailable(join(&one, "emil")).await;
    unavailable(leave(&one, "bob")).await;
    unavailable(three.members(&room("general"), None, 10)).await;
    let new = new("other", RoomKind::Public, "alice");
    unavailable(three.create_room(new, None)).await;
    // Nothing of that was kept against anybody.
    assert!(in_time(member(&three, "bob")).await.unwrap().is_some());

    servers.mongo.restart(Data::Kept).await.unwrap();
    eventually("a change", async || join(&one, "emil").await.is_ok()).await;
    assert!(member(&one, "emil").await.unwrap().is_some());
    eventually("the way back", async || leave(&two, "bob").await.is_ok()).await;
    assert_eq!(member(&two, "bob").await.unwrap(), None);
    one.forget_cached(&room("general"), Some(&user("bob")));
    assert_eq!(member(&one, "bob").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_mongodb_holds_nobody_up() {
    let Some(servers) = Servers::start().await else {
        return;
    };
    let directory = servers.stage.directory().await;
    general(&directory).await;
    member(&directory, "alice").await.unwrap();
    servers.mongo.stop();
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(8) {
        let asked = Instant::now();
        let alice = in_time(member(&directory, "alice")).await;
        assert!(alice.unwrap().is_some());
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("the slowest answer took {slowest:?}");
    unavailable(join(&directory, "bob")).await;
    unavailable(member(&directory, "carol")).await;
    servers.mongo.cont();
    eventually("a change", async || join(&directory, "bob").await.is_ok()).await;
    assert!(member(&directory, "bob").await.unwrap().is_some());
}

/// One process cannot reach MongoDB, the other one can: the first must not believe what the second has changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_cut_off_does_not_believe_what_others_have_changed() {
    let Some(servers) = Servers::start().await else {
        return;
    };
    let addr = servers.mongo.members()[0].addr();
    let proxy = Proxy::start(addr).await.unwrap();
    let namespace = &servers.stage.settings.namespace;
    let way = format!(
        "mongodb://{}/{namespace}?directConnection=true",
        proxy.addr()
    );
    let (cut, other) = (
        servers.stage.directory_by(&way).await,
        servers.stage.directory().await,
    );
    general(&other).await;
    for name in ["bob", "carol"] {
        join(&other, name).await.unwrap();
        assert!(member(&cut, name).await.unwrap().is_some());
    }
    proxy.cut().await;
    eventually("the outage", async || member(&cut, "nobody").await.is_err()).await;
    // Known as long as nobody says otherwise.
    assert!(in_time(member(&cut, "bob")).await.unwrap().is_some());
    leave(&other, "bob").await.unwrap();
    // Sooner than it would stop to believe what it knows.
    eventually("the departure", async || {
        let bob = in_time(member(&cut, "bob")).await;
        bob.is_ok_and(|bob| bob.is_none())
    })
    .await;
    // At once when the event has passed.
    leave(&other, "carol").await.unwrap();
    cut.forget_cached(&room("general"), Some(&user("carol")));
    assert_eq!(in_time(member(&cut, "carol")).await.unwrap(), None);
    other
        .delete_room(&room("general"), &user("alice"))
        .await
        .unwrap();
    cut.forget_cached(&room("general"), None);
    assert_eq!(in_time(member(&cut, "alice")).await.unwrap(), None);
    proxy.heal().await.unwrap();
    eventually("the way back", async || {
        member(&cut, "nobody").await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_goes_on_while_redis_is_away() {
    let Some(servers) = Servers::start().await else {
        return;
    };
    let (one, two) = (
        servers.stage.directory().await,
        servers.stage.directory().await,
    );
    general(&one).await;
    join(&one, "bob").await.unwrap();
    servers.redis.kill();
    for _ in 0..20 {
        for directory in [&one, &two] {
            assert!(in_time(member(directory, "bob")).await.unwrap().is_some());
            assert_eq!(in_time(member(directory, "nobody")).await.unwrap(), None);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let general = room("general");
    assert_eq!(
        in_time(two.members(&general, None, 10))
            .await
            .unwrap()
            .len(),
        2
    );
    // Nothing that somebody else could not be told of.
    unavailable(join(&one, "carol")).await;
    unavailable(leave(&one, "bob")).await;
    assert!(in_time(member(&one, "bob")).await.unwrap().is_some());
    // Cursors are kept all the same, and seen by whoever moved them.
    for read in 1..20 {
        let cursor = Cursor {
            room: general.clone(),
            user: user("bob"),
            received: Seq::ZERO,
            read: Seq::new(read).unwrap(),
        };
        in_time(one.advance(vec![cursor])).await.unwrap();
        let bob = in_time(member(&one, "bob")).await.unwrap().unwrap();
        assert_eq!(bob.read.get(), read);
    }

    servers.redis.restart(Data::Wiped).await.unwrap();
    eventually("a change", async || leave(&one, "bob").await.is_ok()).await;
    assert_eq!(member(&one, "bob").await.unwrap(), None);
    two.forget_cached(&general, Some(&user("bob")));
    assert_eq!(member(&two, "bob").await.unwrap(), None);
    eventually("another", async || join(&two, "carol").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_holds_nobody_up() {
    let Some(servers) = Servers::start().await else {
        return;
    };
    let directory = servers.stage.directory().await;
    general(&directory).await;
    member(&directory, "alice").await.unwrap();
    servers.redis.stop();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        let alice = in_time(member(&directory, "alice")).await;
        assert!(alice.unwrap().is_some());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unavailable(join(&directory, "bob")).await;
    servers.redis.cont();
    eventually("a change", async || join(&directory, "bob").await.is_ok()).await;
    assert!(member(&directory, "bob").await.unwrap().is_some());
}

/// Redis comes back with what it knew before a change.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_redis_is_not_believed() {
    let Some(servers) = Servers::start().await else {
        return;
    };
    let (one, two) = (
        servers.stage.directory().await,
        servers.stage.directory().await,
    );
    general(&one).await;
    join(&one, "bob").await.unwrap();
    assert!(member(&two, "bob").await.unwrap().is_some());
    let redis = servers.stage.redis();
    let save = redis::cmd("SAVE");
    redis.query::<()>(&save).await.unwrap();
    leave(&one, "bob").await.unwrap();
    servers.redis.restart(Data::Kept).await.unwrap();
    let key = redis.key("dir:{general}:member:bob");
    eventually("the older copy", async || {
        let mut command = redis::cmd("HGET");
        let value = redis.query::<String>(command.arg(&key).arg("v")).await;
        value.is_ok_and(|value| value.contains("bob"))
    })
    .await;
    for directory in [&one, &two] {
        directory.forget_cached(&room("general"), Some(&user("bob")));
        assert_eq!(member(directory, "bob").await.unwrap(), None);
    }
    let three = servers.stage.directory().await;
    assert_eq!(member(&three, "bob").await.unwrap(), None);
    // Not even while MongoDB is away.
    servers.mongo.kill();
    one.forget_cached(&room("general"), Some(&user("bob")));
    let bob = in_time(member(&one, "bob")).await;
    assert!(!matches!(bob, Ok(Some(_))), "{bob:?}");
}
