//! The cluster family keeps the promises of every port, over real servers.
#![cfg(feature = "cluster")]

mod storing;

use backend::Backends;
use backend::cluster::Settings;
use backend::cluster::settings::Endpoint;

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.to_owned(),
        verify: true,
        ca_file: None,
    }
}

async fn run(promise: impl AsyncFnOnce(&Backends)) {
    let servers = testbed::shared().await;
    let settings = Settings {
        redis: endpoint(&servers.redis_url),
        rabbitmq: endpoint(&servers.rabbitmq_url),
        mongodb: endpoint(&servers.mongodb_uri),
        namespace: testbed::namespace(),
        shards: 2,
        backlog_max: 100_000,
    };
    let worker = tokio::spawn(storing::store(settings.clone()));
    let family = backend::cluster::open(settings).await.expect("a family");
    backend::conformance::works(&family).await;
    promise(&family).await;
    family.health.close().await;
    worker.abort();
}

backend::conformance_suite!(run);
