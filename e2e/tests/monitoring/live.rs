//! A cluster under load with a real Prometheus beside it, which sees it as in Kubernetes: every panel shows something, no
//! alert that matters fires, and when something breaks the one that should does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::{Address, Incoming, Socket};
use e2e::history::Said;
use e2e::http::Http;
use e2e::process::Process;
use protocol::{ClientFrame, MessageId, RoomId, Send, Subscribe, SubscribeRoom, UserId};
use serde_json::Value;
use testbed::{Data, Mongo, Prometheus, RabbitMq, RabbitMqOptions, Redis, RedisOptions};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use ureq::Agent;

use crate::programs::programs;
use crate::{dashboards, is_missing, rules};

/// What a single condition may take.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_shows_something_and_what_breaks_is_told() {
    let needed = [
        Redis::missing(),
        RabbitMq::missing(),
        Mongo::missing(),
        Prometheus::missing(),
    ];
    let needed: Vec<&str> = needed.into_iter().flatten().collect();
    let needed = needed.join(", ");
    if is_missing((!needed.is_empty()).then_some(&needed)) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::start(folder.path()).await;
    let prometheus = Prometheus::start(&stage.config(), &[("rules.yaml", &sooner())])
        .await
        .unwrap();
    let eye = Eye::new(prometheus.addr());
    let load = stage.load().await;
    eye.reaches_all().await;

    for query in dashboards::queries() {
        eye.finds(&query).await;
    }
    eye.knows_all_names().await;
    eye.has_loaded_all_rules().await;
    let firing = eye.firing().await;
    assert!(firing.is_empty(), "all is well, and {firing:?} fire");

    stage.redis.kill();
    eye.becomes(
        "ChatDependencyDown",
        r#"{"dependency":"redis","job":"chat-service"}"#,
        true,
    )
    .await;
    eye.becomes("ChatSendsFail", "{}", true).await;
    stage.redis.restart(Data::Wiped).await.unwrap();
    eye.becomes("ChatDependencyDown", "{}", false).await;

    // A room that Redis has lost needs the worker to begin anew.
    stage.takes_messages().await;
    eye.becomes("ChatNothingStored", "{}", false).await;
    let worker = stage.process("worker");
    worker.kill().await.unwrap();
    let missing = r#"{"job":"persistence-worker","namespace":"darda"}"#;
    eye.becomes("ChatProgramMissing", missing, true).await;
    eye.becomes("ChatNothingStored", "{}", true).await;
    stage.process("worker").start().await.unwrap();
    eye.becomes("ChatProgramMissing", "{}", false).await;
    eye.becomes("ChatNothingStored", "{}", false).await;

    for task in load {
        task.abort();
    }
    for process in &mut stage.processes {
        process.terminate().await.unwrap();
    }
}

/// The rules, with less patience: what takes minutes in operation takes seconds here.
fn sooner() -> String {
    let shorter = |line: &str| {
        let (key, _) = line.split_once(':')?;
        match key.trim_start() {
            "for" => Some(format!("{key}: 3s")),
            "interval" => Some(format!("{key}: 1s")),
            _ => None,
        }
    };
    let groups = rules::groups();
    // The one that asks whether anything was stored lately.
    let groups = groups.replace(
        "rate(chat_events_appended_total[10m])",
        "rate(chat_events_appended_total[10s])",
    );
    let groups = groups.replace(
        "rate(chat_persist_events_total[10m])",
        "rate(chat_persist_events_total[10s])",
    );
    let lines = groups.lines();
    lines
        .map(|line| shorter(line).unwrap_or_else(|| line.to_owned()) + "\n")
        .collect()
}

/// Two pods, a history-service and a worker over servers of their own.
struct Stage {
    redis: Redis,
    rabbitmq: RabbitMq,
    _mongo: Mongo,
    processes: Vec<Process>,
    /// Of each process: program, name, and where operators ask.
    targets: Vec<(&'static str, &'static str, SocketAddr)>,
}

