//! A persistence worker of a few lines, so that the family can be tested without the program.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use backend::cluster::topology::{self, Topology};
use backend::cluster::{Mongo, Redis, Settings, Store, envelope, persisted};
use futures_util::StreamExt as _;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use protocol::{Event, RoomId, Seq};

/// Stores what is in the shard queues, as long as the runtime lives.
pub async fn store(settings: Settings) {
    let store = Store::new(Mongo::new(&settings).await.unwrap());
    let redis = Redis::new(&settings).unwrap();
    let topology = Topology::new(&settings);
    loop {
        let _ = consume(&settings, &topology, &store, &redis).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn consume(
    settings: &Settings,
    topology: &Topology,
    store: &Store,
    redis: &Redis,
) -> Result<(), Box<dyn std::error::Error>> {
    let connection = topology::connect(&settings.rabbitmq, "test").await?;
    let channel = connection.create_channel().await?;
    topology.declare(&channel).await?;
    let mut deliveries = futures_util::stream::SelectAll::new();
    for shard in 0..settings.shards {
        let queue = topology.shard_queue(shard);
        let options = BasicConsumeOptions::default();
        let consumer = channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default())
            .await?;
        deliveries.push(consumer);
    }
    let mut marks: HashMap<RoomId, Seq> = HashMap::new();
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let events: Vec<Event> = envelope::decode(&delivery.data)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|broken| broken.reason)?;
        let inserted = store.insert(&events).await?;
        assert!(inserted.violations.is_empty(), "{:?}", inserted.violations);
        delivery.ack(Default::default()).await?;
        for room in events
            .iter()
            .map(|event| &event.room)
            .collect::<BTreeSet<_>>()
        {
            let mark = marks.entry(room.clone()).or_default();
            let stored = store.contiguous(room, *mark, 100_000).await?;
            *mark = stored;
            persisted::raise(redis, &[(room.clone(), stored)]).await?;
        }
    }
    Ok(())
}
