//! The chart and the manifests make the same objects under the same names, but for what is listed here with its reason.

use std::collections::{BTreeMap, BTreeSet};

use rendering::differences;
use rendering::objects::{self, Object};
use rendering::tools;
use serde_json::Value;

use crate::chart::{forget_passwords, template};
use crate::choices::read;
use crate::overlays;

/// An overlay, and the values that ask the chart for the same.
const TWINS: &[(&str, &str)] = &[
    (
        "dev",
        "{chatService: {replicas: 1}, historyService: {replicas: 1}, persistenceWorker: {replicas: 1}, log: {level: 'info,chat_service=debug,backend=debug', format: text}}",
    ),
    ("staging", "{}"),
    (
        "ha",
        "{chatService: {replicas: 3}, rabbitmq: {replicas: 3}, mongodb: {replicas: 3}, topologySpread: {whenUnsatisfiable: DoNotSchedule}}",
    ),
];

/// What may differ: the overlay or `*`, the object or how it begins, the place or how it begins, and why.
const MAY: &[(&str, &str, &str, &str)] = &[
    (
        "*",
        "Namespace ",
        "",
        "Helm is told of a namespace, and makes it itself",
    ),
    (
        "*",
        "Secret darda",
        "",
        "passwords are made by the template, by a Job, or known to everybody",
    ),
    (
        "*",
        "ServiceAccount darda-secrets",
        "",
        "of the Job that makes passwords",
    ),
    (
        "*",
        "Role darda-secrets",
        "",
        "of the Job that makes passwords",
    ),
    (
        "*",
        "RoleBinding darda-secrets",
        "",
        "of the Job that makes passwords",
    ),
    ("*", "Job darda-secrets", "", "the Job that makes passwords"),
    (
        "*",
        "NetworkPolicy darda-secrets",
        "",
        "of the Job that makes passwords",
    ),
    (
        "*",
        "Job darda-bootstrap",
        "/spec/ttlSecondsAfterFinished",
        "the chart's has a new name after each change",
    ),
    (
        "dev",
        "Deployment darda-chat-service",
        "/spec/template/spec/containers/0/securityContext/readOnlyRootFilesystem",
        "skaffold puts the page into it",
    ),
];

#[test]
fn the_chart_and_the_manifests_make_the_same() {
    if !tools::are_there(&["helm", "kustomize"]) {
        return;
    }
    let mut used = BTreeSet::new();
    let mut found = Vec::new();
    for (overlay, values) in TWINS {
        let mut values = read(values);
        rendering::pairs::merge(
            &mut values,
            read("{auth: {mode: open}, tests: {enabled: false}}"),
        );
        let text = template("helm", &values).unwrap_or_else(|e| panic!("{overlay}: {e}"));
        let chart = comparable(objects::parse(&text).expect("YAML"));
        let (_, manifests) = overlays::build(&format!("manifests/overlays/{overlay}"));
        let manifests = comparable(manifests);
        let names: BTreeSet<_> = chart.keys().chain(manifests.keys()).collect();
        for name in names {
            let side = |objects: &BTreeMap<String, Value>| {
                objects.get(name).cloned().unwrap_or(Value::Null)
            };
            for difference in differences::between(&side(&chart), &side(&manifests)) {
                let may = MAY.iter().position(|(where_, object, place, _)| {
                    (*where_ == "*" || where_ == overlay)
                        && name.starts_with(object)
                        && difference.pointer.starts_with(place)
                });
                match may {
                    Some(index) => drop(used.insert(index)),
                    None => found.push(format!(
                        "{overlay}: {name} {}: chart {:?}, manifests {:?}",
                        difference.pointer,
                        difference.left.map(|v| v.to_string()),
                        difference.right.map(|v| v.to_string())
                    )),
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    for (index, (_, object, place, why)) in MAY.iter().enumerate() {
        assert!(
            used.contains(&index),
            "{object}{place} ({why}) is not different any more"
        );
    }
}

/// By kind and name, without what says by whom it was made and when it has to start anew.
fn comparable(objects: Vec<Object>) -> BTreeMap<String, Value> {
    let mut comparable = BTreeMap::new();
    for object in objects {
        let mut value = object.0;
        if value["kind"] == "Job" && value.pointer("/metadata/labels/helm.sh~1chart").is_some() {
            forget_passwords(&mut value);
        }
        for at in ["/metadata", "/spec/template/metadata"] {
            let Some(metadata) = value.pointer_mut(at).and_then(Value::as_object_mut) else {
                continue;
            };
            metadata.remove("namespace");
            if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
                labels.retain(|name, _| {
                    ![
                        "app.kubernetes.io/version",
                        "app.kubernetes.io/managed-by",
                        "helm.sh/chart",
                    ]
                    .contains(&name.as_str())
                });
            }
            if let Some(annotations) = metadata
                .get_mut("annotations")
                .and_then(Value::as_object_mut)
            {
                annotations.retain(|name, _| !name.starts_with("checksum/"));
                if annotations.is_empty() {
                    metadata.remove("annotations");
                }
            }
        }
        // A set of components, in whichever order.
        for list in ["/spec/podSelector/matchExpressions/0/values"] {
            if let Some(values) = value.pointer_mut(list).and_then(Value::as_array_mut) {
                values.sort_by_key(Value::to_string);
            }
        }
        // Variables, of which only those that are made of others have to stand in order.
        for containers in ["initContainers", "containers"] {
            let list = value.pointer_mut(&format!("/spec/template/spec/{containers}"));
            for container in list.and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(env) = container.get_mut("env").and_then(Value::as_array_mut)
                    && !env.iter().any(|v| v.to_string().contains("$("))
                {
                    env.sort_by_key(|variable| variable["name"].to_string());
                }
            }
        }
        let object = Object(value);
        comparable.insert(object.id(), object.0);
    }
    comparable
}