impl Stage {
    async fn start(folder: &Path) -> Self {
        let with_prometheus = RabbitMqOptions {
            prometheus: true,
            ..RabbitMqOptions::default()
        };
        let (redis, rabbitmq, mongo) = tokio::try_join!(
            Redis::start(RedisOptions::default()),
            RabbitMq::start_with(with_prometheus),
            Mongo::start(1)
        )
        .unwrap();
        let mut stage = Self {
            redis,
            rabbitmq,
            _mongo: mongo,
            processes: Vec::new(),
            targets: Vec::new(),
        };
        let servers: BTreeMap<String, String> = [
            ("DARDA_BACKEND", "cluster".to_owned()),
            ("DARDA_REDIS_URL", stage.redis.url()),
            ("DARDA_RABBITMQ_URL", stage.rabbitmq.url()),
            ("DARDA_MONGODB_URI", stage._mongo.url()),
            ("DARDA_NAMESPACE", "darda".to_owned()),
            ("DARDA_SHARDS", "2".to_owned()),
            ("DARDA_LIMIT_SENDS_PER_SEC", "1000".to_owned()),
            ("DARDA_LIMIT_SENDS_BURST", "1000".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let mut history = None;
        for (program, name) in [
            ("history-service", "history"),
            ("chat-service", "pod-0"),
            ("chat-service", "pod-1"),
            ("persistence-worker", "worker"),
        ] {
            let [a, b, c] = rand::random::<[u8; 3]>().map(|byte| byte.clamp(1, 254));
            let http = SocketAddr::from(([127, a, b, c], 18_080));
            let admin = SocketAddr::from(([127, a, b, c], 19_090));
            let mut env = servers.clone();
            env.insert("DARDA_ADMIN_ADDR".to_owned(), admin.to_string());
            let is_worker = program == "persistence-worker";
            if !is_worker {
                env.insert("DARDA_HTTP_ADDR".to_owned(), http.to_string());
                env.insert("DARDA_ALLOWED_ORIGINS".to_owned(), format!("http://{http}"));
            }
            if let Some(history) = history.filter(|_| program == "chat-service") {
                env.insert("DARDA_HISTORY_URL".to_owned(), format!("http://{history}"));
            }
            history = history.or(Some(http));
            let path = programs().path(program).unwrap();
            let listens = if is_worker { admin } else { http };
            let mut process = Process::new(name, path, env, listens, folder);
            process.spawn().unwrap();
            stage.processes.push(process);
            stage.targets.push((program, name, admin));
        }
        for process in &mut stage.processes {
            process.ready().await.unwrap();
        }
        let http = Http::default();
        for (_, name, admin) in &stage.targets {
            let admin = Address::parse(&format!("http://{admin}")).unwrap();
            let begun = Instant::now();
            while let Err(error) = http.ready(&admin).await {
                assert!(begun.elapsed() < PATIENCE, "{name}: {error}");
                sleep(POLL).await;
            }
        }
        stage
    }

    fn process(&mut self, name: &str) -> &mut Process {
        let mut all = self.processes.iter_mut();
        all.find(|process| process.name == name).unwrap()
    }

    /// The labels are those that the ServiceMonitors give, so is how RabbitMQ is asked.
    fn config(&self) -> String {
        let mut config =
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n\
            rule_files: [rules.yaml]\n\
            scrape_configs:\n"
                .to_owned();
        let programs: BTreeSet<&str> = self.targets.iter().map(|target| target.0).collect();
        for program in programs {
            config += &format!("  - job_name: {program}\n    static_configs:\n");
            for (_, pod, addr) in self.targets.iter().filter(|target| target.0 == program) {
                let labels = format!("{{namespace: darda, pod: {pod}}}");
                config += &format!("      - {{targets: [\"{addr}\"], labels: {labels}}}\n");
            }
        }
        let broker = self.rabbitmq.prometheus_addr().unwrap();
        for (name, path, parameters) in [
            ("rabbitmq", "/metrics", "{}"),
            (
                "rabbitmq-queues",
                "/metrics/detailed",
                "{vhost: [/], family: [queue_coarse_metrics]}",
            ),
        ] {
            config += &format!(
                "  - job_name: {name}\n    metrics_path: {path}\n    params: {parameters}\n    static_configs:\n\
                 \x20     - {{targets: [\"{broker}\"], labels: {{namespace: darda, pod: rabbitmq-0, job: rabbitmq}}}}\n\
                 \x20   relabel_configs:\n\
                 \x20     - {{source_labels: [__metrics_path__], target_label: metrics_path}}\n"
            );
        }
        config
    }

    fn pods(&self) -> Vec<Address> {
        self.processes[1..3].iter().map(Process::address).collect()
    }

    /// Waits until either pod does.
    async fn takes_messages(&self) {
        let (http, begun) = (Http::default(), Instant::now());
        for pod in self.pods() {
            loop {
                let message = send(&room());
                let said = http.send(&pod, &user("writer"), &room(), &message).await;
                if matches!(said, Ok(Said::Ack { .. })) {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "nobody may write: {said:?}");
                sleep(POLL).await;
            }
        }
    }

    /// People in one room, at both pods: some read, one writes at each, one looks things up.
    async fn load(&self) -> Vec<JoinHandle<()>> {
        let (room, pods) = (room(), self.pods());
        self.takes_messages().await;
        let mut tasks = Vec::new();
        for (n, pod) in pods.iter().enumerate() {
            let reader = user(&format!("reader-{n}"));
            let mut socket = subscribed(pod, &reader, &room).await;
            let (address, general) = (pod.clone(), room.clone());
            tasks.push(tokio::spawn(async move {
                loop {
                    if matches!(socket.next().await, Incoming::Closed { .. }) {
                        socket = subscribed(&address, &reader, &general).await;
                    }
                }
            }));
            let writer = user(&format!("writer-{n}"));
            let (address, general) = (pod.clone(), room.clone());
            let http = Http::default();
            tasks.push(tokio::spawn(async move {
                loop {
                    // What fails is what the alerts are to see.
                    let _ = http
                        .send(&address, &writer, &general, &send(&general))
                        .await;
                    sleep(Duration::from_millis(50)).await;
                }
            }));
        }
        let agent = agent();
        let url = pods[0].http("/v1/search?q=hello");
        tasks.push(tokio::task::spawn(async move {
            loop {
                let asked = agent.get(&url).header("x-darda-user", "reader-0");
                let asked = tokio::task::spawn_blocking(move || asked.call().map(drop));
                let _ = asked.await;
                sleep(Duration::from_millis(200)).await;
            }
        }));
        tasks
    }
}

fn room() -> RoomId {
    RoomId::parse("general").unwrap()
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn send(room: &RoomId) -> Send {
    Send {
        id: MessageId::generate(),
        room: Some(room.clone()),
        to: None,
        text: "hello".to_owned(),
        reply_to: None,
        meta: None,
    }
}

async fn subscribed(pod: &Address, user: &UserId, room: &RoomId) -> Socket {
    let begun = Instant::now();
    loop {
        let subscribe = ClientFrame::Subscribe(Subscribe {
            reference: None,
            rooms: vec![SubscribeRoom {
                room: room.clone(),
                after: None,
            }],
        });
        if let Ok(mut socket) = Socket::open(&pod.socket_as(user)).await
            && socket.send(&subscribe).await.is_ok()
        {
            return socket;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody may read");
        sleep(POLL).await;
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(5)))
        .proxy(None)
        .build();
    config.into()
}

/// Who asks Prometheus.
struct Eye {
    agent: Agent,
    base: Arc<str>,
}

impl Eye {
    fn new(addr: SocketAddr) -> Self {
        Self {
            agent: agent(),
            base: format!("http://{addr}/api/v1").into(),
        }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let mut request = self.agent.get(format!("{}/{path}", self.base));
        for (name, value) in query {
            request = request.query(name, value);
        }
        let asked = tokio::task::spawn_blocking(move || {
            let mut answer = request.call().unwrap();
            answer.body_mut().read_to_string().unwrap()
        });
        let answer: Value = serde_json::from_str(&asked.await.unwrap()).unwrap();
        assert_eq!(answer["status"], "success", "{query:?}: {answer}");
        answer["data"].clone()
    }

    /// Waits until everything is scraped.
    async fn reaches_all(&self) {
        let begun = Instant::now();
        loop {
            let answer = self.get("targets", &[]).await;
            let targets = answer["activeTargets"].as_array().unwrap();
            let mut away = targets.iter().filter(|target| target["health"] != "up");
            let Some(target) = away.next() else {
                return;
            };
            let (url, error) = (&target["scrapeUrl"], &target["lastError"]);
            assert!(begun.elapsed() < PATIENCE, "{url}: {error}");
            sleep(POLL).await;
        }
    }

    /// Waits until a query of a panel has an answer that is a number.
    async fn finds(&self, query: &dashboards::Query) {
        let expr = query
            .expr
            .replace("$namespace", "darda")
            .replace("$job", ".*")
            .replace("$pod", ".*")
            .replace("$__rate_interval", "15s")
            .replace("$__range", "60s");
        assert!(!expr.contains('$'), "{}: {expr}", query.place);
        let begun = Instant::now();
        loop {
            let answer = self.get("query", &[("query", &expr)]).await;
            let found = answer["result"].as_array().unwrap();
            let is_number = |sample: &Value| sample["value"][1] != "NaN";
            if found.iter().any(is_number) {
                return;
            }
            let waited = begun.elapsed();
            assert!(
                waited < PATIENCE,
                "{} shows nothing: {expr}: {answer}",
                query.place
            );
            sleep(POLL).await;
        }
    }

    /// Every name in a rule or a panel is one that is exported or recorded.
    async fn knows_all_names(&self) {
        let names = self.get("label/__name__/values", &[]).await;
        let names: BTreeSet<&str> = names
            .as_array()
            .unwrap()
            .iter()
            .flat_map(Value::as_str)
            .collect();
        let queries = dashboards::queries().into_iter();
        let mut texts: Vec<String> = queries.map(|query| query.expr).collect();
        let is_prose = |line: &&str| {
            let line = line.trim_start();
            ["#", "summary:", "description:", "runbook:", "- name:"]
                .iter()
                .any(|start| line.starts_with(start))
        };
        let groups = rules::groups();
        texts.extend(
            groups
                .lines()
                .filter(|line| !is_prose(line))
                .map(str::to_owned),
        );
        let mut seen = BTreeSet::new();
        for text in &texts {
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
            let is_name = |word: &&str| {
                ["chat_", "process_", "rabbitmq_", "darda:"]
                    .iter()
                    .any(|start| word.starts_with(start))
            };
            seen.extend(words.filter(is_name));
        }
        let unknown: Vec<&&str> = seen.iter().filter(|name| !names.contains(**name)).collect();
        assert!(unknown.is_empty(), "nobody exports {unknown:?}");
        assert!(seen.len() > 70, "{seen:?}");
    }

    async fn has_loaded_all_rules(&self) {
        let answer = self.get("rules", &[]).await;
        let groups = answer["groups"].as_array().unwrap();
        let all = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap());
        let mut names = BTreeSet::new();
        for rule in all {
            assert_eq!(rule["health"], "ok", "{rule}");
            if rule["type"] == "alerting" {
                names.insert(rule["name"].as_str().unwrap().to_owned());
            }
        }
        let known: BTreeSet<String> = rules::alerts().into_keys().collect();
        assert_eq!(names, known);
    }

    async fn alerts(&self) -> Vec<Value> {
        let answer = self.get("alerts", &[]).await;
        answer["alerts"].as_array().unwrap().clone()
    }

    async fn firing(&self) -> Vec<String> {
        let all = self.alerts().await;
        let firing = all.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"].to_string()).collect()
    }

    /// Waits until an alert with these labels, among others, fires or does not.
    async fn becomes(&self, name: &str, labels: &str, fires: bool) {
        let labels: BTreeMap<String, String> = serde_json::from_str(labels).unwrap();
        let begun = Instant::now();
        loop {
            let all = self.alerts().await;
            let is_it = |alert: &&Value| {
                alert["state"] == "firing"
                    && alert["labels"]["alertname"] == name
                    && labels
                        .iter()
                        .all(|(label, value)| alert["labels"][label] == value.as_str())
            };
            if all.iter().any(|alert| is_it(&alert)) == fires {
                println!("{name}: {fires} after {:?}", begun.elapsed());
                return;
            }
            let waited = begun.elapsed();
            assert!(
                waited < PATIENCE,
                "{name} {labels:?} is not {fires}: {all:?}"
            );
            sleep(POLL).await;
        }
    }
}
