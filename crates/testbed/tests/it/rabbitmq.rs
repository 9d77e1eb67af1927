use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use testbed::{Data, Generation, RabbitMq, RabbitMqOptions};

use crate::{folder, runs, skipped};

async fn connect(server: &RabbitMq) -> (Connection, Channel) {
    let connection = Connection::connect(&server.url(), ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    (connection, channel)
}

/// Declares the quorum queue `events`.
async fn declare(channel: &Channel) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    let quorum = AMQPValue::LongString("quorum".into());
    arguments.insert("x-queue-type".into(), quorum);
    channel
        .queue_declare("events".into(), QueueDeclareOptions::durable(), arguments)
        .await
        .map(drop)
}

async fn publish(channel: &Channel, body: &str) -> lapin::Result<Confirmation> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    channel
        .basic_publish(
            "".into(),
            "events".into(),
            options,
            body.as_bytes(),
            properties,
        )
        .await?
        .await
}

async fn get(channel: &Channel) -> lapin::Result<Option<BasicGetMessage>> {
    channel
        .basic_get("events".into(), BasicGetOptions { no_ack: true })
        .await
}

#[tokio::test]
async fn a_quorum_queue_keeps_what_was_confirmed_when_rabbitmq_is_killed() {
    keeps_what_was_confirmed(Generation::Installed).await;
}

#[tokio::test]
async fn rabbitmq_4_keeps_it_too() {
    keeps_what_was_confirmed(Generation::V4).await;
}

async fn keeps_what_was_confirmed(generation: Generation) {
    if skipped(RabbitMq::missing_with(generation)) {
        return;
    }
    let options = RabbitMqOptions {
        generation,
        ..RabbitMqOptions::default()
    };
    let server = RabbitMq::start_with(options).await.unwrap();
    let (_connection, channel) = connect(&server).await;
    declare(&channel).await.unwrap();
    assert!(matches!(
        publish(&channel, "kept").await.unwrap(),
        Confirmation::Ack(None)
    ));
    let first = server.pid();
    let folder = folder(first);

    server.written("events").await.unwrap();
    server.kill();
    assert!(!runs(first));
    publish(&channel, "lost").await.unwrap_err();

    server.restart(Data::Kept).await.unwrap();
    let (_connection, channel) = connect(&server).await;
    assert_eq!(get(&channel).await.unwrap().unwrap().data, b"kept");

    let alarm = ["set_vm_memory_high_watermark", "0.000001"];
    server.ctl(&alarm).await.unwrap();
    let mut blocked = std::pin::pin!(publish(&channel, "blocked"));
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut blocked)
            .await
            .is_err()
    );
    server
        .ctl(&["set_vm_memory_high_watermark", "0.4"])
        .await
        .unwrap();
    blocked.await.unwrap();

    server.stop();
    assert!(
        tokio::time::timeout(Duration::from_millis(300), publish(&channel, "late"))
            .await
            .is_err()
    );
    server.cont();
    server.terminate().await.unwrap();

    server.restart(Data::Wiped).await.unwrap();
    let (_connection, channel) = connect(&server).await;
    get(&channel).await.unwrap_err();
    let last = server.pid();
    drop(server);
    assert!(!runs(last));
    // From the other root it is not seen where the folder is.
    assert!(generation == Generation::V4 || !folder.exists());
}

#[tokio::test]
async fn the_operators_command_reaches_the_node() {
    if skipped(RabbitMq::missing()) {
        return;
    }
    let server = RabbitMq::start().await.unwrap();
    let status = server
        .ctl(&["status", "--formatter", "json"])
        .await
        .unwrap();
    assert!(status.contains("\"alarms\""), "{status}");
    let error = server.ctl(&["dance"]).await.unwrap_err().to_string();
    assert!(error.contains("dance"), "{error}");
}
