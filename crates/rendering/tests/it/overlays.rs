//! The overlays, and each component by itself beside them.

use std::fs;

use rendering::objects::{self, Object};
use rendering::rules::{self, Expected};
use rendering::tools;

/// What kustomize makes of a folder, by its path in the project.
pub fn build(folder: &str) -> (String, Vec<Object>) {
    let text =
        tools::run("kustomize", ["build", folder]).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let objects = objects::parse(&text).unwrap_or_else(|e| panic!("{folder}: {e}"));
    (text, objects)
}

pub const OVERLAYS: &[&str] = &["dev", "staging", "ha"];

pub fn expected(overlay: &str) -> Expected {
    Expected {
        // skaffold puts the files of the page into it.
        writable: (overlay == "dev")
            .then(|| "chat-service".to_owned())
            .into_iter()
            .collect(),
        ..Expected::default()
    }
}

#[test]
fn every_overlay_is_as_it_has_to_be() {
    if !tools::are_there(&["kustomize"]) {
        return;
    }
    for overlay in OVERLAYS {
        let (_, objects) = build(&format!("manifests/overlays/{overlay}"));
        let found = rules::complaints(&objects, &expected(overlay));
        assert!(found.is_empty(), "{overlay}:\n{}", found.join("\n"));
    }
}

/// A kustomization of one's own: the base with these components.
fn with(components: &[&str]) -> (tempfile::TempDir, String) {
    // kustomize takes what is in the same project by a path that leads nowhere else.
    let folder = tempfile::tempdir_in(rendering::root().join("manifests")).expect("a folder");
    let components: String = components
        .iter()
        .map(|name| format!("  - ../components/{name}\n"))
        .collect();
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../base]\ncomponents:\n{components}"
    );
    fs::write(folder.path().join("kustomization.yaml"), text).expect("a file");
    let path = folder.path().display().to_string();
    (folder, path)
}

/// Everything that is to be had beside everything else, with either kind of passwords.
#[test]
fn every_component_goes_with_the_others() {
    if !tools::are_there(&["kustomize"]) {
        return;
    }
    let passwords = ["secrets-dev", "secrets-made"];
    let extras: [&[&str]; 4] = [&[], &["monitoring"], &["keda"], &["monitoring", "keda"]];
    for secrets in passwords {
        for extra in extras {
            let mut components = vec!["redis", "rabbitmq", "mongodb", "open", secrets];
            components.extend(extra);
            let (_folder, path) = with(&components);
            let (_, objects) = build(&path);
            let found = rules::complaints(&objects, &Expected::default());
            assert!(found.is_empty(), "{components:?}:\n{}", found.join("\n"));
        }
    }
}
