//! What processes remember, and when they must not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::cluster::{Mongo, MongoDirectory};
use backend::directory::{Cursor, RoomKind, RoomPatch};
use backend::{Directory, Error};
use mongodb::bson::{Document, doc};
use protocol::{EventBody, MemberChange, Role, Seq, UserId};

use super::stage::*;

/// How long ago a change may be when an answer of another process does not have it.
const A_SECOND: Duration = Duration::from_secs(1);

/// Waits for what must be seen within a second, looking all the time as busy rooms do. How long a look takes is not
/// counted.
async fn soon(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let changed = Instant::now();
    loop {
        let asked = Instant::now();
        if look().await {
            return;
        }
        assert!(asked - changed < A_SECOND, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_see_each_others_changes_within_a_second() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let (one, two) = (stage.directory().await, stage.directory().await);
    assert_eq!(two.room(&room("general")).await.unwrap(), None);
    assert_eq!(member(&two, "bob").await.unwrap(), None);
    general(&one).await;
    soon("the room", async || {
        two.room(&room("general")).await.unwrap().is_some()
    })
    .await;
    for (by, other) in [(&one, &two), (&two, &one)] {
        join(by, "bob").await.unwrap();
        soon("the member", async || {
            member(other, "bob").await.unwrap().is_some()
        })
        .await;
        let (here, bob, alice) = (room("general"), user("bob"), user("alice"));
        by.set_role(&here, &bob, Role::Admin, &alice).await.unwrap();
        soon("the role", async || {
            let member = member(other, "bob").await.unwrap();
            member.unwrap().role == Role::Admin
        })
        .await;
        let cursor = Cursor {
            room: here.clone(),
            user: bob.clone(),
            received: Seq::new(9).unwrap(),
            read: Seq::new(4).unwrap(),
        };
        by.advance(vec![cursor]).await.unwrap();
        soon("the cursor", async || {
            let member = member(other, "bob").await.unwrap().unwrap();
            (member.received.get(), member.read.get()) == (9, 4)
        })
        .await;
        leave(by, "bob").await.unwrap();
        soon("the departure", async || {
            member(other, "bob").await.unwrap().is_none()
        })
        .await;
    }
    two.delete_room(&room("general"), &user("alice"))
        .await
        .unwrap();
    soon("the end of the room", async || {
        one.room(&room("general")).await.unwrap().is_none()
    })
    .await;
    assert_eq!(member(&one, "alice").await.unwrap(), None);
}

/// Between a commit and the word to Redis, Redis still says that there is nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_finds_a_room_taken_sees_it_whatever_redis_says() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let (proxy, one) = stage.directory_over_proxy().await;
    let two = stage.directory().await;
    assert_eq!(two.room(&room("general")).await.unwrap(), None);
    assert_eq!(member(&two, "alice").await.unwrap(), None);
    proxy.delay(Duration::from_millis(400));
    let making = tokio::spawn(async move { general(&one).await });
    let rooms = stage.mongo().await.collection::<Document>("rooms");
    eventually("a room", async || {
        let found = rooms.find_one(doc! { "_id": "general" }).await;
        found.unwrap().is_some()
    })
    .await;
    let taken = two.create_room(new("general", RoomKind::Public, "alice"), None);
    assert!(matches!(taken.await, Err(Error::Conflict(_))));
    assert!(two.room(&room("general")).await.unwrap().is_some());
    let alice = member(&two, "alice").await.unwrap();
    assert_eq!(alice.unwrap().role, Role::Owner);
    making.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_sees_a_change_at_once_when_its_event_has_passed() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let (one, two) = (stage.directory().await, stage.directory().await);
    general(&one).await;
    let general = room("general");
    // Many ask all the time, so that somebody is always reading what is about to change.
    let crowd: Vec<_> = [&one, &two, &one, &two]
        .into_iter()
        .map(|directory| {
            let directory = directory.clone();
            tokio::spawn(async move {
                loop {
                    let _ = member(&directory, "bob").await;
                    let _ = directory.room(&room("general")).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    for round in 0..50 {
        let (by, other) = if round % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        patiently(|| join(by, "bob")).await;
        assert!(patiently(|| member(by, "bob")).await.is_some());
        other.forget_cached(&general, Some(&user("bob")));
        let bob = patiently(|| member(other, "bob")).await;
        assert!(bob.is_some(), "round {round}");
        let here = patiently(|| other.room(&general)).await;
        assert_eq!(here.unwrap().members, 2);
        gone(other).await;
        let bob = patiently(|| member(other, "bob")).await;
        assert_eq!(bob, None, "round {round}");
        by.forget_cached(&general, Some(&user("bob")));
        let bob = patiently(|| member(by, "bob")).await;
        assert_eq!(bob, None, "round {round}");
        let here = patiently(|| by.room(&general)).await;
        assert_eq!(here.unwrap().members, 1);
    }
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Bob leaves, whether it is told at the first try or not.
async fn gone(directory: &MongoDirectory) {
    patiently(|| async {
        match leave(directory, "bob").await {
            Err(Error::NotFound(_)) => Ok(()),
            left => left,
        }
    })
    .await;
}

/// How many queries of rooms and of members MongoDB has answered.
async fn asked(mongo: &Mongo) -> (u64, u64) {
    (
        queries(mongo, "rooms").await,
        queries(mongo, "members").await,
    )
}

async fn queries(mongo: &Mongo, collection: &str) -> u64 {
    let name = format!("{}.{collection}", mongo.database().name());
    let profile = mongo.database().collection::<Document>("system.profile");
    let queries =
        profile.count_documents(doc! { "ns": name, "op": { "$in": ["query", "getmore"] } });
    queries.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_ask_mongodb_once() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let one = stage.directory().await;
    general(&one).await;
    let mongo = stage.mongo().await;
    mongo
        .database()
        .run_command(doc! { "profile": 2 })
        .await
        .unwrap();
    // A process that has no answer from Redis in time reads for itself: a busy machine gets several tries.
    let mut tries = 0..10;
    loop {
        let number = tries
            .next()
            .expect("one try in which MongoDB was asked once");
        if known_at_once(&stage, &mongo).await && asked_once(&stage, &mongo, number).await {
            break;
        }
    }
    mongo
        .database()
        .run_command(doc! { "profile": 0 })
        .await
        .unwrap();
}

/// Whether nobody has asked MongoDB for what a change has told Redis.
async fn known_at_once(stage: &Stage, mongo: &Mongo) -> bool {
    join(&stage.directory().await, "bob").await.unwrap();
    let before = asked(mongo).await;
    for _ in 0..5 {
        let other = stage.directory().await;
        assert!(member(&other, "bob").await.unwrap().is_some());
    }
    let after = asked(mongo).await;
    leave(&stage.directory().await, "bob").await.unwrap();
    before == after
}

/// Whether MongoDB was asked once for somebody of whom nobody knows, by a hundred at once and by another process.
async fn asked_once(stage: &Stage, mongo: &Mongo, number: usize) -> bool {
    let name = format!("stranger-{number}");
    let before = asked(mongo).await;
    let other = stage.directory().await;
    let asks: Vec<_> = (0..100)
        .map(|_| {
            let (other, name) = (other.clone(), name.clone());
            tokio::spawn(async move { member(&other, &name).await })
        })
        .collect();
    for ask in asks {
        assert_eq!(ask.await.unwrap().unwrap(), None);
    }
    let another = stage.directory().await;
    assert_eq!(member(&another, &name).await.unwrap(), None);
    let after = asked(mongo).await;
    after.1 - before.1 == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_enter_at_once_from_two_processes() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let (one, two) = (stage.directory().await, stage.directory().await);
    general(&one).await;
    let begun = Instant::now();
    let joins: Vec<_> = (0..1500)
        .map(|number| {
            let directory = if number % 2 == 0 {
                one.clone()
            } else {
                two.clone()
            };
            tokio::spawn(async move {
                let name = format!("user-{number}");
                // Clients come back when they are told to.
                patiently(|| join(&directory, &name)).await;
                let known = patiently(|| member(&directory, &name)).await;
                assert!(known.is_some());
            })
        })
        .collect();
    for join in joins {
        join.await.unwrap();
    }
    println!("1500 joined in {:?}", begun.elapsed());
    let general = room("general");
    one.forget_cached(&general, None);
    assert_eq!(one.room(&general).await.unwrap().unwrap().members, 1501);
    assert_eq!(one.members(&general, None, 2000).await.unwrap().len(), 1501);

    // The room is gone at once, its members follow.
    let gone = one.delete_room(&general, &user("alice")).await.unwrap();
    assert_eq!(gone.len(), 1501);
    assert_eq!(member(&one, "user-7").await.unwrap(), None);
    assert!(one.members(&general, None, 10).await.unwrap().is_empty());
    let mongo = stage.mongo().await;
    let members = mongo.collection::<Document>("members");
    eventually("an empty collection", async || {
        members.count_documents(doc! {}).await.unwrap() == 0
    })
    .await;
    let rooms = mongo.collection::<Document>("rooms");
    eventually("the last note", async || {
        let emptying = rooms.count_documents(doc! { "emptying": true }).await;
        emptying.unwrap() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_change_one_room_against_each_other() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let processes = [
        stage.directory().await,
        stage.directory().await,
        stage.directory().await,
    ];
    general(&processes[0]).await;
    let tasks: Vec<_> = (0..12)
        .map(|number| {
            let directory = processes[number % 3].clone();
            tokio::spawn(come_and_go(
                directory,
                user(&format!("user-{}", number / 3)),
            ))
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let general = room("general");
    processes[0].forget_cached(&general, None);
    let members = patiently(|| processes[0].members(&general, None, 100)).await;
    let here = patiently(|| processes[0].room(&general)).await;
    assert_eq!(here.unwrap().members, members.len() as u64);
    // Every change has its announcement, in one order per room. Whoever starts makes those of all.
    let new = stage.directory().await;
    let waiting = patiently(|| new.unannounced(10_000)).await;
    let mut announced = BTreeSet::new();
    for append in waiting {
        let EventBody::Member { user, change, .. } = append.body else {
            continue;
        };
        match change {
            MemberChange::Joined => assert!(announced.insert(user)),
            MemberChange::Left => assert!(announced.remove(&user)),
            _ => {}
        }
    }
    let members: BTreeSet<UserId> = members.into_iter().map(|member| member.user).collect();
    assert_eq!(announced, members);
}

/// Somebody who comes and goes, in several processes at once.
async fn come_and_go(directory: MongoDirectory, who: UserId) {
    let general = room("general");
    for _ in 0..10 {
        patiently(|| async {
            directory
                .put_member(&general, &who, Role::Member, &who)
                .await
        })
        .await;
        patiently(|| async {
            let patch = RoomPatch {
                topic: Some(format!("{who} is here")),
                ..RoomPatch::default()
            };
            directory.patch_room(&general, patch, &who).await
        })
        .await;
        // Somebody else may have been quicker.
        let left = directory.remove_member(&general, &who, &who).await;
        assert!(
            matches!(
                left,
                Ok(_) | Err(Error::NotFound(_) | Error::Unavailable { .. })
            ),
            "{left:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_has_one_room_whoever_makes_it() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    for round in 0..10 {
        let makers: Vec<_> = (0..4)
            .map(|number| {
                let stage = Arc::new(stage.settings.clone());
                tokio::spawn(async move {
                    let mongo = Mongo::new(&stage).await.unwrap();
                    let redis = backend::cluster::Redis::new(&stage).unwrap();
                    let directory = MongoDirectory::new(mongo, redis);
                    let id = format!("direct-{round}-{number}");
                    let (by, with) = if number % 2 == 0 {
                        ("a", "b")
                    } else {
                        ("b", "a")
                    };
                    let (by, with) = (format!("{by}{round}"), user(&format!("{with}{round}")));
                    let made = patiently(|| async {
                        let new = new(&id, RoomKind::Direct, &by);
                        directory.create_room(new, Some(&with)).await
                    });
                    made.await.value.id
                })
            })
            .collect();
        let mut ids = Vec::new();
        for maker in makers {
            ids.push(maker.await.unwrap());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1);
    }
}
