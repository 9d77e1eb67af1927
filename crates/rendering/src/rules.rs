//! What has to be so of everything that is rendered, whatever was asked for.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Probe, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::environment;
use crate::objects::{Labels, Object, Workload, labels, workloads};
use crate::policies::selects;

mod network;
mod pods;
mod references;

/// What this rendering may take for granted, and what it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Secrets that are somebody else's.
    pub secrets: BTreeSet<String>,
    /// NetworkPolicies are left out.
    pub without_policies: bool,
    /// Only the clients that are named reach the public port.
    pub named_clients: bool,
    /// The namespace of who reads `/metrics`; `monitoring` when not said.
    pub metrics_namespace: Option<&'static str>,
    /// Servers are elsewhere, so programs go out to them.
    pub external_servers: bool,
    /// Containers whose root file system may be written to.
    pub writable: BTreeSet<String>,
}

/// Everything that is not as it has to be, in words.
pub fn complaints(objects: &[Object], expected: &Expected) -> Vec<String> {
    let mut found: Vec<String> = objects.iter().filter_map(Object::misfit).collect();
    // The rest reads objects by their types.
    if found.is_empty() {
        let workloads = workloads(objects);
        found.extend(names(objects));
        found.extend(selectors(objects, &workloads));
        found.extend(references::complaints(objects, &workloads, expected));
        for workload in &workloads {
            found.extend(pods::complaints(workload, objects, expected));
        }
        found.extend(network::complaints(objects, &workloads, expected));
        found.extend(variables(objects, &workloads));
    }
    found
}

const LABELS: &[&str] = &["name", "instance", "component", "part-of"];

/// Names are fit for DNS and used once; everything has the usual labels.
fn names(objects: &[Object]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for object in objects {
        let id = object.id();
        if !seen.insert(id.clone()) {
            found.push(format!("{id} is there twice"));
        }
        let name = object.name();
        // Those of a StatefulSet get a number and, in a label, the hash of a revision.
        let longest = if object.kind() == "StatefulSet" {
            52
        } else {
            63
        };
        let fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > longest || !name.chars().all(fit) {
            found.push(format!("{id}: not a name"));
        }
        if object.kind() == "Namespace" {
            continue;
        }
        let labels = object.labels();
        for label in LABELS {
            if labels
                .get(&format!("app.kubernetes.io/{label}"))
                .is_none_or(String::is_empty)
            {
                found.push(format!("{id} lacks the label app.kubernetes.io/{label}"));
            }
        }
        for (name, value) in &labels {
            if value.len() > 63 {
                found.push(format!("{id}: the label {name} is too long"));
            }
        }
    }
    found
}

/// A selector picks the pods of one workload, and of it all.
fn selectors(objects: &[Object], workloads: &[Workload]) -> Vec<String> {
    let mut found = Vec::new();
    for object in objects {
        let id = object.id();
        let selector: Labels = match object.kind() {
            "Deployment" | "StatefulSet" => labels(object.0.pointer("/spec/selector/matchLabels")),
            "PodDisruptionBudget" => {
                let budget: PodDisruptionBudget = object.typed();
                let spec = budget.spec.unwrap_or_default();
                if spec.max_unavailable.is_none() == spec.min_available.is_none() {
                    found.push(format!("{id} says no number, or two"));
                }
                labels(object.0.pointer("/spec/selector/matchLabels"))
            }
            "Service" => labels(object.0.pointer("/spec/selector")),
            _ => continue,
        };
        if selector.is_empty() {
            found.push(format!("{id} selects nothing"));
            continue;
        }
        let picks = |w: &&Workload| selector.iter().all(|(k, v)| w.labels.get(k) == Some(v));
        let picked: Vec<_> = workloads.iter().filter(picks).collect();
        match picked.as_slice() {
            [only] if object.kind() == "PodDisruptionBudget" && !only.lasts() => {
                found.push(format!("{id} is for pods that end by themselves"));
            }
            [only] if Workload::of(object).is_some_and(|own| own.name != only.name) => {
                found.push(format!("{id} selects the pods of {}", only.id()));
            }
            [_] => {}
            [] => found.push(format!("{id} selects no pods")),
            several => {
                let names: Vec<_> = several.iter().map(|w| w.id()).collect();
                found.push(format!("{id} selects pods of {}", names.join(" and ")));
            }
        }
    }
    found.extend(spread(workloads));
    found
}

/// Pods are spread among those of their own kind.
fn spread(workloads: &[Workload]) -> Vec<String> {
    let mut found = Vec::new();
    for workload in workloads {
        for constraint in workload.spec.topology_spread_constraints.iter().flatten() {
            let own = constraint
                .label_selector
                .as_ref()
                .is_some_and(|s| selects(s, &workload.labels));
            let others = workloads.iter().filter(|other| {
                let selector = constraint.label_selector.as_ref();
                other.name != workload.name && selector.is_some_and(|s| selects(s, &other.labels))
            });
            if !own || others.count() > 0 {
                found.push(format!("{} is not spread among its own", workload.id()));
            }
        }
    }
    found
}

/// No variable that no program knows, and none twice.
fn variables(objects: &[Object], workloads: &[Workload]) -> Vec<String> {
    let known = environment::known();
    let mut found = Vec::new();
    let mut look = |at: &str, name: &str| {
        if name.starts_with("DARDA_") && !environment::is_known(&known, name) {
            found.push(format!("{at}: no program knows {name}"));
        }
    };
    for object in objects.iter().filter(|o| o.kind() == "ConfigMap") {
        let data = object.0.get("data").and_then(Value::as_object);
        for name in data.into_iter().flat_map(|data| data.keys()) {
            look(&object.id(), name);
        }
    }
    for workload in workloads {
        for container in containers(workload) {
            for variable in container.env.iter().flatten() {
                look(&workload.id(), &variable.name);
            }
        }
    }
    found
}

/// All containers of a pod, those that prepare it first.
fn containers(workload: &Workload) -> impl Iterator<Item = &Container> {
    let first = workload.spec.init_containers.iter().flatten();
    first.chain(&workload.spec.containers)
}

/// The port that a probe asks.
fn probed(probe: &Probe) -> Option<&IntOrString> {
    let http = probe.http_get.as_ref().map(|get| &get.port);
    http.or(probe.tcp_socket.as_ref().map(|tcp| &tcp.port))
}

/// The Services by name.
fn services(objects: &[Object]) -> BTreeMap<String, Service> {
    let services = objects.iter().filter(|o| o.kind() == "Service");
    services.map(|o| (o.name().to_owned(), o.typed())).collect()
}
