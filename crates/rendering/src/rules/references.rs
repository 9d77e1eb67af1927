//! What an object names has to be there.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Volume};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::{Expected, containers, services};
use crate::objects::{Labels, Object, Workload, labels};

pub fn complaints(objects: &[Object], workloads: &[Workload], expected: &Expected) -> Vec<String> {
    let keys = Keys::of(objects, expected);
    let mut found = Vec::new();
    for workload in workloads {
        let mut say = |what: String| found.push(format!("{}: {what}", workload.id()));
        for container in containers(workload) {
            container_names(container, workload, &keys, &mut say);
        }
        for volume in workload.spec.volumes.iter().flatten() {
            volume_names(volume, &keys, &mut say);
            if !containers(workload).any(|c| mounts(c, &volume.name)) {
                say(format!("nobody mounts the volume {}", volume.name));
            }
        }
        if let Some(account) = &workload.spec.service_account_name {
            let is = |o: &Object| o.kind() == "ServiceAccount" && o.name() == account;
            if !objects.iter().any(is) {
                say(format!("there is no ServiceAccount {account}"));
            }
        } else if workload.kind != "Pod" {
            say("has no ServiceAccount of its own".into());
        }
    }
    found.extend(ports(objects, workloads));
    found.extend(targets(objects, workloads, &keys));
    found
}

/// ConfigMaps and Secrets with their keys.
struct Keys {
    config_maps: BTreeMap<String, BTreeSet<String>>,
    /// `None`: somebody else's, or filled later; it may have any.
    secrets: BTreeMap<String, Option<BTreeSet<String>>>,
}

impl Keys {
    fn of(objects: &[Object], expected: &Expected) -> Self {
        let keys = |object: &Object| -> BTreeSet<String> {
            let fields = ["data", "stringData", "binaryData"].into_iter();
            let maps = fields.filter_map(|field| object.0.get(field)?.as_object());
            maps.flat_map(|map| map.keys().cloned()).collect()
        };
        let of = |kind: &'static str| objects.iter().filter(move |o| o.kind() == kind);
        let named = |o: &Object| (o.name().to_owned(), keys(o));
        let secrets = of("Secret").map(named);
        let given = expected.secrets.iter().map(|name| (name.clone(), None));
        Self {
            config_maps: of("ConfigMap").map(named).collect(),
            // One that is empty is filled by a Job.
            secrets: secrets
                .map(|(name, keys)| (name, (!keys.is_empty()).then_some(keys)))
                .chain(given)
                .collect(),
        }
    }

    fn config_map(&self, name: &str, key: Option<&str>, say: &mut impl FnMut(String)) {
        match self.config_maps.get(name) {
            None => say(format!("there is no ConfigMap {name}")),
            Some(keys) if key.is_some_and(|key| !keys.contains(key)) => {
                say(format!("the ConfigMap {name} has no key {key:?}"));
            }
            Some(_) => {}
        }
    }

    fn secret(&self, name: &str, key: Option<&str>, say: &mut impl FnMut(String)) {
        match self.secrets.get(name) {
            None => say(format!("there is no Secret {name}")),
            Some(Some(keys)) if key.is_some_and(|key| !keys.contains(key)) => {
                say(format!("the Secret {name} has no key {key:?}"));
            }
            Some(_) => {}
        }
    }
}

fn container_names(
    container: &Container,
    workload: &Workload,
    keys: &Keys,
    say: &mut impl FnMut(String),
) {
    for from in container.env_from.iter().flatten() {
        if let Some(map) = &from.config_map_ref {
            keys.config_map(&map.name, None, say);
        }
        if let Some(secret) = &from.secret_ref {
            keys.secret(&secret.name, None, say);
        }
    }
    for variable in container.env.iter().flatten() {
        let Some(source) = &variable.value_from else {
            continue;
        };
        if let Some(key) = &source.secret_key_ref {
            keys.secret(&key.name, Some(&key.key), say);
        }
        if let Some(key) = &source.config_map_key_ref {
            keys.config_map(&key.name, Some(&key.key), say);
        }
    }
    for mount in container.volume_mounts.iter().flatten() {
        let mut volumes = workload.spec.volumes.iter().flatten();
        if !volumes.any(|v| v.name == mount.name) && !workload.claims.contains(&mount.name) {
            say(format!("mounts {}, which is no volume", mount.name));
        }
    }
}

fn mounts(container: &Container, volume: &str) -> bool {
    let mut mounts = container.volume_mounts.iter().flatten();
    mounts.any(|mount| mount.name == volume)
}

fn volume_names(volume: &Volume, keys: &Keys, say: &mut impl FnMut(String)) {
    if let Some(map) = &volume.config_map {
        keys.config_map(&map.name, None, say);
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        keys.secret(name, None, say);
        for item in secret.items.iter().flatten() {
            keys.secret(name, Some(&item.key), say);
        }
    }
    let projected = volume
        .projected
        .iter()
        .flat_map(|p| p.sources.iter().flatten());
    let mut paths = BTreeSet::new();
    for source in projected {
        let Some(secret) = &source.secret else {
            say(format!("volume {} is not only of Secrets", volume.name));
            continue;
        };
        for item in secret.items.iter().flatten() {
            keys.secret(&secret.name, Some(&item.key), say);
            if !paths.insert(&item.path) {
                say(format!("volume {} has {} twice", volume.name, item.path));
            }
        }
    }
}

