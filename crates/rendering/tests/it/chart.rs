//! The chart, rendered by both Helms with every main value alone and every two of them together.

use std::fs;
use std::sync::OnceLock;

use rendering::differences;
use rendering::objects::{self, Object, workloads};
use rendering::pairs::{self, Case};
use rendering::rules;
use rendering::tools;
use serde_json::{Value, json};

use crate::choices::{CHOICES, expected, may_meet, values, way};

/// One case as both Helms render it.
pub struct Rendered {
    pub name: String,
    pub case: Case,
    /// By Helm 4, as it says it.
    pub text: String,
    pub by_4: Vec<Object>,
    /// Of every two together only: each alone is among them.
    pub by_3: Option<Vec<Object>>,
}

/// All cases, rendered once for all tests.
pub fn rendered() -> &'static [Rendered] {
    static RENDERED: OnceLock<Vec<Rendered>> = OnceLock::new();
    RENDERED.get_or_init(|| {
        let cases = cases();
        println!("{} cases", cases.len());
        tools::each(&cases, render)
    })
}

/// Nothing said, each way alone, and then every two together.
fn cases() -> Vec<Case> {
    let none = vec![0; CHOICES.len()];
    let mut cases = vec![none.clone()];
    for (index, choice) in CHOICES.iter().enumerate() {
        for way in 1..choice.ways.len() {
            let mut case = none.clone();
            case[index] = way;
            cases.push(case);
        }
    }
    cases.extend(pairs::cases(CHOICES, may_meet));
    cases
}

fn render(case: &Case) -> Rendered {
    let name = pairs::name(CHOICES, case);
    let values = values(case);
    let by = |program: &str| {
        let text = template(program, &values).unwrap_or_else(|e| panic!("{program}: {name}: {e}"));
        let objects = objects::parse(&text).unwrap_or_else(|e| panic!("{program}: {name}: {e}"));
        (text, objects)
    };
    let (text, by_4) = by("helm");
    let alone = case.iter().filter(|way| **way > 0).count() < 2;
    let by_3 = (!alone).then(|| by("helm3").1);
    Rendered {
        name,
        case: case.clone(),
        text,
        by_4,
        by_3,
    }
}

/// What Helm makes of values, without a cluster.
pub fn template(program: &str, values: &Value) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), values.to_string()).expect("a file");
    let file = file.path().display().to_string();
    // A Helm that is built without its release's settings takes the cluster for an ancient one.
    let command = [
        "template",
        "darda",
        "charts/darda",
        "--namespace=chat",
        "--kube-version=1.36.0",
    ];
    tools::run(program, command.into_iter().chain(["--values", &file]))
}

#[test]
fn everything_is_as_it_has_to_be() {
    if !tools::are_there(&["helm", "helm3"]) {
        return;
    }
    let mut found = Vec::new();
    for rendered in rendered() {
        let expected = expected(&rendered.case);
        for what in rules::complaints(&rendered.by_4, &expected) {
            found.push(format!("{}\n    {what}", rendered.name));
        }
    }
    let count = found.len();
    found.truncate(40);
    assert!(
        found.is_empty(),
        "{count} complaints:\n{}",
        found.join("\n")
    );
}

#[test]
fn both_helms_make_the_same() {
    if !tools::are_there(&["helm", "helm3"]) {
        return;
    }
    for rendered in rendered() {
        let Some(by_3) = &rendered.by_3 else { continue };
        let made = |objects: &[Object]| -> Value {
            let mut objects: Vec<_> = objects.iter().map(|o| o.0.clone()).collect();
            objects.iter_mut().for_each(forget_passwords);
            objects.sort_by_key(|o| format!("{} {}", o["kind"], o["metadata"]["name"]));
            objects.into()
        };
        let different = differences::between(&made(&rendered.by_4), &made(by_3));
        assert_eq!(different, [], "{}", rendered.name);
    }
}

