//! Schemas for kubeconform, made of what Kubernetes and the projects of other kinds publish: `scripts/setup test` puts that
//! into `.tools/schemas`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::objects;

/// The oldest Kubernetes that is allowed, and the newest that we know of.
pub const VERSIONS: &[&str] = &["1.30", "1.36"];

/// How kubeconform finds the file of a kind.
pub const NAMES: &str = "{{.Group}}_{{.ResourceKind}}_{{.ResourceAPIVersion}}.json";

/// What was fetched, if it was.
pub fn fetched() -> Option<PathBuf> {
    let folder = crate::root().join(".tools/schemas");
    folder.join("complete").exists().then_some(folder)
}

/// Writes a file for each kind of a version of Kubernetes, and of others.
pub fn write(fetched: &Path, version: &str, into: &Path) {
    let file = fetched.join(format!("kubernetes-{version}.json"));
    let text = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut description: Value = serde_json::from_slice(&text).expect("JSON");
    let mut definitions = description["definitions"].take();
    for definition in definitions
        .as_object_mut()
        .expect("definitions")
        .values_mut()
    {
        close(definition);
    }
    let definitions = definitions.as_object().expect("definitions");
    for (name, definition) in definitions {
        let kinds = definition.get("x-kubernetes-group-version-kind");
        for kind in kinds.and_then(Value::as_array).into_iter().flatten() {
            let mut needed = BTreeSet::new();
            gather(name, definitions, &mut needed);
            let needed: Map<_, _> = needed
                .into_iter()
                .map(|name| (name.to_owned(), definitions[name].clone()))
                .collect();
            let schema = json!({
                "$ref": format!("#/definitions/{name}"),
                "required": ["apiVersion", "kind", "metadata"],
                "definitions": needed,
            });
            let text = |field: &str| kind[field].as_str().unwrap_or_default();
            put(into, text("group"), text("kind"), text("version"), &schema);
        }
    }
    for entry in fs::read_dir(fetched.join("crds")).expect("crds") {
        let file = entry.expect("crds").path();
        let text = fs::read_to_string(&file).expect("a CRD");
        for object in objects::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display())) {
            of_others(object.0, into);
        }
    }
}

fn of_others(mut definition: Value, into: &Path) {
    let spec = definition["spec"].take();
    let text = |pointer: &str| {
        spec.pointer(pointer)
            .and_then(Value::as_str)
            .expect("a CRD")
    };
    for version in spec["versions"].as_array().expect("versions") {
        let mut schema = version["schema"]["openAPIV3Schema"].clone();
        close(&mut schema);
        // Every object has one, and the server checks it itself.
        schema["properties"]["metadata"] = json!({"type": "object"});
        let name = version["name"].as_str().expect("a version");
        put(into, text("/group"), text("/names/kind"), name, &schema);
    }
}

fn put(into: &Path, group: &str, kind: &str, version: &str, schema: &Value) {
    // kubeconform takes the version for the group where there is none.
    let group = if group.is_empty() { version } else { group };
    let name = format!("{group}_{}_{version}.json", kind.to_lowercase());
    fs::write(into.join(name), schema.to_string()).expect("a file");
}

/// Lets nothing through that is not said: a field nobody knows is a mistake of ours.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map
                .get("format")
                .is_some_and(|format| format == "int-or-string")
            {
                map.remove("type");
                map.insert("type".into(), json!(["integer", "string"]));
            }
            let open = map.contains_key("additionalProperties")
                || map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            // A list of names, not a field that happens to be called so.
            let listed = map.get("properties").is_some_and(Value::is_object);
            let described = map.get("type").is_some_and(|kind| kind == "object");
            if listed && described && !open {
                map.insert("additionalProperties".into(), Value::Bool(false));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}

/// All definitions that this one is made of.
fn gather<'a>(name: &'a str, all: &'a Map<String, Value>, needed: &mut BTreeSet<&'a str>) {
    if needed.insert(name) {
        references(&all[name], &mut |other| gather(other, all, needed));
    }
}

fn references<'a>(value: &'a Value, found: &mut impl FnMut(&'a str)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value
                    .as_str()
                    .and_then(|v| v.strip_prefix("#/definitions/"))
                {
                    Some(name) if key == "$ref" => found(name),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}