/// Services lead to ports that their pods have; Ingresses and routes to ports of Services.
fn ports(objects: &[Object], workloads: &[Workload]) -> Vec<String> {
    let services = services(objects);
    let mut found = Vec::new();
    for (name, service) in &services {
        let spec = service.spec.clone().unwrap_or_default();
        let selector = spec.selector.unwrap_or_default();
        let picks = |w: &&Workload| selector.iter().all(|(k, v)| w.labels.get(k) == Some(v));
        for port in spec.ports.unwrap_or_default() {
            let Some(IntOrString::String(target)) = port.target_port else {
                found.push(format!("Service {name}: a port has no target with a name"));
                continue;
            };
            let all = workloads
                .iter()
                .filter(picks)
                .flat_map(|w| &w.spec.containers);
            let mut all = all.flat_map(|c| c.ports.iter().flatten());
            let Some(on_pod) = all.find(|p| p.name.as_ref() == Some(&target)) else {
                found.push(format!("Service {name}: its pods have no port {target}"));
                continue;
            };
            // Without an address of its own it hands out those of pods, where nobody changes the number.
            let headless = spec.cluster_ip.as_deref() == Some("None");
            if headless && on_pod.container_port != port.port {
                found.push(format!("Service {name}: {} is not the pod's", port.port));
            }
        }
    }
    let has = |service: &str, port: &Value| {
        let spec = services.get(service).and_then(|s| s.spec.clone());
        let mut ports = spec
            .unwrap_or_default()
            .ports
            .unwrap_or_default()
            .into_iter();
        ports.any(|p| {
            port.as_i64()
                .is_some_and(|number| i64::from(p.port) == number)
                || (port.is_string() && p.name.as_deref() == port.as_str())
        })
    };
    for object in objects {
        let id = object.id();
        match object.kind() {
            "Ingress" => {
                for backend in all(&object.0, "service") {
                    let port = backend
                        .pointer("/port/name")
                        .or(backend.pointer("/port/number"));
                    let name = backend["name"].as_str().unwrap_or_default();
                    if !has(name, port.unwrap_or(&Value::Null)) {
                        found.push(format!("{id} leads to {backend}"));
                    }
                }
            }
            "HTTPRoute" => {
                for backend in all(&object.0, "backendRefs").into_iter().flat_map(items) {
                    if !has(
                        backend["name"].as_str().unwrap_or_default(),
                        &backend["port"],
                    ) {
                        found.push(format!("{id} leads to {backend}"));
                    }
                }
            }
            "StatefulSet" => {
                let name = object
                    .0
                    .pointer("/spec/serviceName")
                    .and_then(Value::as_str);
                let own = labels(object.0.pointer("/spec/template/metadata/labels"));
                let service = name.and_then(|name| services.get(name)?.spec.as_ref());
                let selects =
                    |selector: &Labels| selector.iter().all(|(k, v)| own.get(k) == Some(v));
                if !service.is_some_and(|s| s.selector.as_ref().is_some_and(selects)) {
                    found.push(format!("{id}: the Service {name:?} gives it no names"));
                }
            }
            "ServiceMonitor" => {
                let selector = labels(object.0.pointer("/spec/selector/matchLabels"));
                let picked: Vec<_> = objects
                    .iter()
                    .filter(|o| o.kind() == "Service")
                    .filter(|o| selector.iter().all(|(k, v)| o.labels().get(k) == Some(v)))
                    .collect();
                for endpoint in object
                    .0
                    .pointer("/spec/endpoints")
                    .into_iter()
                    .flat_map(items)
                {
                    if !picked
                        .iter()
                        .any(|service| has(service.name(), &endpoint["port"]))
                    {
                        found.push(format!("{id} finds no Service with {}", endpoint["port"]));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// Who decides on a number of pods, and with what it looks.
fn targets(objects: &[Object], workloads: &[Workload], keys: &Keys) -> Vec<String> {
    let mut found = Vec::new();
    let mut scaled = BTreeSet::new();
    for object in objects {
        let id = object.id();
        match object.kind() {
            "HorizontalPodAutoscaler" | "ScaledObject" => {
                let target = object
                    .0
                    .pointer("/spec/scaleTargetRef/name")
                    .and_then(Value::as_str);
                let target = target.unwrap_or_default();
                let is = |w: &&Workload| w.kind == "Deployment" && w.name == target;
                match workloads.iter().find(is) {
                    None => found.push(format!("{id}: there is no Deployment {target}")),
                    Some(w) if w.replicas.is_some() => {
                        found.push(format!("{}: its number is said and also {id}'s", w.id()));
                    }
                    Some(w) => {
                        if !scaled.insert(w.name.clone()) {
                            found.push(format!("{} is scaled by two", w.id()));
                        }
                    }
                }
                for reference in all(&object.0, "authenticationRef") {
                    let name = reference["name"].as_str().unwrap_or_default();
                    let is = |o: &Object| o.kind() == "TriggerAuthentication" && o.name() == name;
                    if !objects.iter().any(is) {
                        found.push(format!("{id}: there is no TriggerAuthentication {name}"));
                    }
                }
            }
            "TriggerAuthentication" => {
                let references = object.0.pointer("/spec/secretTargetRef");
                for reference in references.into_iter().flat_map(items) {
                    let text = |field: &str| reference[field].as_str().unwrap_or_default();
                    let mut say = |what: String| found.push(format!("{id}: {what}"));
                    keys.secret(text("name"), Some(text("key")), &mut say);
                }
            }
            _ => {}
        }
    }
    for workload in workloads.iter().filter(|w| w.lasts()) {
        if workload.replicas.is_none() && !scaled.contains(&workload.name) {
            found.push(format!("{}: nobody says how many", workload.id()));
        }
    }
    found
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// All values of a field, wherever it is.
fn all<'a>(value: &'a Value, field: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == field {
                    found.push(value);
                }
                found.extend(all(value, field));
            }
        }
        Value::Array(values) => found.extend(values.iter().flat_map(|value| all(value, field))),
        _ => {}
    }
    found
}
