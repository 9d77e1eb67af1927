use std::time::Duration;

use redis::aio::MultiplexedConnection;
use testbed::{Data, Flavour, Redis, RedisOptions};

use crate::{runs, skipped, until};

async fn connect(server: &Redis) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn set(
    connection: &mut MultiplexedConnection,
    key: &str,
    value: &str,
) -> redis::RedisResult<()> {
    redis::cmd("SET")
        .arg(key)
        .arg(value)
        .query_async(connection)
        .await
}

async fn get(connection: &mut MultiplexedConnection, key: &str) -> Option<String> {
    redis::cmd("GET")
        .arg(key)
        .query_async(connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_redis_with_a_log_of_writes_keeps_them_when_it_is_killed() {
    keeps_its_writes(Flavour::Installed).await;
}

#[tokio::test]
async fn redis_8_keeps_them_too() {
    keeps_its_writes(Flavour::Redis8).await;
}

#[tokio::test]
async fn valkey_8_keeps_them_too() {
    keeps_its_writes(Flavour::Valkey8).await;
}

async fn keeps_its_writes(flavour: Flavour) {
    if skipped(Redis::missing_with(flavour)) {
        return;
    }
    let options = RedisOptions {
        append_only: true,
        extra: vec!["--appendfsync".into(), "always".into()],
        ..Default::default()
    };
    let server = Redis::start_with(flavour, options).await.unwrap();
    let mut connection = connect(&server).await;
    set(&mut connection, "key", "value").await.unwrap();
    let first = server.pid();

    server.kill();
    assert!(!runs(first));
    set(&mut connection, "key", "other").await.unwrap_err();

    server.restart(Data::Kept).await.unwrap();
    assert_eq!(
        get(&mut connect(&server).await, "key").await.as_deref(),
        Some("value")
    );
    server.restart(Data::Wiped).await.unwrap();
    assert_eq!(get(&mut connect(&server).await, "key").await, None);
    let last = server.pid();
    drop(server);
    assert!(!runs(last));
}

#[tokio::test]
async fn a_redis_without_one_comes_back_empty() {
    if skipped(Redis::missing()) {
        return;
    }
    let server = Redis::start(RedisOptions::default()).await.unwrap();
    set(&mut connect(&server).await, "key", "value")
        .await
        .unwrap();
    server.terminate().await.unwrap();
    server.restart(Data::Kept).await.unwrap();
    assert_eq!(get(&mut connect(&server).await, "key").await, None);
}

#[tokio::test]
async fn a_stopped_redis_answers_when_it_goes_on() {
    if skipped(Redis::missing()) {
        return;
    }
    let server = Redis::start(RedisOptions::default()).await.unwrap();
    let mut connection = connect(&server).await;
    set(&mut connection, "key", "value").await.unwrap();
    server.stop();
    let mut waiting = connection.clone();
    let mut answer = tokio::spawn(async move { get(&mut waiting, "key").await });
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut answer)
            .await
            .is_err()
    );
    server.cont();
    assert_eq!(answer.await.unwrap().as_deref(), Some("value"));
    let pid = server.pid();
    server.stop();
    server.kill();
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_replica_follows_its_primary() {
    if skipped(Redis::missing()) {
        return;
    }
    let primary = Redis::start(RedisOptions::default()).await.unwrap();
    let options = RedisOptions {
        replica_of: Some(primary.addr()),
        ..Default::default()
    };
    let replica = Redis::start(options).await.unwrap();
    set(&mut connect(&primary).await, "key", "value")
        .await
        .unwrap();
    let connection = connect(&replica).await;
    until("the key is at the replica", || {
        let mut connection = connection.clone();
        async move { get(&mut connection, "key").await.as_deref() == Some("value") }
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_cannot_start_says_why() {
    if skipped(Redis::missing()) {
        return;
    }
    let options = RedisOptions {
        extra: vec!["--no-such-setting".into(), "1".into()],
        ..Default::default()
    };
    let error = Redis::start(options).await.err().unwrap();
    assert!(
        format!("{error:#}").contains("no-such-setting"),
        "{error:#}"
    );
}
