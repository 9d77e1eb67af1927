//! What the checker does to a session's exchanges and queues behind the product's back.

use std::time::Duration;

use anyhow::{Context, Result};
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(10);

/// A connection to the broker, for one session's names.
pub struct Broker {
    /// Closed when it is dropped.
    _connection: Connection,
    channel: Channel,
    namespace: String,
    shards: u16,
}

/// A copy of an envelope.
#[derive(Clone)]
pub struct Envelope {
    key: String,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Broker {
    /// Connects.
    ///
    /// # Errors
    /// When the broker is away.
    pub async fn connect(url: &str, namespace: &str, shards: u16) -> Result<Self> {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        let connection = timeout(WITHIN, connecting)
            .await
            .context("RabbitMQ is away")??;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Self {
            _connection: connection,
            channel,
            namespace: namespace.to_owned(),
            shards,
        })
    }

    fn exchange(&self, generation: u64) -> String {
        format!("{}.persist.{generation}", self.namespace)
    }

    fn queue(&self, shard: u16) -> String {
        format!("{}.persist.shard.{shard}", self.namespace)
    }

    fn dead(&self) -> String {
        format!("{}.persist.dead", self.namespace)
    }

    /// The names of all queues that outlive their connections.
    #[must_use]
    pub fn queues(&self) -> Vec<String> {
        let shards = (0..self.shards).map(|shard| self.queue(shard));
        shards.chain([self.dead()]).collect()
    }

    /// Deletes the way into the log.
    ///
    /// # Errors
    /// When the broker is away.
    pub async fn delete_exchange(&self, generation: u64) -> Result<()> {
        let name = self.exchange(generation);
        let options = ExchangeDeleteOptions::default();
        Ok(self.channel.exchange_delete(name.into(), options).await?)
    }

    /// Takes one shard off the way into the log.
    ///
    /// # Errors
    /// When the broker is away.
    pub async fn unbind(&self, generation: u64, shard: u16) -> Result<()> {
        let (queue, exchange) = (self.queue(shard), self.exchange(generation));
        let (key, none) = (shard.to_string(), FieldTable::default());
        let unbound = self
            .channel
            .queue_unbind(queue.into(), exchange.into(), key.into(), none);
        Ok(unbound.await?)
    }

    /// Copies what is published to the log for some time.
    ///
    /// # Errors
    /// When the broker is away.
    pub async fn tap(&self, generation: u64, time: Duration) -> Result<Vec<Envelope>> {
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let queue = self
            .channel
            .queue_declare("".into(), options, FieldTable::default())
            .await?;
        let name = queue.name().clone();
        for shard in 0..self.shards {
            let (exchange, key) = (self.exchange(generation), shard.to_string());
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            let bound =
                self.channel
                    .queue_bind(name.clone(), exchange.into(), key.into(), options, none);
            bound.await?;
        }
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consumed =
            self.channel
                .basic_consume(name.clone(), "".into(), options, FieldTable::default());
        let mut consumer = consumed.await?;
        let mut envelopes = Vec::new();
        let copying = async {
            while let Some(delivery) = futures_util::StreamExt::next(&mut consumer).await {
                let Delivery {
                    routing_key,
                    properties,
                    data,
                    ..
                } = delivery?;
                let key = routing_key.to_string();
                envelopes.push(Envelope {
                    key,
                    properties,
                    body: data,
                });
            }
            Ok::<_, lapin::Error>(())
        };
        if let Ok(ended) = timeout(time, copying).await {
            ended?;
        }
        self.channel
            .queue_delete(name, QueueDeleteOptions::default())
            .await?;
        Ok(envelopes)
    }

    /// Publishes a copy to the log.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn publish(&self, generation: u64, envelope: &Envelope) -> Result<()> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let exchange = self.exchange(generation).into();
        let Envelope {
            key,
            properties,
            body,
        } = envelope;
        let (key, properties) = (key.as_str().into(), properties.clone());
        let published = self
            .channel
            .basic_publish(exchange, key, options, body, properties);
        let confirmed = timeout(WITHIN, async { published.await?.await }).await;
        confirmed.context("RabbitMQ does not confirm")??;
        Ok(())
    }

    /// How many envelopes are parked because they could not be stored.
    ///
    /// # Errors
    /// When the broker is away.
    pub async fn parked(&self) -> Result<u32> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let name = self.dead().into();
        let queue = self
            .channel
            .queue_declare(name, options, FieldTable::default())
            .await?;
        Ok(queue.message_count())
    }

    /// Removes the queues and exchanges of the session.
    ///
    /// # Errors
    /// When the broker is away.
    pub async fn drop(&self, generation: u64) -> Result<()> {
        for queue in self.queues() {
            let options = QueueDeleteOptions::default();
            self.channel.queue_delete(queue.into(), options).await?;
        }
        let names = [
            format!("{}.dead", self.namespace),
            format!("{}.relay", self.namespace),
        ];
        for name in names.into_iter().chain([self.exchange(generation)]) {
            let options = ExchangeDeleteOptions::default();
            self.channel.exchange_delete(name.into(), options).await?;
        }
        Ok(())
    }
}

impl Envelope {
    /// What cannot be understood.
    #[must_use]
    pub fn poison(shard: u16) -> Self {
        Self {
            key: shard.to_string(),
            properties: BasicProperties::default().with_delivery_mode(2),
            body: b"\xff\x00 this is no event\n".to_vec(),
        }
    }
}
