//! The dashboards by themselves. Whether their queries find anything is another matter: [`live`](crate::live).

use std::collections::{BTreeSet, HashSet};
use std::process::Command;

use serde_json::Value;

use crate::{is_missing, read, repository};

pub const FOLDER: &str = "charts/darda/files/dashboards";
const NAMES: [&str; 5] = [
    "delivery",
    "dependencies",
    "overview",
    "persistence",
    "resources",
];

/// A query of a panel.
#[derive(Clone, Debug)]
pub struct Query {
    /// Where it is, for whoever has to find it.
    pub place: String,
    pub expr: String,
}

pub fn all() -> Vec<(String, Value)> {
    let file = |name: &str| read(repository(FOLDER).join(format!("{name}.json")));
    let parsed = |name: &str| serde_json::from_str(&file(name)).unwrap();
    NAMES
        .iter()
        .map(|name| ((*name).to_owned(), parsed(name)))
        .collect()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter()
}

pub fn queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for (name, dashboard) in all() {
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let (title, legend) = (&panel["title"], &target["legendFormat"]);
                queries.push(Query {
                    place: format!("{name}: {title}, {legend}"),
                    expr: target["expr"].as_str().unwrap().to_owned(),
                });
            }
        }
    }
    assert!(queries.len() > 80, "{}", queries.len());
    queries
}

#[test]
fn the_files_are_what_the_script_writes() {
    let python = Command::new("python3").arg("--version").output();
    if is_missing(python.is_err().then_some("python3")) {
        return;
    }
    let check = Command::new(repository("scripts/dashboards"))
        .arg("--check")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{said}");
}

#[test]
fn kustomize_takes_all_of_them_and_the_link_leads_there() {
    let found = std::fs::read_dir(repository("dashboards")).unwrap();
    let found: BTreeSet<_> = found.map(|entry| entry.unwrap().file_name()).collect();
    let wanted: BTreeSet<_> = NAMES
        .iter()
        .map(|name| format!("{name}.json").into())
        .collect();
    assert_eq!(found, wanted);
    let kustomization = read(repository("charts/darda/files/kustomization.yaml"));
    for name in NAMES {
        let lines =
            format!("  - name: darda-dashboard-{name}\n    files: [dashboards/{name}.json]\n");
        assert!(kustomization.contains(&lines), "{name}");
    }
}

#[test]
fn they_are_what_grafana_takes_and_say_what_they_show() {
    let mut uids = HashSet::new();
    for (name, dashboard) in all() {
        assert!(uids.insert(dashboard["uid"].to_string()), "{name}");
        assert!(dashboard["schemaVersion"].as_u64() >= Some(39), "{name}");
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        for wanted in ["datasource", "namespace", "job", "pod"] {
            let is_there = variables.iter().any(|variable| variable["name"] == wanted);
            assert!(is_there, "{name} has no variable {wanted}");
        }
        let mut ids = HashSet::new();
        let mut taken = HashSet::new();
        for panel in panels(&dashboard) {
            let place = format!("{name}: {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "id of {place}");
            let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24 && at("w") > 0, "width of {place}");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{place} lies on another");
                }
            }
            if panel["type"] != "row" {
                is_complete(&place, panel);
            }
        }
    }
}

fn is_complete(place: &str, panel: &Value) {
    let is_said = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    assert!(
        is_said(&panel["title"]) && is_said(&panel["description"]),
        "{place}"
    );
    let defaults = &panel["fieldConfig"]["defaults"];
    assert!(is_said(&defaults["unit"]), "{place} has no unit");
    let steps = defaults["thresholds"]["steps"].as_array().unwrap();
    assert!(steps[0]["value"].is_null(), "{place} begins nowhere");
    let source = serde_json::json!({"type": "prometheus", "uid": "${datasource}"});
    assert_eq!(panel["datasource"], source, "{place}");
    let targets = panel["targets"].as_array().unwrap();
    assert!(!targets.is_empty(), "{place}");
    let mut names = HashSet::new();
    for target in targets {
        assert_eq!(target["datasource"], source, "{place}");
        assert!(is_said(&target["legendFormat"]), "{place} has no legend");
        assert!(names.insert(target["refId"].to_string()), "{place}");
        let expr = target["expr"].as_str().unwrap();
        assert!(expr.contains("$namespace"), "{place} is of all namespaces");
        // Those that have exemplars are the two that a message's trace passes through.
        let is_timed = [
            "chat_send_ack_seconds_bucket",
            "chat_delivery_seconds_bucket",
        ]
        .iter()
        .any(|name| expr.contains(name));
        let shows = panel["type"] == "timeseries" && is_timed;
        assert_eq!(target["exemplar"], shows, "exemplars of {place}");
    }
    for link in panel["links"].as_array().into_iter().flatten() {
        let url = link["url"].as_str().unwrap();
        let page = url.strip_prefix("${docs:raw}/").unwrap();
        assert!(repository("docs").join(page).is_file(), "{place}: {page}");
    }
}
