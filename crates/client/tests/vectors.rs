//! Runs every scenario of `vectors/resume` against the engine. `vectors/README.md` describes the files.

use std::path::{Path, PathBuf};

use client::engine::{Config, Engine, Input, Moment, Saved};
use protocol::ServerFrame;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    name: String,
    description: String,
    #[serde(default)]
    config: Config,
    #[serde(default)]
    saved: Saved,
    random: f64,
    steps: Vec<Step>,
    state: Option<Saved>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at: u64,
    random: Option<f64>,
    input: Value,
    expect: Vec<Value>,
    #[serde(default, deserialize_with = "present")]
    wake: Option<Value>,
}

/// Tells `"wake": null` from no `wake`.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A frame that this version does not know is only a sign of life.
fn input(value: &Value) -> Input {
    if let Some(parts) = value.get("frame")
        && ServerFrame::decode(parts["frame"].to_string().as_bytes()).is_err()
    {
        let conn = parts["conn"].as_u64().expect("conn is a number");
        return Input::Heard { conn };
    }
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

fn run(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let file = path.file_stem().unwrap().to_str().unwrap();
    let scenario: Scenario =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(scenario.name, file, "the name is the file name");
    assert!(!scenario.description.is_empty(), "{file}");
    let mut engine = Engine::new(scenario.config, scenario.saved);
    for (index, step) in scenario.steps.iter().enumerate() {
        let moment = Moment {
            now_ms: step.at,
            random: step.random.unwrap_or(scenario.random),
        };
        let effects = engine.handle(input(&step.input), moment);
        assert_eq!(
            json!(effects),
            json!(step.expect),
            "{file}, step {index}: {}",
            step.input
        );
        if let Some(wake) = &step.wake {
            assert_eq!(
                &json!(engine.wake_at()),
                wake,
                "{file}, wake of step {index}"
            );
        }
    }
    if let Some(state) = scenario.state {
        assert_eq!(engine.saved(), state, "{file}, state");
    }
}

#[test]
fn every_scenario_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/resume");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|word| word == "json"))
        .collect();
    files.sort();
    assert!(files.len() >= 20, "{} scenarios in {folder:?}", files.len());
    for file in files {
        run(&file);
    }
}
