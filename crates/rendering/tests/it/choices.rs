//! The main values of the chart, and what they may be.

use rendering::pairs::{Case, Choice, merge};
use rendering::rules::Expected;
use serde_json::Value;

const fn choice(name: &'static str, ways: &'static [(&'static str, &'static str)]) -> Choice {
    Choice { name, ways }
}

pub const CHOICES: &[Choice] = &[
    choice(
        "redis",
        &[
            ("bundled", "{}"),
            (
                "bundled-tls",
                "redis: {tls: {enabled: true, secretName: redis-tls}}",
            ),
            (
                "url",
                "redis: {bundled: false, external: {url: 'redis://u:p@redis.example:6379'}}",
            ),
            (
                "url-tls",
                "redis: {bundled: false, external: {url: 'rediss://u:p@redis.example:6380'}, tls: {enabled: true, verify: false}}",
            ),
            (
                "secret",
                "redis: {bundled: false, external: {existingSecret: {name: my-redis, key: url}}}",
            ),
            (
                "secret-tls",
                "redis: {bundled: false, external: {existingSecret: {name: my-redis}}, tls: {enabled: true, secretName: redis-tls}}",
            ),
        ],
    ),
    choice(
        "rabbitmq",
        &[
            ("bundled", "{}"),
            (
                "bundled-tls",
                "rabbitmq: {tls: {enabled: true, secretName: rabbitmq-tls}}",
            ),
            (
                "url",
                "rabbitmq: {bundled: false, external: {url: 'amqp://u:p@rabbitmq.example:5672/darda'}}",
            ),
            (
                "url-tls",
                "rabbitmq: {bundled: false, external: {url: 'amqps://u:p@rabbitmq.example/darda'}, tls: {enabled: true}}",
            ),
            (
                "secret",
                "rabbitmq: {bundled: false, external: {existingSecret: {name: my-rabbitmq, key: url}}}",
            ),
            (
                "secret-tls",
                "rabbitmq: {bundled: false, external: {existingSecret: {name: my-rabbitmq}}, tls: {enabled: true, secretName: rabbitmq-tls, verify: false}}",
            ),
        ],
    ),
    choice(
        "mongodb",
        &[
            ("bundled", "{}"),
            (
                "bundled-tls",
                "mongodb: {tls: {enabled: true, secretName: mongodb-tls}}",
            ),
            (
                "url",
                "mongodb: {bundled: false, external: {url: 'mongodb+srv://u:p@mongodb.example/darda'}}",
            ),
            (
                "url-tls",
                "mongodb: {bundled: false, external: {url: 'mongodb://u:p@mongodb.example/darda?tls=true'}, tls: {enabled: true}}",
            ),
            (
                "secret",
                "mongodb: {bundled: false, external: {existingSecret: {name: my-mongodb, key: url}}}",
            ),
            (
                "secret-tls",
                "mongodb: {bundled: false, external: {existingSecret: {name: my-mongodb}}, tls: {enabled: true, secretName: mongodb-tls}}",
            ),
        ],
    ),
    choice(
        "passwords",
        &[("made", "{}"), ("given", "existingSecret: my-passwords")],
    ),
    choice(
        "rabbitmq-nodes",
        &[
            ("1", "{}"),
            ("3", "rabbitmq: {replicas: 3}"),
            ("5", "rabbitmq: {replicas: 5}"),
        ],
    ),
    choice(
        "mongodb-members",
        &[
            ("1", "{}"),
            ("3", "mongodb: {replicas: 3}"),
            ("5", "mongodb: {replicas: 5, cacheGiB: 2}"),
        ],
    ),
    choice(
        "history",
        &[("on", "{}"), ("off", "historyService: {enabled: false}")],
    ),
    choice(
        "scaling",
        &[
            ("no", "{}"),
            ("cpu", "chatService: {autoscaling: {enabled: true}}"),
            (
                "connections",
                "{chatService: {autoscaling: {enabled: true, targetConnections: 5000}}, historyService: {autoscaling: {enabled: true}}}",
            ),
        ],
    ),
    choice(
        "keda",
        &[
            ("no", "{}"),
            ("yes", "persistenceWorker: {keda: {enabled: true}}"),
        ],
    ),
    choice(
        "budgets",
        &[
            ("on", "{}"),
            (
                "half",
                "chatService: {podDisruptionBudget: {maxUnavailable: 50%}}",
            ),
            (
                "off",
                "{chatService: &off {podDisruptionBudget: {enabled: false}}, historyService: *off, persistenceWorker: *off, rabbitmq: *off, mongodb: *off}",
            ),
        ],
    ),
    choice(
        "monitoring",
        &[
            ("no", "{}"),
            (
                "monitors",
                "monitoring: {serviceMonitor: {enabled: true, labels: {release: p}}}",
            ),
            (
                "rules",
                "monitoring: {prometheusRule: {enabled: true, labels: {release: p}}}",
            ),
            (
                "all",
                "monitoring: {serviceMonitor: {enabled: true, interval: 1m}, prometheusRule: {enabled: true}, dashboards: {enabled: true, annotations: {folder: Chat}}}",
            ),
        ],
    ),
    choice(
        "ingress",
        &[
            ("no", "{}"),
            (
                "plain",
                "ingress: {enabled: true, hosts: [chat.example.org], annotations: {}}",
            ),
            (
                "tls",
                "ingress: {enabled: true, className: nginx, hosts: [chat.example.org, talk.example.org], tls: [{secretName: chat-tls, hosts: [chat.example.org]}]}",
            ),
        ],
    ),
    choice(
        "route",
        &[
            ("no", "{}"),
            (
                "yes",
                "httpRoute: {enabled: true, parentRefs: [{name: gateway, namespace: gateways}], hostnames: [chat.example.org], annotations: {a: b}, timeouts: {request: 30s}}",
            ),
            (
                "no-timeouts",
                "httpRoute: {enabled: true, parentRefs: [{name: gateway}], hostnames: [chat.example.org], scheme: http, timeouts: {socket: ''}}",
            ),
        ],
    ),
    choice(
        "policies",
        &[
            ("on", "{}"),
            ("off", "networkPolicy: {enabled: false}"),
            (
                "named",
                "networkPolicy: {clients: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}], metrics: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: observability}}}], extraEgress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{protocol: TCP, port: 4317}]}]}",
            ),
        ],
    ),
    choice(
        "volumes",
        &[
            ("kept", "{}"),
            (
                "deleted",
                "{redis: &p {persistence: {deleteOnUninstall: true, storageClass: fast, size: 1Gi}}, rabbitmq: *p, mongodb: *p}",
            ),
        ],
    ),
    choice(
        "jobs",
        &[
            ("both", "{}"),
            ("no-tests", "tests: {enabled: false}"),
            ("no-bootstrap", "bootstrap: {enabled: false}"),
        ],
    ),
    choice(
        "spread",
        &[
            ("wish", "{}"),
            ("must", "topologySpread: {whenUnsatisfiable: DoNotSchedule}"),
            ("no", "topologySpread: {enabled: false}"),
        ],
    ),
    choice(
        "images",
        &[
            ("plain", "{}"),
            (
                "registry",
                "image: {registry: 'registry.example.org:5000/team/', tag: 1.2.3, pullPolicy: Always, pullSecrets: [{name: pull}]}",
            ),
            (
                "digest",
                "chatService: {image: {digest: 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}}",
            ),
        ],
    ),
    choice(
        "names",
        &[
            ("release", "{}"),
            (
                "full",
                "fullnameOverride: a-name-that-is-far-too-long-to-be-taken-as-it-is",
            ),
            ("chart", "nameOverride: talk"),
        ],
    ),
    choice(
        "placement",
        &[
            ("anywhere", "{}"),
            (
                "said",
                "{chatService: &at {nodeSelector: {disk: ssd}, tolerations: [{key: chat, operator: Exists}], affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: fast, operator: Exists}]}}]}}, priorityClassName: high, podAnnotations: {sidecar: 'no'}}, historyService: *at, persistenceWorker: *at, redis: *at, rabbitmq: *at, mongodb: *at, bootstrap: {nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}]}}",
            ),
            (
                "extras",
                "{chatService: &more {extraEnv: [{name: RUST_BACKTRACE, value: '1'}], podLabels: {team: chat}}, historyService: *more, persistenceWorker: *more, serviceAccount: {annotations: {a: b}}}",
            ),
        ],
    ),
    choice(
        "settings",
        &[
            ("default", "{}"),
            (
                "all",
                "{namespace: other, shards: 16, backlogMax: 5, log: {level: debug, format: text}, chatService: {allowedOrigins: ['https://page.example.org'], httpWorkers: 2, heartbeatSeconds: 60, limits: {FRAME_BYTES: 70000, TEXT_BYTES: 1000, SUBSCRIPTIONS: 1, CONNECTIONS_PER_USER: 2, SENDS_PER_SEC: 3, SENDS_BURST: 4, JOINS_PER_SEC: 5, HELLO_SECS: 6}}, redis: {maxmemory: 1gb}, rabbitmq: {memoryHighWatermark: 1GB, diskFreeLimit: 2GB}}",
            ),
        ],
    ),
    choice(
        "leaving",
        &[
            ("default", "{}"),
            (
                "long",
                "{chatService: {preStopSeconds: 30, drainSeconds: 300, terminationGracePeriodSeconds: 340}, historyService: {preStopSeconds: 30, terminationGracePeriodSeconds: 45}, persistenceWorker: {drainSeconds: 60, terminationGracePeriodSeconds: 65}}",
            ),
            (
                "at-once",
                "{chatService: {preStopSeconds: 0}, historyService: {preStopSeconds: 0}}",
            ),
        ],
    ),
    choice(
        "service",
        &[
            ("inside", "{}"),
            (
                "balancer",
                "chatService: {service: {type: LoadBalancer, port: 80, annotations: {a: b}, appProtocol: kubernetes.io/ws}}",
            ),
            (
                "node",
                "chatService: {replicas: 1, service: {type: NodePort, appProtocol: ''}}",
            ),
        ],
    ),
];

