//! The rules: what promtool says of them, a test and a runbook for each alert, and nothing left over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::{Prometheus, promtool};

use crate::{is_missing, read, repository};

/// The groups as Prometheus takes them: what stands under `spec` of the PrometheusRule.
pub fn groups() -> String {
    let file = read(repository("charts/darda/files/prometheusrule.yaml"));
    let (_, spec) = file.split_once("\nspec:\n").expect("it has a spec");
    let lines = spec.lines();
    lines
        .map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned() + "\n")
        .collect()
}

/// The alerts and their runbooks.
pub fn alerts() -> BTreeMap<String, String> {
    let mut alerts = BTreeMap::new();
    let mut name = None;
    for line in groups().lines().map(str::trim) {
        if let Some(alert) = line.strip_prefix("- alert: ") {
            assert_eq!(name, None, "it has no runbook");
            name = Some(alert.to_owned());
        }
        if let Some(runbook) = line.strip_prefix("runbook: ") {
            let name = name.take().expect("a runbook is one of an alert");
            let former = alerts.insert(name.clone(), runbook.to_owned());
            assert_eq!(former, None, "{name} is there twice");
        }
    }
    assert_eq!(name, None, "it has no runbook");
    assert!(alerts.len() > 30, "{alerts:?}");
    alerts
}

fn tests() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(repository("tests/monitoring")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    let is_test = |path: &PathBuf| path.to_string_lossy().ends_with(".test.yaml");
    files.filter(is_test).collect()
}

fn run(folder: &Path, arguments: &[&str]) {
    let tool = promtool().expect("it was looked for");
    let output = Command::new(tool)
        .current_dir(folder)
        .args(arguments)
        .output();
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn promtool_finds_the_rules_sound_and_their_tests_pass() {
    if is_missing(Prometheus::missing()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yaml"), groups()).unwrap();
    run(folder.path(), &["check", "rules", "rules.yaml"]);
    for test in tests() {
        let name = test.file_name().unwrap();
        std::fs::copy(&test, folder.path().join(name)).unwrap();
        run(folder.path(), &["test", "rules", &name.to_string_lossy()]);
    }
}

/// A test says of an alert that it fires as `ALERTS{alertname="X"…` among what is expected, and everything that does not
/// fire is seen where all of `ALERTS` is compared.
#[test]
fn every_alert_has_a_test_in_which_it_fires_and_others_in_which_it_does_not() {
    let tests: Vec<String> = tests().into_iter().map(read).collect();
    let mut fire = BTreeSet::new();
    for line in tests.iter().flat_map(|test| test.lines()) {
        if let Some((_, rest)) = line.split_once("labels: 'ALERTS{alertname=\"") {
            let (name, _) = rest.split_once('"').unwrap();
            fire.insert(name.to_owned());
        }
    }
    let known: BTreeSet<String> = alerts().into_keys().collect();
    assert_eq!(fire, known, "those that fire in tests, and those that are");
    let quiet = "expr: 'ALERTS{alertstate=\"firing\"}'\n        exp_samples: []\n";
    let quiet = tests.iter().filter(|test| test.contains(quiet)).count();
    assert!(quiet > 0, "in no test everything is well");
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_is_one_of_an_alert() {
    let index = read(repository("docs/runbooks/README.md"));
    let mut used = BTreeSet::new();
    for (alert, runbook) in alerts() {
        let text = read(repository(&runbook));
        let (title, _) = text.split_once('\n').unwrap();
        let is_named = title
            .trim_start_matches("# ")
            .split(", ")
            .any(|name| name == alert);
        assert!(is_named, "the title of {runbook} does not name {alert}");
        for part in ["**For people:**", "## Look", "## Do", "## Over"] {
            assert!(text.contains(part), "{runbook} has no {part}");
        }
        let file = runbook.strip_prefix("docs/runbooks/").unwrap().to_owned();
        let line = index
            .lines()
            .find(|line| line.contains(&format!("]({file})")));
        let line = line.unwrap_or_else(|| panic!("the index has no {file}"));
        assert!(line.contains(&alert), "the index has no {alert} at {file}");
        used.insert(file);
    }
    let folder = std::fs::read_dir(repository("docs/runbooks")).unwrap();
    let files = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = files.filter(|name| name != "README.md").collect();
    assert_eq!(files, used, "runbooks that are, and those of alerts");
}
