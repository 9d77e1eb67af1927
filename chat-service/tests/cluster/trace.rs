//! What became of a message, over real servers.

use protocol::{ClientFrame, Position, Seq};
use serde_json::{Value, json};

use crate::people::{Person, general, message};
use crate::stage::{Pod, Stage, eventually, ready};

async fn trace(pod: &Pod, id: &str, user: &str) -> (u16, Value) {
    pod.read(&format!("/v1/trace/{id}"), user).await
}

fn step<'a>(way: &'a Value, name: &str) -> &'a Value {
    let mut steps = way["items"][0]["steps"].as_array().unwrap().iter();
    let step = steps.find(|step| step["step"] == name);
    step.unwrap_or_else(|| panic!("no {name} in {way}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_followed_from_its_append_to_its_readers() {
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return;
    }
    let stage = Stage::new(testbed::shared().await);
    let history = stage.history(None).await;
    let url = history.url();
    let forwarding = [("DARDA_HISTORY_URL", url.as_str())];
    let (here, there) = tokio::join!(stage.pod(&forwarding), stage.pod(&[]));
    tokio::join!(here.ready(), there.ready());
    let room = json!({"id": "general", "kind": "public"});
    here.done("POST", "/v1/rooms", "alice", room).await;
    there
        .done("PUT", "/v1/rooms/general/members/me", "bob", Value::Null)
        .await;
    let mut alice = Person::enter(&here, "alice", 0).await;
    let mut bob = Person::enter(&there, "bob", 0).await;
    let sent = message("hello");
    let id = sent.0.to_string();
    alice.send_all(vec![sent]).await;
    bob.hears("hello").await;

    // Nobody stores it yet: there is no worker.
    let (status, way) = trace(&here, &id, "alice").await;
    assert_eq!(status, 200, "{way}");
    assert_eq!(step(&way, "confirmed")["done"], true, "{way}");
    assert_eq!(step(&way, "persisted")["done"], false, "{way}");

    let worker = stage.worker();
    ready(worker.admin).await;
    eventually("it is stored, and told so to both", async || {
        let is_done = async |pod, user| {
            let (status, way) = trace(pod, &id, user).await;
            status == 200 && step(&way, "persisted")["done"] == true
        };
        is_done(&here, "bob").await && is_done(&there, "alice").await
    })
    .await;
    let (_, way) = trace(&here, &id, "bob").await;
    let item = &way["items"][0];
    assert_eq!(
        (&item["room"], &item["from"], &item["kind"]),
        (&json!("general"), &json!("alice"), &json!("message")),
        "{way}"
    );
    let text = |name: &str, field: &str| step(&way, name)[field].as_str().map(str::to_owned);
    // RFC 3339 of the same length: the order of the texts is that of the times.
    let times = ["published", "confirmed", "persisted"].map(|name| text(name, "at").unwrap());
    assert!(times.is_sorted(), "{way}");
    assert!(text("appended", "at").is_some(), "{way}");
    let name = |metrics: &str| {
        let (_, rest) = metrics.split_once("chat_pod_info{pod=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    let publisher = name(&crate::metrics::scrape(here.admin).await);
    assert_eq!(text("published", "by"), Some(publisher));
    let stored_by = name(&crate::metrics::scrape(worker.admin).await);
    assert_eq!(text("persisted", "by"), Some(stored_by));
    let reader = name(&crate::metrics::scrape(there.admin).await);
    let pods = step(&way, "relayed")["pods"].as_array().unwrap();
    assert!(pods.contains(&json!(reader)), "{way}");
    assert_eq!(step(&way, "received")["of"], 1, "{way}");

    let position = Position {
        room: general(),
        seq: Seq::new(bob.position()).unwrap(),
    };
    bob.tell(&ClientFrame::Read(position)).await;
    eventually("bob has read it", async || {
        let (status, way) = trace(&here, &id, "alice").await;
        status == 200 && step(&way, "read")["users"] == json!(["bob"])
    })
    .await;

    let (status, problem) = trace(&here, &id, "mallory").await;
    assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
    let unknown = message("").0.to_string();
    let (status, same) = trace(&here, &unknown, "alice").await;
    assert_eq!(
        (status, &same["title"], &same["detail"]),
        (404, &problem["title"], &problem["detail"])
    );
    tokio::join!(here.terminate(), there.terminate());
    history.end().await;
    worker.end().await;
}