/// What stands together must not be refused; `refusals` has what is.
pub fn may_meet(choices: &[Choice], case: &Case) -> bool {
    let url = |server| way(choices, case, server).starts_with("url");
    way(choices, case, "passwords") == "made"
        || !["redis", "rabbitmq", "mongodb"].into_iter().any(url)
}

/// The way that a choice goes.
pub fn way(choices: &[Choice], case: &Case, name: &str) -> &'static str {
    let index = choices.iter().position(|choice| choice.name == name);
    index.map_or("", |index| choices[index].ways[case[index]].0)
}

/// The values that make it so.
pub fn values(case: &Case) -> Value {
    let mut values = read("auth: {mode: open}");
    for (choice, way) in CHOICES.iter().zip(case) {
        merge(&mut values, read(choice.ways[*way].1));
    }
    values
}

pub fn read(yaml: &str) -> Value {
    let mut documents =
        rendering::objects::documents(yaml).unwrap_or_else(|e| panic!("{yaml}: {e}"));
    documents.remove(0)
}

/// What may be taken for granted then.
pub fn expected(case: &Case) -> Expected {
    let way = |name| way(CHOICES, case, name);
    let servers = ["redis", "rabbitmq", "mongodb"];
    let mut secrets = Vec::new();
    for server in servers {
        let way = way(server);
        if way.starts_with("secret") {
            secrets.push(format!("my-{server}"));
        }
        if way == "bundled-tls" || way == "secret-tls" {
            secrets.push(format!("{server}-tls"));
        }
    }
    if way("passwords") == "given" {
        secrets.push("my-passwords".to_owned());
    }
    Expected {
        secrets: secrets.into_iter().collect(),
        without_policies: way("policies") == "off",
        named_clients: way("policies") == "named",
        metrics_namespace: (way("policies") == "named").then_some("observability"),
        external_servers: servers
            .into_iter()
            .any(|server| !self::way(CHOICES, case, server).starts_with("bundled")),
        ..Expected::default()
    }
}
