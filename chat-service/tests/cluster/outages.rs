//! What goes on and what is refused while one server is away, and that everything comes back by itself. The table of
//! `docs/guarantees.md`, a test for each line. Nobody's socket is ever opened anew, and `/healthz` is good throughout.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::{ErrorCode, MessageId};
use serde_json::{Value, json};
use testbed::{Data, Mongo, RabbitMq, Redis, RedisOptions, Servers};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::metrics::value;
use crate::people::{Answer, Person, message};
use crate::stage::{Liveness, PATIENCE, Pod, SHARDS, Stage, ask, eventually, ready, redis};

const MESSAGES: &str = "/v1/rooms/general/messages";

/// Makes the room with its two members.
async fn make_room(pod: &Pod) {
    let room = json!({"id": "general", "kind": "public"});
    pod.done("POST", "/v1/rooms", "alice", room).await;
    let bob = "/v1/rooms/general/members/me";
    pod.done("PUT", bob, "bob", Value::Null).await;
}

/// Texts of the last messages, as history tells them; none while it cannot.
async fn history(pod: &Pod) -> Option<Vec<String>> {
    let (status, page) = pod.read(&format!("{MESSAGES}?limit=200"), "bob").await;
    (status == 200).then(|| {
        let items = page["items"].as_array().expect("a page").iter();
        items
            .map(|item| item["text"].as_str().unwrap_or_default().to_owned())
            .collect()
    })
}

async fn status_of_bob(pod: &Pod) -> String {
    let (_, body) = pod.read("/v1/presence?users=bob", "alice").await;
    body["items"][0]["status"].to_string()
}

/// What `/readyz` says of a dependency: whether it is well, and its breaker.
async fn said(admin: SocketAddr, dependency: &str) -> (bool, String) {
    let (_, report) = ask(admin, "GET", "/readyz", "", Value::Null).await;
    let report: Value = serde_json::from_str(&report).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == dependency);
    let check = check.unwrap_or_else(|| panic!("no {dependency} in {report}"));
    let breaker = check["breaker"].as_str().unwrap_or_default().to_owned();
    (check["ok"] == true, breaker)
}

async fn is_known_to_be_away(pod: &Pod, dependency: &str) {
    eventually("the breaker opens", async || {
        said(pod.admin, dependency).await == (false, "open".to_owned())
    })
    .await;
}

/// A send over HTTP that must be refused for the moment.
async fn is_refused_over_http(pod: &Pod) {
    let body = json!({"id": MessageId::generate().to_string(), "text": "not now"});
    let (status, problem) = ask(pod.http, "POST", MESSAGES, "alice", body).await;
    assert_eq!(status, 503, "{problem}");
    let problem: Value = serde_json::from_str(&problem).unwrap();
    assert_eq!(problem["code"], "unavailable", "{problem}");
    assert!(problem["retry_after_ms"].as_u64() > Some(0), "{problem}");
}

/// Many who send a message over HTTP, again and again until it is kept, waiting for as long as they are told.
struct Crowd(JoinSet<()>);

impl Crowd {
    const SIZE: usize = 30;

    fn sends(pod: &Pod) -> Self {
        let mut crowd = JoinSet::new();
        for number in 0..Self::SIZE {
            let addr = pod.http;
            let id = MessageId::generate().to_string();
            let body = json!({"id": id, "text": format!("one of many: {number}")});
            crowd.spawn(async move {
                let begun = Instant::now();
                loop {
                    let (status, answer) = ask(addr, "POST", MESSAGES, "alice", body.clone()).await;
                    if status < 300 {
                        return;
                    }
                    assert_eq!(status, 503, "{answer}");
                    assert!(begun.elapsed() < PATIENCE * 2, "{answer}");
                    let answer: Value = serde_json::from_str(&answer).unwrap();
                    let wait = answer["retry_after_ms"].as_u64().expect("a time to wait");
                    sleep(Duration::from_millis(wait)).await;
                }
            });
        }
        Self(crowd)
    }

    async fn ends(mut self) {
        while let Some(sent) = self.0.join_next().await {
            sent.expect("every message is kept in the end");
        }
    }
}

