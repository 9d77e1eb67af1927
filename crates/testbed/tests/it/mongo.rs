use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use testbed::{Data, Mongo};

use crate::{runs, skipped, until};

async fn connect(server: &Mongo) -> Collection<Document> {
    let client = Client::with_uri_str(server.url()).await.unwrap();
    client.database("darda").collection("events")
}

async fn count(collection: &Collection<Document>) -> u64 {
    collection.count_documents(doc! {}).await.unwrap()
}

#[tokio::test]
async fn a_set_of_one_keeps_what_it_acknowledged_when_it_is_killed() {
    if skipped(Mongo::missing()) {
        return;
    }
    let server = Mongo::start(1).await.unwrap();
    let collection = connect(&server).await;
    collection
        .insert_one(doc! { "text": "kept" })
        .await
        .unwrap();
    let first = server.members()[0].pid();

    server.kill();
    assert!(!runs(first));
    server.restart(Data::Kept).await.unwrap();
    assert_eq!(count(&collection).await, 1);

    server.terminate().await.unwrap();
    server.restart(Data::Wiped).await.unwrap();
    assert_eq!(count(&connect(&server).await).await, 0);
}

#[tokio::test]
async fn a_set_of_three_goes_on_without_its_primary() {
    if skipped(Mongo::missing()) {
        return;
    }
    let server = Mongo::start(3).await.unwrap();
    let collection = connect(&server).await;
    collection
        .insert_one(doc! { "text": "first" })
        .await
        .unwrap();

    let old = server.wait_for_primary().await.unwrap();
    old.kill();
    let new = server.wait_for_primary().await.unwrap();
    assert_ne!(new.addr(), old.addr());
    collection
        .insert_one(doc! { "text": "second" })
        .await
        .unwrap();
    old.restart(Data::Wiped).await.unwrap();

    let primary = server.wait_for_primary().await.unwrap().addr();
    until("a step-down is possible", || async {
        server.step_down(10).await.is_ok()
    })
    .await;
    until("another is the primary", || async {
        server
            .primary()
            .await
            .is_some_and(|member| member.addr() != primary)
    })
    .await;
    assert_eq!(count(&collection).await, 2);

    let frozen = server.wait_for_primary().await.unwrap();
    frozen.stop();
    collection
        .insert_one(doc! { "text": "third" })
        .await
        .unwrap();
    frozen.cont();
    let pids: Vec<_> = server.members().iter().map(|member| member.pid()).collect();
    drop(server);
    assert!(!pids.into_iter().any(runs));
}
