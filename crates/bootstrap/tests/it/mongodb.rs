//! Replica sets of members with a key file, and their user.

use std::time::Duration;

use mongodb::bson::doc;
use testbed::{Authority, Mongo, MongoOptions};
use tokio::time::sleep;

use super::bench::{
    Bench, KEY, configuration, ended, members, mongodb, roles, system, until, with_bench,
};

async fn can_sign_in(mongo: &Mongo, password: &str) -> bool {
    let primary = mongo.wait_for_primary().await.unwrap();
    let client = mongodb(primary.addr(), &format!("darda:{password}"), "admin").await;
    let chat = client.database("chat");
    chat.run_command(doc! { "ping": 1 }).await.is_ok()
}

/// Hosts of the first so many members, each with a vote.
fn voting(mongo: &Mongo, members: usize) -> Vec<(String, i32)> {
    let members = mongo.members().iter().take(members);
    members
        .map(|member| (member.addr().to_string(), 1))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_servers_become_an_installation_and_stay_one() {
    with_bench(async |bench: Bench| {
        let mongo = members(1).await;
        let addr = mongo.members()[0].addr();
        let bench = bench.with_members(&mongo, 1, "s3cret");
        bench
            .check()
            .await
            .badly(1, &["not as"])
            .has("run would begin the replica set rs0")
            .has("run would make the virtual host");
        bench
            .run()
            .await
            .well()
            .has("made the user darda")
            .has("declared")
            .has("migrating the database");
        assert!(can_sign_in(&mongo, "s3cret").await);
        assert_eq!(roles(addr, "darda").await, ["readWrite on chat"]);
        let (hosts, version) = configuration(addr).await;
        assert_eq!(hosts, voting(&mongo, 1));
        bench.check().await.well();

        bench.run().await.well().made_nothing();
        assert_eq!(configuration(addr).await, (hosts, version));
        // The user has no rights elsewhere.
        let user = mongodb(addr, "darda:s3cret", "admin").await;
        let other = user
            .database("other")
            .collection("x")
            .insert_one(doc! {})
            .await;
        assert!(other.unwrap_err().to_string().contains("not authorized"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_become_one_set() {
    with_bench(async |bench: Bench| {
        let mongo = members(3).await;
        let bench = bench.with_members(&mongo, 3, "s3cret");
        bench.run().await.well();
        let primary = mongo.wait_for_primary().await.unwrap();
        assert_eq!(configuration(primary.addr()).await.0, voting(&mongo, 3));
        bench.run().await.well().made_nothing();
        bench.check().await.well();
    })
    .await;
}

/// With two bootstraps at once, one of which is killed again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_grows_under_interruptions() {
    with_bench(async |bench: Bench| {
        let mongo = members(3).await;
        let one = bench.with_members(&mongo, 1, "s3cret");
        one.run().await.well();
        let three = bench.with_members(&mongo, 3, "s3cret");
        three
            .check()
            .await
            .badly(1, &["1 thing"])
            .has("run would take");
        for pause in [150, 400, 900, 1500, 2500] {
            let mut broken_off = three.begin();
            sleep(Duration::from_millis(pause)).await;
            broken_off.kill().await.unwrap();
        }
        let (first, second) = tokio::join!(three.run(), three.run());
        first.well();
        second.well();
        let primary = mongo.wait_for_primary().await.unwrap();
        assert_eq!(configuration(primary.addr()).await.0, voting(&mongo, 3));
        // The smaller list takes nobody out.
        let addr = mongo.members()[1].addr();
        one.run()
            .await
            .well()
            .made_nothing()
            .has(&format!("{addr} belongs to the replica set and is not"));
        assert_eq!(configuration(primary.addr()).await.0, voting(&mongo, 3));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_from_nothing() {
    with_bench(async |bench: Bench| {
        let mongo = members(1).await;
        let bench = bench.with_members(&mongo, 1, "s3cret");
        let (first, second) = tokio::join!(bench.run(), bench.run());
        first.well();
        second.well();
        assert!(can_sign_in(&mongo, "s3cret").await);
        bench.run().await.well().made_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_off_from_nothing() {
    with_bench(async |bench: Bench| {
        let mongo = members(1).await;
        let bench = bench.with_members(&mongo, 1, "s3cret");
        for pause in [50, 100, 200, 300, 500, 800] {
            let mut broken_off = bench.begin();
            sleep(Duration::from_millis(pause)).await;
            broken_off.kill().await.unwrap();
        }
        bench.run().await.well();
        assert!(can_sign_in(&mongo, "s3cret").await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_roles_are_those_of_the_uri() {
    with_bench(async |bench: Bench| {
        let mongo = members(1).await;
        let addr = mongo.members()[0].addr();
        bench.with_members(&mongo, 1, "before").run().await.well();
        let admin = system(addr).await.database("admin");
        let more = doc! { "grantRolesToUser": "darda", "roles": ["root"] };
        admin.run_command(more).await.unwrap();

        let bench = bench.with_members(&mongo, 1, "s3cret");
        bench
            .check()
            .await
            .badly(1, &[])
            .has("run would give the user darda the password")
            .has("and no more");
        bench
            .run()
            .await
            .well()
            .has("had another password")
            .has("had other rights")
            .has_not("before");
        assert!(can_sign_in(&mongo, "s3cret").await);
        assert!(!can_sign_in(&mongo, "before").await);
        assert_eq!(roles(addr, "darda").await, ["readWrite on chat"]);
        bench.run().await.well().made_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_not_there_is_waited_for_and_named() {
    with_bench(async |bench: Bench| {
        let mongo = members(3).await;
        let late = &mongo.members()[2];
        late.kill();
        let three = bench
            .with_members(&mongo, 3, "s3cret")
            .with("DARDA_BOOTSTRAP_WAIT_SECS", "2");
        // Nobody knows whether it belongs to a set, so none is begun.
        let addr = late.addr().to_string();
        three.run().await.badly(1, &[&addr, "waited 2 s"]);
        let admin = system(mongo.members()[0].addr()).await.database("admin");
        let config = admin.run_command(doc! { "replSetGetConfig": 1 }).await;
        assert!(
            config
                .unwrap_err()
                .to_string()
                .contains("no replset config")
        );

        // Of a set that there is it is no part yet; all the rest is done.
        bench.with_members(&mongo, 2, "s3cret").run().await.well();
        three
            .run()
            .await
            .badly(1, &[&addr, "waited 2 s"])
            .has("collections and indexes are those")
            .has_not("migrating");
        let patient = bench.with_members(&mongo, 3, "s3cret").begin();
        sleep(Duration::from_secs(1)).await;
        late.restart(testbed::Data::Kept).await.unwrap();
        assert!(ended(patient).await.success());
        let primary = mongo.wait_for_primary().await.unwrap();
        assert_eq!(configuration(primary.addr()).await.0, voting(&mongo, 3));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_is_named() {
    with_bench(async |bench: Bench| {
        let mongo = members(1).await;
        let bench = bench
            .with_members(&mongo, 1, "s3cret")
            .with("DARDA_BOOTSTRAP_WAIT_SECS", "1");
        let other = bench.with("DARDA_BOOTSTRAP_MONGODB_KEY", "s3cretkey");
        other
            .run()
            .await
            .badly(1, &["DARDA_BOOTSTRAP_MONGODB_KEY", "key file"]);
        // White space in a key file does not count.
        let folded = format!("{}\n{}\n", &KEY[..10], &KEY[10..]);
        bench
            .with("DARDA_BOOTSTRAP_MONGODB_KEY", &folded)
            .with("DARDA_BOOTSTRAP_WAIT_SECS", "60")
            .run()
            .await
            .well();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_another_set_is_refused() {
    with_bench(async |bench: Bench| {
        let (ours, theirs) = (members(1).await, members(1).await);
        bench.with_members(&ours, 1, "s3cret").run().await.well();
        bench.with_members(&theirs, 1, "s3cret").run().await.well();
        let stranger = theirs.members()[0].addr().to_string();
        let both = format!("{},{stranger}", ours.members()[0].addr());
        let both = bench
            .with_members(&ours, 1, "s3cret")
            .with("DARDA_BOOTSTRAP_MONGODB_MEMBERS", &both);
        both.run()
            .await
            .badly(1, &[&stranger, "another replica set"]);
        both.check().await.badly(1, &[]).has("another replica set");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_by_another_name_is_not_taken_in_twice() {
    with_bench(async |bench: Bench| {
        let mongo = members(1).await;
        let bench = bench.with_members(&mongo, 1, "s3cret");
        bench.run().await.well();
        let addr = mongo.members()[0].addr();
        let other = format!("localhost:{}", addr.port());
        let other = bench.with("DARDA_BOOTSTRAP_MONGODB_MEMBERS", &other);
        let as_addr = format!("as {addr}");
        other.run().await.badly(1, &["localhost", &as_addr]);
        assert_eq!(configuration(addr).await.0, voting(&mongo, 1));
    })
    .await;
}

/// Where a primary was lost in the meantime, another takes the user.
#[tokio::test(flavor = "multi_thread")]
async fn the_primary_may_be_any_member() {
    with_bench(async |bench: Bench| {
        let mongo = members(3).await;
        bench.with_members(&mongo, 3, "before").run().await.well();
        mongo.members()[0].kill();
        let admin = system(mongo.members()[1].addr()).await.database("admin");
        until("another primary", async || {
            let hello = admin.run_command(doc! { "hello": 1 }).await.unwrap();
            let primary = hello.get_str("primary").unwrap_or_default();
            !primary.is_empty() && primary != mongo.members()[0].addr().to_string()
        })
        .await;
        let bench = bench
            .with_members(&mongo, 3, "s3cret")
            .with("DARDA_BOOTSTRAP_WAIT_SECS", "3");
        let gone = mongo.members()[0].addr().to_string();
        bench
            .run()
            .await
            .badly(1, &[&gone, "not reachable"])
            .has("had another password");
        mongo.members()[0]
            .restart(testbed::Data::Kept)
            .await
            .unwrap();
        bench
            .with("DARDA_BOOTSTRAP_WAIT_SECS", "60")
            .run()
            .await
            .well()
            .made_nothing();
        assert!(can_sign_in(&mongo, "s3cret").await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_speak_tls() {
    with_bench(async |bench: Bench| {
        let authority = Authority::new().unwrap();
        let options = MongoOptions {
            certificate: Some(authority.certify(&["127.0.0.1"]).unwrap()),
            ..MongoOptions::default()
        };
        let mongo = Mongo::start_bare(options, KEY).await.unwrap();
        let addr = mongo.members()[0].addr();
        let uri =
            format!("mongodb://darda:s3cret@{addr}/chat?replicaSet=rs0&authSource=admin&tls=true");
        let bench = bench
            .with_members(&mongo, 1, "s3cret")
            .with("DARDA_MONGODB_URI", &uri);
        let impatient = bench.with("DARDA_BOOTSTRAP_WAIT_SECS", "1");
        impatient.run().await.badly(1, &["DARDA_MONGODB_CA_FILE"]);
        let authority = authority.file().display().to_string();
        bench
            .with("DARDA_MONGODB_CA_FILE", &authority)
            .run()
            .await
            .well();
    })
    .await;
}
