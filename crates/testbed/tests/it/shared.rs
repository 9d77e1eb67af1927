use std::collections::HashSet;

use lapin::{Connection, ConnectionProperties};
use mongodb::bson::doc;

#[tokio::test]
async fn the_shared_servers_answer() {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    let servers = testbed::shared().await;
    let redis = redis::Client::open(servers.redis_url.as_str()).unwrap();
    let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
    let pong: String = redis::cmd("PING").query_async(&mut redis).await.unwrap();
    assert_eq!(pong, "PONG");
    let amqp = Connection::connect(&servers.rabbitmq_url, ConnectionProperties::default())
        .await
        .unwrap();
    amqp.create_channel().await.unwrap();
    let mongo = mongodb::Client::with_uri_str(&servers.mongodb_uri)
        .await
        .unwrap();
    mongo
        .database("admin")
        .run_command(doc! { "ping": 1 })
        .await
        .unwrap();
    assert!(std::ptr::eq(servers, testbed::shared().await));
}

#[test]
fn namespaces_differ_and_fit_everywhere() {
    let names: HashSet<_> = (0..1_000).map(|_| testbed::namespace()).collect();
    assert_eq!(names.len(), 1_000);
    assert!(
        names
            .iter()
            .all(|name| name.len() < 30 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    );
}
