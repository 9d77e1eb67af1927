//! The promises of the cluster family, over real servers.
#![cfg(feature = "cluster")]

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

async fn settings() -> Settings {
    let servers = testbed::shared().await;
    Settings {
        redis: endpoint(&servers.redis_url),
        rabbitmq: endpoint(&servers.rabbitmq_url),
        mongodb: endpoint(&servers.mongodb_uri),
        namespace: testbed::namespace(),
        shards: 2,
        backlog_max: 100_000,
    }
}

async fn with_family(run: impl AsyncFnOnce(&Backends)) {
    let family = backend::cluster::open(settings().await).await.unwrap();
    run(&family).await;
    family.health.close().await;
}

mod log {
    macro_rules! promises {
        ($($promise:ident),+) => {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $promise() {
                super::with_family(async |family: &backend::Backends| {
                    backend::conformance::log::$promise(family).await;
                }).await;
            })+
        };
    }
    promises!(
        order_and_chain,
        idempotence,
        pages_without_holes,
        pages_before,
        heads,
        related_events,
        edits_and_deletes_are_not_hidden,
        deleted_messages_stay_deleted,
        places_by_time,
        unread_messages,
        forgotten_rooms,
        readers_see_prefixes,
        relay_follows_the_chain,
        only_acts_are_appended,
        one_task_keeps_its_order
    );
}