/// Passwords are made anew each time, and what is made of them with them.
pub fn forget_passwords(object: &mut Value) {
    let made = object["kind"] == "Secret"
        && object["metadata"]["name"]
            .as_str()
            .is_some_and(|n| !n.ends_with("-keda"));
    if made {
        for value in object["data"]
            .as_object_mut()
            .into_iter()
            .flat_map(|data| data.values_mut())
        {
            *value = json!("made");
        }
    }
    if object["kind"] == "Job" {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let without = name
            .rsplit_once('-')
            .map_or(name, |(name, _)| name)
            .to_owned();
        object["metadata"]["name"] = json!(without);
    }
    let annotations = object.pointer_mut("/spec/template/metadata/annotations");
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.remove("checksum/secret");
    }
}

/// A choice that changes nothing would be tested in vain.
#[test]
fn every_way_alone_makes_a_difference() {
    if !tools::are_there(&["helm", "helm3"]) {
        return;
    }
    let plain = |rendered: &Rendered| -> Vec<Value> {
        let mut objects: Vec<_> = rendered.by_4.iter().map(|o| o.0.clone()).collect();
        objects.iter_mut().for_each(forget_passwords);
        objects
    };
    let (first, rest) = rendered().split_first().expect("cases");
    let default = plain(first);
    // Among the pairs there is one case in which nothing is said again.
    for rendered in rest.iter().filter(|r| r.case.iter().any(|way| *way > 0)) {
        assert_ne!(plain(rendered), default, "{}", rendered.name);
    }
}

/// What was asked for is there, and what was not is not.
#[test]
fn each_kind_is_there_when_it_is_asked_for() {
    if !tools::are_there(&["helm", "helm3"]) {
        return;
    }
    for rendered in rendered() {
        let way = |choice| way(CHOICES, &rendered.case, choice);
        let count = |kind: &str| rendered.by_4.iter().filter(|o| o.kind() == kind).count();
        let history = usize::from(way("history") == "on");
        let bundled = |server| usize::from(way(server).starts_with("bundled"));
        let several = |server, members| usize::from(bundled(server) == 1 && way(members) != "1");
        let budgets = match way("budgets") {
            "off" => 0,
            _ => {
                2 + history
                    + several("rabbitmq", "rabbitmq-nodes")
                    + several("mongodb", "mongodb-members")
            }
        };
        let keda = usize::from(way("keda") == "yes");
        let scalers = match way("scaling") {
            "no" => 0,
            "cpu" => 1,
            _ => 1 + history,
        };
        let monitors = way("monitoring") == "monitors" || way("monitoring") == "all";
        let rules = way("monitoring") == "rules" || way("monitoring") == "all";
        for (kind, expected) in [
            ("Deployment", 2 + history),
            (
                "StatefulSet",
                bundled("redis") + bundled("rabbitmq") + bundled("mongodb"),
            ),
            ("PodDisruptionBudget", budgets),
            ("HorizontalPodAutoscaler", scalers),
            ("ScaledObject", keda),
            ("TriggerAuthentication", keda),
            ("Ingress", usize::from(way("ingress") != "no")),
            ("HTTPRoute", usize::from(way("route") != "no")),
            ("Job", usize::from(way("jobs") != "no-bootstrap")),
            ("Pod", usize::from(way("jobs") != "no-tests")),
            (
                "ServiceMonitor",
                if monitors { 1 + bundled("rabbitmq") } else { 0 },
            ),
            ("PrometheusRule", usize::from(rules)),
        ] {
            assert_eq!(count(kind), expected, "{kind}: {}", rendered.name);
        }
        let workloads = workloads(&rendered.by_4);
        let of = |component: &str| workloads.iter().find(|w| w.component() == component);
        for (server, members) in [
            ("rabbitmq", "rabbitmq-nodes"),
            ("mongodb", "mongodb-members"),
        ] {
            if let Some(server) = of(server) {
                assert_eq!(
                    server.replicas,
                    way(members).parse().ok(),
                    "{}",
                    rendered.name
                );
            }
        }
    }
}

#[test]
fn lint_has_nothing_to_say() {
    if !tools::are_there(&["helm", "helm3"]) {
        return;
    }
    for program in ["helm", "helm3"] {
        let said = tools::run(
            program,
            [
                "lint",
                "charts/darda",
                "--strict",
                "--set",
                "auth.mode=open",
            ],
        );
        assert!(said.is_ok(), "{said:?}");
    }
}
