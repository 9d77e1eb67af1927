//! Who reaches whom, port by port: exactly those who have to.

use k8s_openapi::api::core::v1::ContainerPort;

use super::Expected;
use crate::objects::{Object, Workload};
use crate::policies::{End, Policies, Port};

/// Who asks a port of ours: by component, and then the port by component and name.
const ASKS: &[(&[&str], &str, &str)] = &[
    (PROGRAMS_AND_BOOTSTRAP, "redis", "redis"),
    (PROGRAMS_AND_BOOTSTRAP, "rabbitmq", "amqp"),
    (PROGRAMS_AND_BOOTSTRAP, "mongodb", "mongodb"),
    (&["bootstrap"], "rabbitmq", "management"),
    (&["mongodb"], "mongodb", "mongodb"),
    (&["chat-service"], "history-service", "http"),
    (&["test"], "chat-service", "http"),
];
const PROGRAMS_AND_BOOTSTRAP: &[&str] = &[
    "chat-service",
    "history-service",
    "persistence-worker",
    "bootstrap",
];

pub fn complaints(objects: &[Object], workloads: &[Workload], expected: &Expected) -> Vec<String> {
    let policies = Policies::of(objects);
    if expected.without_policies {
        return match policies.is_empty() {
            true => Vec::new(),
            false => vec!["there are NetworkPolicies that nobody asked for".into()],
        };
    }
    let mut found = Vec::new();
    for workload in workloads {
        for direction in ["Ingress", "Egress"] {
            if !policies.deny(workload, direction) {
                found.push(format!("{}: no policy denies {direction}", workload.id()));
            }
        }
        let name = Port {
            protocol: "UDP",
            number: 53,
        };
        if !policies.lets_out(workload, name, End::World) {
            found.push(format!("{} cannot ask for names", workload.id()));
        }
        found.extend(outside(&policies, workload, expected));
    }
    for to in workloads {
        for port in ports(to) {
            found.extend(inside(&policies, workloads, to, port));
            found.extend(others(&policies, objects, to, port, expected));
        }
    }
    found
}

fn ports(workload: &Workload) -> impl Iterator<Item = &ContainerPort> {
    let containers = workload.spec.containers.iter();
    containers.flat_map(|container| container.ports.iter().flatten())
}

fn tcp(port: &ContainerPort) -> Port {
    Port {
        protocol: "TCP",
        number: port.container_port,
    }
}

fn judge(who: &str, to: &Workload, port: &ContainerPort, may: bool, does: bool) -> Option<String> {
    let name = port.name.as_deref().unwrap_or_default();
    let verb = match (may, does) {
        (true, false) => "cannot reach",
        (false, true) => "reaches, without having to,",
        _ => return None,
    };
    Some(format!("{who} {verb} {name} of {}", to.id()))
}

/// Between pods of ours.
fn inside(
    policies: &Policies,
    workloads: &[Workload],
    to: &Workload,
    port: &ContainerPort,
) -> Vec<String> {
    let name = port.name.as_deref().unwrap_or_default();
    let among = |from: &Workload| from.component() == "rabbitmq" && to.component() == "rabbitmq";
    let asks = |from: &Workload| {
        ASKS.iter().any(|(who, component, port)| {
            who.contains(&from.component()) && *component == to.component() && *port == name
        })
    };
    let judged = workloads.iter().filter_map(|from| {
        let does = policies.connects(from, to, tcp(port));
        judge(&from.id(), to, port, asks(from) || among(from), does)
    });
    judged.collect()
}

/// From elsewhere into pods of ours.
fn others(
    policies: &Policies,
    objects: &[Object],
    to: &Workload,
    port: &ContainerPort,
    expected: &Expected,
) -> Vec<String> {
    let name = port.name.as_deref().unwrap_or_default();
    let public = (to.component(), name) == ("chat-service", "http") && !expected.named_clients;
    let metrics = name == "admin" || (to.component(), name) == ("rabbitmq", "metrics");
    let queues = (to.component(), name) == ("rabbitmq", "amqp")
        && objects.iter().any(|o| o.kind() == "ScaledObject");
    let monitoring = expected.metrics_namespace.unwrap_or("monitoring");
    let ends = [
        (End::World, "the world", public),
        (End::Namespace("default"), "the namespace default", public),
        (
            End::Namespace(monitoring),
            "who reads metrics",
            public || metrics,
        ),
        (End::Namespace("keda"), "KEDA", public || queues),
    ];
    let judged = ends.into_iter().filter_map(|(end, who, may)| {
        judge(who, to, port, may, policies.accepts(to, tcp(port), end))
    });
    judged.collect()
}

/// Out of pods of ours: nobody but who has to ask Kubernetes or a server that is elsewhere.
fn outside(policies: &Policies, from: &Workload, expected: &Expected) -> Vec<String> {
    let secrets = from.component() == "secrets";
    let external = expected.external_servers && PROGRAMS_AND_BOOTSTRAP.contains(&from.component());
    let ends = [
        (80, false),
        (443, secrets),
        (6443, secrets),
        (27017, external),
        (6379, external),
    ];
    let judged = ends.into_iter().filter_map(|(number, may)| {
        let does = policies.lets_out(
            from,
            Port {
                protocol: "TCP",
                number,
            },
            End::World,
        );
        (may != does).then(|| {
            format!(
                "{}: out to port {number}: {does}, and should be {may}",
                from.id()
            )
        })
    });
    judged.collect()
}