fn is_missing() -> bool {
    match testbed::missing() {
        Some(what) => {
            testbed::skipped(&what);
            true
        }
        None => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_sends_are_refused_and_history_is_read() {
    if is_missing() {
        return;
    }
    let own = Redis::start(RedisOptions::default()).await.unwrap();
    let stage = Stage::new(&Servers {
        redis_url: own.url(),
        ..testbed::shared().await.clone()
    });
    let worker = stage.worker();
    let pod = stage.pod(&[]).await;
    tokio::join!(pod.ready(), ready(worker.admin));
    let liveness = Liveness::watch(vec![pod.http, worker.admin]);
    make_room(&pod).await;
    let mut alice = Person::enter(&pod, "alice", 0).await;
    let mut bob = Person::enter(&pod, "bob", 0).await;
    alice.say("before").await;
    bob.hears("before").await;
    eventually("bob is online", async || {
        status_of_bob(&pod).await.contains("online")
    })
    .await;

    let refused = [message("frozen"), message("dead")];
    for (is_dead, refused) in [false, true].into_iter().zip(&refused) {
        if is_dead {
            own.kill();
        } else {
            own.stop();
        }
        for _ in 0..3 {
            alice.is_refused(refused).await;
        }
        is_refused_over_http(&pod).await;
        is_known_to_be_away(&pod, "redis").await;
        eventually("bob's status is unknown", async || {
            status_of_bob(&pod).await.contains("unknown")
        })
        .await;
        eventually("history is read", async || {
            history(&pod)
                .await
                .is_some_and(|texts| texts.contains(&"before".to_owned()))
        })
        .await;
        let crowd = Crowd::sends(&pod);
        if is_dead {
            own.restart(Data::Wiped).await.unwrap();
        } else {
            own.cont();
        }
        alice.send_all(vec![refused.clone()]).await;
        bob.hears(&refused.1).await;
        crowd.ends().await;
    }
    let info = redis(own.addr(), "INFO stats").await;
    let connections = info
        .lines()
        .find_map(|line| line.strip_prefix("total_connections_received:"))
        .and_then(|count| count.trim().parse::<usize>().ok())
        .expect("Redis counts its connections");
    assert!(connections < Crowd::SIZE, "{connections} connections");
    eventually("bob is online again", async || {
        status_of_bob(&pod).await.contains("online")
    })
    .await;
    pod.ready().await;
    liveness.was_green().await;
    pod.terminate().await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rabbitmq_nothing_is_acked_and_everything_is_read() {
    if is_missing() {
        return;
    }
    let own = RabbitMq::start().await.unwrap();
    let stage = Stage::new(&Servers {
        rabbitmq_url: own.url(),
        ..testbed::shared().await.clone()
    });
    let worker = stage.worker();
    let pod = stage.pod(&[]).await;
    tokio::join!(pod.ready(), ready(worker.admin));
    let liveness = Liveness::watch(vec![pod.http, worker.admin]);
    make_room(&pod).await;
    let mut alice = Person::enter(&pod, "alice", 0).await;
    let mut bob = Person::enter(&pod, "bob", 0).await;
    alice.say("before").await;
    bob.hears("before").await;
    for shard in 0..SHARDS {
        let queue = format!("{}.persist.shard.{shard}", stage.namespace);
        own.written(&queue).await.unwrap();
    }
    let connections = "chat_publish_connections_total";
    let connected = value(pod.admin, connections).await.unwrap_or(0.0);

    let refused = [message("dead"), message("blocked")];
    for (is_blocked, refused) in [false, true].into_iter().zip(&refused) {
        if is_blocked {
            watermark(&own, "0.000001").await;
        } else {
            own.kill();
        }
        for _ in 0..3 {
            alice.is_refused(refused).await;
        }
        is_refused_over_http(&pod).await;
        eventually("/readyz says so", async || {
            !said(pod.admin, "rabbitmq").await.0
        })
        .await;
        eventually("the publisher knows", async || {
            let is_blocked = value(pod.admin, "chat_publish_blocked").await == Some(1.0);
            is_blocked || said(pod.admin, "rabbitmq").await.1 == "open"
        })
        .await;
        helps_nobody(&pod).await;
        // What was acknowledged is read and resumed; what was not is shown to nobody.
        let texts = history(&pod).await.expect("history is read");
        assert!(texts.contains(&"before".to_owned()), "{texts:?}");
        assert!(!texts.contains(&refused.1), "{texts:?}");
        let mut late = Person::enter(&pod, "bob", 0).await;
        late.hears("before").await;
        let crowd = Crowd::sends(&pod);
        if is_blocked {
            watermark(&own, "0.4").await;
        } else {
            own.restart(Data::Kept).await.unwrap();
        }
        alice.send_all(vec![refused.clone()]).await;
        bob.hears(&refused.1).await;
        late.hears(&refused.1).await;
        crowd.ends().await;
    }
    let made = value(pod.admin, connections).await.unwrap() - connected;
    assert!(made <= 5.0, "{made} connections for one outage");
    pod.ready().await;
    let texts = history(&pod).await.expect("history is read");
    assert_eq!(texts.len(), 3 + 2 * Crowd::SIZE, "each once: {texts:?}");
    liveness.was_green().await;
    pod.terminate().await;
    worker.end().await;
}

/// Reads a room with events that wait for the broker: they must not be put into the publisher's queue again and again.
async fn helps_nobody(pod: &Pod) {
    let helped = async || value(pod.admin, "chat_log_helped_total").await.unwrap();
    let before = helped().await;
    for _ in 0..20 {
        history(pod).await;
        // Longer, in all, than a reader leaves to others before it helps.
        sleep(Duration::from_millis(100)).await;
    }
    // One may have been under way.
    let more = helped().await - before;
    assert!(more <= 1.0, "{more} events were published for others");
}

/// Below what a node needs by itself it has no memory for messages.
async fn watermark(rabbitmq: &RabbitMq, share: &str) {
    let command = ["set_vm_memory_high_watermark", share];
    rabbitmq.ctl(&command).await.unwrap();
}

/// Events of a room that may wait to be stored.
const BACKLOG: usize = 300;
/// Stored events that Redis keeps.
const CACHED: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn without_mongodb_members_go_on_until_too_much_waits() {
    if is_missing() {
        return;
    }
    let (own, own_redis) =
        tokio::try_join!(Mongo::start(1), Redis::start(RedisOptions::default())).unwrap();
    let stage = Stage::new(&Servers {
        mongodb_uri: own.url(),
        redis_url: own_redis.url(),
        ..testbed::shared().await.clone()
    });
    let worker = stage.worker();
    let backlog = BACKLOG.to_string();
    let pod = stage.pod(&[("DARDA_LIMIT_BACKLOG", &backlog)]).await;
    tokio::join!(pod.ready(), ready(worker.admin));
    let liveness = Liveness::watch(vec![pod.http, worker.admin]);
    make_room(&pod).await;
    let mut alice = Person::enter(&pod, "alice", 0).await;
    let mut bob = Person::enter(&pod, "bob", 0).await;
    let mut kept = Vec::new();
    let head = format!("{}:room:{{general}}:head", stage.namespace);
    while kept.len() < CACHED + 100 {
        let chunk = (0..100).map(|_| message(&format!("old {}", MessageId::generate())));
        let chunk: Vec<_> = chunk.collect();
        kept.extend(chunk.iter().map(|(_, text)| text.clone()));
        alice.send_all(chunk).await;
        // None is refused because too much waits: what is sent again comes behind others.
        eventually("all is stored", async || {
            let seq = redis(own_redis.addr(), &format!("HGET {head} seq")).await;
            seq == redis(own_redis.addr(), &format!("HGET {head} persisted")).await
        })
        .await;
    }
    bob.hears(kept.last().unwrap()).await;
    eventually("Redis lets go of the oldest", async || {
        let base = redis(own_redis.addr(), &format!("HGET {head} base")).await;
        base.parse::<u64>().is_ok_and(|base| base > 50)
    })
    .await;

    own.kill();
    is_known_to_be_away(&pod, "mongodb").await;
    // Those who have used the room talk on, and a new connection of theirs resumes.
    alice.say("live").await;
    bob.hears("live").await;
    kept.push("live".to_owned());
    let mut late = Person::enter(&pod, "bob", bob.position() - 20).await;
    alice.say("resumed").await;
    late.hears("resumed").await;
    bob.hears("resumed").await;
    kept.push("resumed".to_owned());
    let older = "/v1/rooms/general/events?after=1&limit=10";
    let (status, problem) = pod.read(older, "bob").await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")));
    assert!(problem["retry_after_ms"].as_u64() > Some(0), "{problem}");
    let newest = format!("/v1/rooms/general/events?after={}", bob.position() - 20);
    let (status, page) = pod.read(&newest, "bob").await;
    assert_eq!(status, 200, "{page}");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(20), "{page}");

    let mut refused = Vec::new();
    let mut sent = 0;
    while refused.is_empty() {
        assert!(sent <= BACKLOG, "{sent} wait, and nobody is told");
        let chunk = (0..50).map(|_| message(&format!("waits {}", MessageId::generate())));
        let chunk: Vec<_> = chunk.collect();
        let answers = alice.try_send(&chunk).await;
        for (message, answer) in chunk.into_iter().zip(answers) {
            match answer {
                Answer::Ack => {
                    sent += 1;
                    kept.push(message.1);
                }
                Answer::Refused(error) => {
                    assert_eq!(error.code, ErrorCode::Overloaded, "{error:?}");
                    assert!(error.retry_after_ms.is_some(), "{error:?}");
                    refused.push(message);
                }
            }
        }
    }

    own.restart(Data::Kept).await.unwrap();
    kept.extend(refused.iter().map(|(_, text)| text.clone()));
    alice.send_all(refused).await;
    bob.hears(kept.last().unwrap()).await;
    pod.ready().await;
    let stored = async || {
        all(&pod)
            .await
            .is_some_and(|texts| texts.len() == kept.len())
    };
    eventually("all is read", stored).await;
    assert_eq!(all(&pod).await.unwrap(), kept);
    assert_eq!(bob.heard, kept);
    liveness.was_green().await;
    pod.terminate().await;
    worker.end().await;
}

/// Texts of all messages, from the log; none while it cannot be read.
async fn all(pod: &Pod) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    let mut after = 0;
    loop {
        let path = format!("/v1/rooms/general/events?after={after}&limit=200");
        let (status, page) = pod.read(&path, "bob").await;
        if status != 200 {
            return None;
        }
        let items = page["items"].as_array().expect("a page");
        let Some(last) = items.last() else {
            return Some(texts);
        };
        after = last["seq"].as_u64().expect("a seq");
        let messages = items.iter().filter_map(|item| item["text"].as_str());
        texts.extend(messages.map(str::to_owned));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_history_service_chat_goes_on() {
    if is_missing() {
        return;
    }
    let stage = Stage::new(testbed::shared().await);
    let behind = stage.history(None).await;
    let (addr, url) = (behind.http, behind.url());
    let pod = stage.pod(&[("DARDA_HISTORY_URL", &url)]).await;
    pod.ready().await;
    let liveness = Liveness::watch(vec![pod.http]);
    make_room(&pod).await;
    let mut alice = Person::enter(&pod, "alice", 0).await;
    let mut bob = Person::enter(&pod, "bob", 0).await;
    alice.say("before").await;
    bob.hears("before").await;
    assert_eq!(history(&pod).await, Some(vec!["before".to_owned()]));

    behind.end().await;
    let (status, problem) = pod.read(MESSAGES, "bob").await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")));
    assert!(problem["retry_after_ms"].as_u64() > Some(0), "{problem}");
    alice.say("during").await;
    bob.hears("during").await;
    let mut late = Person::enter(&pod, "bob", 0).await;
    late.hears("during").await;
    let (status, report) = ask(pod.admin, "GET", "/readyz", "", Value::Null).await;
    assert_eq!(status, 200, "a front door without history is one: {report}");

    let behind = stage.history(Some(addr)).await;
    let both = vec!["before".to_owned(), "during".to_owned()];
    eventually("history is read again", async || {
        history(&pod).await.as_ref() == Some(&both)
    })
    .await;
    liveness.was_green().await;
    pod.terminate().await;
    behind.end().await;
}
