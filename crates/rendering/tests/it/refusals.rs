//! Values that cannot be right are refused before anything is applied, in words that say what would be.

use rendering::pairs::merge;
use rendering::tools;

use crate::chart::template;
use crate::choices::read;

/// Values, and what the refusal has to say.
const REFUSED: &[(&str, &str)] = &[
    (
        "auth: {mode: ''}",
        "If that is what you want here, say so: --set auth.mode=open",
    ),
    ("auth: {mode: oidc}", "auth"),
    ("typo: true", "typo"),
    ("chatService: {replica: 3}", "replica"),
    ("redis: {tls: {enable: true}}", "enable"),
    (
        "chatService: {terminationGracePeriodSeconds: 34}",
        "chatService.terminationGracePeriodSeconds is 34, but leaving takes up to 35 seconds",
    ),
    (
        "chatService: {drainSeconds: 60}",
        "Raise it to 75, or lower the others",
    ),
    ("chatService: {preStopSeconds: 601}", "preStopSeconds"),
    (
        "historyService: {preStopSeconds: 20}",
        "historyService.terminationGracePeriodSeconds is 30, but leaving takes up to 35 seconds",
    ),
    (
        "persistenceWorker: {drainSeconds: 30}",
        "persistenceWorker.terminationGracePeriodSeconds is 30, but leaving takes up to 35 seconds",
    ),
    (
        "rabbitmq: {replicas: 3, terminationGracePeriodSeconds: 60}",
        "rabbitmq.terminationGracePeriodSeconds is 60, but leaving takes up to 100 seconds",
    ),
    (
        "persistenceWorker: {keda: {enabled: true, maxReplicas: 9}}",
        "but there are 8 shards",
    ),
    (
        "persistenceWorker: {keda: {enabled: true, minReplicas: 5}}",
        "persistenceWorker.keda.maxReplicas (4) is below",
    ),
    (
        "chatService: {autoscaling: {enabled: true, minReplicas: 11}}",
        "autoscaling.maxReplicas (10) is below autoscaling.minReplicas (11)",
    ),
    (
        "historyService: {autoscaling: {enabled: true, maxReplicas: 1}}",
        "autoscaling.maxReplicas (1) is below autoscaling.minReplicas (2)",
    ),
    (
        "chatService: {podDisruptionBudget: {maxUnavailable: '0%'}}",
        "maxUnavailable",
    ),
    (
        "chatService: {limits: {TEXT_BYTES: 65000}}",
        "chatService.limits.TEXT_BYTES is 65000, which has to be at least 1024 below FRAME_BYTES (65536)",
    ),
    (
        "ingress: {enabled: true, hosts: ['*.example.org']}",
        "list their origins in chatService.allowedOrigins",
    ),
    (
        "redis: {external: {url: 'redis://h:1'}}",
        "redis.external is set, but redis.bundled is true: the one or the other",
    ),
    (
        "rabbitmq: {external: {existingSecret: {name: mine}}}",
        "rabbitmq.external is set, but rabbitmq.bundled is true",
    ),
    (
        "mongodb: {bundled: false}",
        "mongodb.bundled is false, so mongodb.external.existingSecret.name, mongodb.external.url or existingSecret has to say where it is",
    ),
    (
        "redis: {tls: {enabled: true}}",
        "redis.tls.enabled needs redis.tls.secretName",
    ),
    (
        "redis: {bundled: false, external: {url: 'http://h'}}",
        "redis.external.url has to begin with redis://",
    ),
    (
        "rabbitmq: {bundled: false, external: {url: 'https://h'}}",
        "rabbitmq.external.url has to begin with amqp://",
    ),
    (
        "mongodb: {bundled: false, external: {url: 'mongodbs://h'}}",
        "mongodb.external.url has to begin with mongodb://",
    ),
    (
        "rabbitmq: {bundled: false, external: {url: 'amqp://h'}, tls: {enabled: true}}",
        "does not ask for TLS: it would begin with amqps://",
    ),
    (
        "{existingSecret: mine, redis: {bundled: false, external: {url: 'redis://h:1'}}}",
        "redis.external.url is set together with existingSecret",
    ),
    (
        "ingress: {enabled: true}",
        "ingress.enabled needs ingress.hosts",
    ),
    (
        "ingress: {enabled: true, hosts: ['https://chat.example.org']}",
        "hosts",
    ),
    (
        "httpRoute: {enabled: true, hostnames: [chat.example.org]}",
        "httpRoute.enabled needs httpRoute.parentRefs",
    ),
    (
        "httpRoute: {enabled: true, parentRefs: [{name: g}]}",
        "httpRoute.enabled needs httpRoute.parentRefs",
    ),
    ("httpRoute: {timeouts: {socket: never}}", "socket"),
    ("mongodb: {replicas: 2}", "replicas"),
    ("rabbitmq: {replicas: 4}", "replicas"),
    ("shards: 0", "shards"),
    ("shards: 257", "shards"),
    ("namespace: 'with space'", "namespace"),
    ("fullnameOverride: Upper", "fullnameOverride"),
    ("backlogMax: 0", "backlogMax"),
    ("log: {format: xml}", "format"),
    ("image: {pullPolicy: Sometimes}", "pullPolicy"),
    ("chatService: {image: {repository: ''}}", "repository"),
    ("chatService: {image: {digest: abc}}", "digest"),
    (
        "chatService: {allowedOrigins: ['https://chat.example.org/page']}",
        "allowedOrigins",
    ),
    ("chatService: {limits: {SENDS: 5}}", "SENDS"),
    ("chatService: {heartbeatSeconds: 0}", "heartbeatSeconds"),
    (
        "chatService: {podDisruptionBudget: {maxUnavailable: 0}}",
        "maxUnavailable",
    ),
    ("chatService: {service: {port: 70000}}", "port"),
    ("mongodb: {persistence: {size: large}}", "size"),
    ("mongodb: {cacheGiB: 0.1}", "cacheGiB"),
    ("redis: {maxmemory: a lot}", "maxmemory"),
    (
        "rabbitmq: {memoryHighWatermark: half}",
        "memoryHighWatermark",
    ),
    (
        "topologySpread: {whenUnsatisfiable: Never}",
        "whenUnsatisfiable",
    ),
    ("networkPolicy: {externalPorts: [0]}", "externalPorts"),
    (
        "monitoring: {serviceMonitor: {interval: often}}",
        "interval",
    ),
];

#[test]
fn nonsense_is_refused_in_words() {
    if !tools::are_there(&["helm", "helm3"]) {
        return;
    }
    let judged = tools::each(REFUSED, |(wrong, says)| {
        let mut values = read("auth: {mode: open}");
        merge(&mut values, read(wrong));
        ["helm", "helm3"].map(|program| match template(program, &values) {
            Ok(_) => Some(format!("{program} takes {wrong}")),
            Err(said) if !said.contains(says) => Some(format!("{program}: {wrong}: {said}")),
            Err(_) => None,
        })
    });
    let found: Vec<_> = judged.into_iter().flatten().flatten().collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
