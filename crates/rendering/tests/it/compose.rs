//! `compose.yaml` tells the programs nothing that they do not know.

use std::fs;

use rendering::environment;
use serde_json::Value;

#[test]
fn every_variable_is_known_and_every_name_is_there() {
    let text = fs::read_to_string(rendering::root().join("compose.yaml")).expect("compose.yaml");
    let file: Value = rendering::objects::documents(&text)
        .expect("YAML")
        .remove(0);
    let known = environment::known();
    let services = file["services"].as_object().expect("services");
    let mut seen = 0;
    for (name, service) in services {
        for variable in service["environment"]
            .as_object()
            .into_iter()
            .flat_map(|e| e.keys())
        {
            seen += 1;
            let is_known =
                !variable.starts_with("DARDA_") || environment::is_known(&known, variable);
            assert!(is_known, "{name}: no program knows {variable}");
        }
        let needs: Vec<&str> = match &service["depends_on"] {
            Value::Object(map) => map.keys().map(String::as_str).collect(),
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        for other in needs {
            assert!(services.contains_key(other), "{name} waits for {other}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume
                .as_str()
                .and_then(|v| v.split(':').next())
                .unwrap_or_default();
            assert!(
                file["volumes"].get(volume).is_some(),
                "{name}: there is no volume {volume}"
            );
        }
        let image = service["image"].as_str().unwrap_or_default();
        assert!(
            !image.is_empty() && !image.ends_with(":latest"),
            "{name}: {image:?}"
        );
    }
    assert!(seen > 20, "the file has lost its variables");
}
