//! Variables that the programs know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::objects::{Object, Workload};

/// Read by `darda` and `loadgen`, which have a page of their own.
const OF_CLIENTS: &[&str] = &["DARDA_URL"];

/// All variables on the page, which says what the programs say, as a test of theirs sees to.
pub fn known() -> BTreeSet<String> {
    let page = crate::root().join("docs/configuration.md");
    let page = fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
    let names = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let known: BTreeSet<_> = names
        .filter(|name| name.starts_with("DARDA_"))
        .chain(OF_CLIENTS.iter().copied())
        .map(str::to_owned)
        .collect();
    assert!(known.len() > 30, "the page has lost its tables");
    known
}

/// Whether a program knows it, itself or read from a file.
pub fn is_known(known: &BTreeSet<String>, name: &str) -> bool {
    known.contains(name)
        || name
            .strip_suffix("_FILE")
            .is_some_and(|base| known.contains(base))
}

/// What the first container of a pod is told, as far as it stands in ConfigMaps and in the pod itself.
pub fn of(workload: &Workload, objects: &[Object]) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let Some(container) = workload.spec.containers.first() else {
        return told;
    };
    for from in container.env_from.iter().flatten() {
        let Some(map) = &from.config_map_ref else {
            continue;
        };
        let data = objects
            .iter()
            .find(|object| object.kind() == "ConfigMap" && object.name() == map.name)
            .and_then(|object| object.0.get("data"))
            .and_then(Value::as_object);
        for (name, value) in data.into_iter().flatten() {
            told.insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
        }
    }
    for variable in container.env.iter().flatten() {
        let value = variable.value.clone().unwrap_or_default();
        told.insert(variable.name.clone(), value);
    }
    told
}
