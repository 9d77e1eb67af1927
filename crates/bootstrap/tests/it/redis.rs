//! What is expected of Redis.

use testbed::{Redis, RedisOptions};

use super::bench::{Bench, with_bench};

async fn redis(extra: &[&str]) -> Redis {
    let options = RedisOptions {
        extra: extra.iter().map(|word| (*word).to_owned()).collect(),
        ..RedisOptions::default()
    };
    Redis::start(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_evicts_is_refused_at_once() {
    with_bench(async |bench: Bench| {
        let redis = redis(&["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]).await;
        let bench = bench
            .with_shared_mongodb()
            .await
            .with("DARDA_REDIS_URL", &redis.url());
        bench
            .run()
            .await
            .badly(1, &["allkeys-lru", "noeviction"])
            .has_not("waited");
        bench
            .check()
            .await
            .badly(1, &["1 thing"])
            .has("allkeys-lru");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_does_not_tell_is_taken() {
    with_bench(async |bench: Bench| {
        let redis =
            redis(&["--user darda on >s3cret ~x:* &* +@all -@admin -@dangerous +info"]).await;
        let url = format!("redis://darda:s3cret@{}", redis.addr());
        let bench = bench
            .with_shared_mongodb()
            .await
            .with("DARDA_REDIS_URL", &url);
        bench
            .run()
            .await
            .well()
            .has("does not tell its maxmemory-policy");
    })
    .await;
}

/// As the servers of the chart let it.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_ask_for_the_configuration_alone() {
    with_bench(async |bench: Bench| {
        let user = "--user darda on >s3cret ~x:* &* +@all -@admin -@dangerous +info +config|get";
        let redis = redis(&[user]).await;
        let url = format!("redis://darda:s3cret@{}", redis.addr());
        let bench = bench
            .with_shared_mongodb()
            .await
            .with("DARDA_REDIS_URL", &url);
        bench.run().await.well().has("which evicts nothing");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_and_another_password_are_named() {
    with_bench(async |bench: Bench| {
        let primary = redis(&[]).await;
        let options = RedisOptions {
            replica_of: Some(primary.addr()),
            ..RedisOptions::default()
        };
        let replica = Redis::start(options).await.unwrap();
        let bench = bench
            .with_shared_mongodb()
            .await
            .with("DARDA_BOOTSTRAP_WAIT_SECS", "1");
        let url = replica.url();
        bench
            .with("DARDA_REDIS_URL", &url)
            .run()
            .await
            .badly(1, &["redis", "not the primary"]);
        let url = format!("redis://darda:s3cret@{}", primary.addr());
        bench
            .with("DARDA_REDIS_URL", &url)
            .run()
            .await
            .badly(1, &["DARDA_REDIS_URL", "refuses"]);
    })
    .await;
}
