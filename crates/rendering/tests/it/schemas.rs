//! Everything that is rendered against the schemas of the oldest and the newest Kubernetes, strictly.

use std::fs;

use rendering::schemas::{self, NAMES, VERSIONS};
use rendering::tools;

use crate::{chart, overlays};

#[test]
fn the_oldest_and_the_newest_kubernetes_take_it() {
    if !tools::are_there(&["kubeconform", "helm", "helm3", "kustomize"]) {
        return;
    }
    let Some(fetched) = schemas::fetched() else {
        tools::lacking("the schemas of Kubernetes (scripts/setup test, with Go)");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let rendered = folder.path().join("rendered");
    fs::create_dir(&rendered).expect("a folder");
    for (index, case) in chart::rendered().iter().enumerate() {
        let text = format!("# {}\n{}", case.name, case.text);
        fs::write(rendered.join(format!("{index}.yaml")), text).expect("a file");
    }
    for overlay in overlays::OVERLAYS {
        let (text, _) = overlays::build(&format!("manifests/overlays/{overlay}"));
        fs::write(rendered.join(format!("{overlay}.yaml")), text).expect("a file");
    }
    for version in VERSIONS {
        let into = folder.path().join(version);
        fs::create_dir(&into).expect("a folder");
        schemas::write(&fetched, version, &into);
        let location = format!("{}/{NAMES}", into.display());
        let rendered = rendered.display().to_string();
        let said = kubeconform(&location, &rendered);
        assert!(said.is_ok(), "Kubernetes {version}: {}", said.unwrap_err());
        // It finds what it is there for.
        let wrong = folder.path().join(format!("wrong-{version}.yaml"));
        let text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, dada: {}}";
        fs::write(&wrong, text).expect("a file");
        let said = kubeconform(&location, &wrong.display().to_string());
        assert!(
            said.is_err_and(|said| said.contains("dada")),
            "Kubernetes {version}"
        );
    }
}

/// What it has to say, on whichever output.
fn kubeconform(location: &str, what: &str) -> Result<String, String> {
    let output = std::process::Command::new("kubeconform")
        .args(["-strict", "-schema-location", location, what])
        .output()
        .expect("kubeconform");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(said)
    }
}
