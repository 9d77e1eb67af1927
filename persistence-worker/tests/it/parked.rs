//! What cannot be stored is parked, and a person decides.

use backend::cluster::envelope;
use backend::cluster::parked::{Lot, Unfit};
use protocol::{Event, EventBody};

use super::bench::{Bench, message, messages, room, seq, until, with_bench};

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_parked_and_its_place_is_kept() {
    with_bench(async |bench: Bench| {
        let general = room("general");
        bench.open_room(&general, 10).await;
        let worker = bench.worker().await.ready().await;
        let events = messages(&general, 1..=10);
        let mut body = Vec::new();
        envelope::push(&mut body, &events[0]);
        // Something newer than this program, and something that is nothing.
        body.extend(br#"{"type":"event","room":"general","seq":2,"prev":1,"at":"2026-11-21T11:00:00.000Z","kind":"hologram","secret":1}"#);
        body.extend(b"\n\xff\xfe\n");
        envelope::push(&mut body, &events[2]);
        bench.publish_body(&general, &body).await;
        bench.stored_count(&general, 3).await;
        // Other content at a place that is taken, and an act at a second place.
        let clash = message(&general, 3);
        let moved = Event {
            seq: seq(4),
            prev: Some(seq(3)),
            ..events[0].clone()
        };
        bench.publish(&general, &[clash.clone(), moved.clone()]).await;
        bench.publish(&general, &events[4..]).await;
        bench.stored_count(&general, 10).await;
        let stored = bench.stored(&general).await;
        assert_eq!(stored[2], events[2]);
        for place in [1, 3] {
            assert_eq!(stored[place].body, EventBody::Void {});
            assert_eq!(stored[place].prev, Some(seq(place as u64)));
        }
        assert_eq!(stored[1].at.to_string(), "2026-11-21T11:00:00.000Z");
        until("the mark", async || bench.mark(&general).await == 10).await;
        assert_eq!(worker.metric("chat_parked_total").await, 4.0);
        assert_eq!(worker.metric("chat_log_violations_total").await, 2.0);

        let (ok, text) = bench.parked(&["list"]).await;
        assert!(ok, "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
        for reason in ["unknown variant `hologram`", "its place holds another event", "its act has another place", "no event"] {
            assert!(text.contains(reason), "{text}");
        }
        let hologram = text.lines().find(|line| line.contains("hologram")).unwrap();
        assert!(hologram.contains("  general  2  "), "{hologram}");
        let id = hologram.split_whitespace().next().unwrap();
        let (ok, text) = bench.parked(&["show", id]).await;
        assert!(ok && text.contains("\"secret\":1"), "{text}");
        let (ok, text) = bench.parked(&["drop", id]).await;
        assert!(ok && text.starts_with("dropped: "), "{text}");
        let (ok, text) = bench.parked(&["show", id]).await;
        assert!(!ok && text.contains("nothing with id"), "{text}");
        let (_, text) = bench.parked(&["list"]).await;
        assert_eq!(text.lines().count(), 3, "{text}");

        // Sent again without a change they come back, and the queue goes on.
        let (ok, text) = bench.parked(&["replay", "--all"]).await;
        assert!(!ok && text.contains("1 cannot be sent"), "{text}");
        assert_eq!(text.matches("sent again").count(), 2, "{text}");
        until("both are parked again", async || {
            worker.metric("chat_parked_total").await == 6.0
        })
        .await;
        assert_eq!(bench.stored(&general).await, stored);
        worker.stop().await;
    })
    .await;
}

/// An event whose place was kept takes it when it is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_parked_event_is_sent_again() {
    with_bench(async |bench: Bench| {
        let general = room("general");
        let worker = bench.worker().await.ready().await;
        let events = messages(&general, 1..=3);
        bench.publish(&general, &events[..1]).await;
        bench
            .publish_body(
                &general,
                br#"{"room":"general","seq":2,"prev":1,"kind":"hologram"}"#,
            )
            .await;
        bench.publish(&general, &events[2..]).await;
        bench.stored_count(&general, 3).await;
        assert_eq!(bench.stored(&general).await[1].body, EventBody::Void {});
        // A later version understands the line.
        let lot = Lot::new(&bench.settings.broker());
        let unfit = Unfit {
            line: protocol::encode_event(&events[1]),
            reason: "not understood".to_owned(),
            room: Some(general.clone()),
            seq: Some(seq(2)),
        };
        lot.park(&unfit).await.unwrap();
        let parked = lot.list(10).await.unwrap();
        assert_eq!(parked.len(), 2);
        assert_eq!(parked[1].unfit, unfit);
        let (ok, text) = bench.parked(&["replay", &parked[1].id]).await;
        assert!(ok && text.contains("sent again"), "{text}");
        until("the event has its place", async || {
            bench.stored(&general).await == events
        })
        .await;
        assert_eq!(lot.list(10).await.unwrap().len(), 1);

        // What is no void of that kind is not replaced.
        let other = message(&general, 3);
        let unfit = Unfit {
            line: protocol::encode_event(&other),
            ..unfit
        };
        lot.park(&unfit).await.unwrap();
        lot.replay(Some(&lot.list(10).await.unwrap()[1].id))
            .await
            .unwrap();
        until("a violation", async || {
            worker.metric("chat_log_violations_total").await == 1.0
        })
        .await;
        assert_eq!(bench.stored(&general).await, events);
        worker.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told() {
    with_bench(async |bench: Bench| {
        let (ok, text) = bench.parked(&["list"]).await;
        assert!(ok && text == "nothing is parked\n", "{text}");
        let (ok, text) = bench.parked(&["replay", "--all"]).await;
        assert!(ok && text == "nothing is parked\n", "{text}");
        let (ok, text) = bench.parked(&["replay", "x"]).await;
        assert!(!ok && text.contains("nothing with id x"), "{text}");
        let (ok, text) = bench.parked(&["explode"]).await;
        assert!(!ok && text.contains("Usage:"), "{text}");
        let (ok, text) = bench.parked(&[]).await;
        assert!(ok && text.contains("Usage:"), "{text}");
    })
    .await;
}
