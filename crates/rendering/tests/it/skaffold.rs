//! What skaffold would apply, by each of its profiles.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rendering::objects;
use rendering::rules;
use rendering::tools;

use crate::overlays;

/// skaffold wants Helm 3 and finds it under the name `helm` alone.
fn skaffold(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let helm = folder.path().join("helm");
    // A Helm that is built without its release's settings takes the cluster for an ancient one.
    let script = "#!/bin/sh\nfor word; do [ \"$word\" = template ] && exec helm3 \"$@\" --kube-version=1.36.0; done\nexec helm3 \"$@\"\n";
    fs::write(&helm, script).expect("a file");
    fs::set_permissions(&helm, fs::Permissions::from_mode(0o755)).expect("a file");
    let before = env::var_os("PATH").expect("PATH");
    let path = [folder.path().to_owned()]
        .into_iter()
        .chain(env::split_paths(&before));
    let mut command = Command::new("skaffold");
    command
        .args(arguments)
        .args(["--interactive=false", "--update-check=false"])
        .env("PATH", env::join_paths(path).expect("PATH"))
        .env("HOME", folder.path());
    tools::finish("skaffold", &mut command)
        .unwrap_or_else(|e| panic!("skaffold {arguments:?}: {e}"))
}

#[test]
fn every_profile_is_as_it_has_to_be() {
    if !tools::are_there(&["skaffold", "helm3", "kustomize"]) {
        return;
    }
    for profile in ["dev", "ha", "helm-staging"] {
        let text = skaffold(&[
            "render",
            "--profile",
            profile,
            "--offline=true",
            "--digest-source=tag",
        ]);
        // Nothing was built, so there is no other tag for what would be.
        let of_ours = |line: &str| match line.contains("darda-") {
            true => line.replace(":latest", ":built") + "\n",
            false => line.to_owned() + "\n",
        };
        let text: String = text.lines().map(of_ours).collect();
        let objects = objects::parse(&text).unwrap_or_else(|e| panic!("{profile}: {e}"));
        assert!(objects.len() > 30, "{profile}: {}", objects.len());
        let found = rules::complaints(&objects, &overlays::expected(profile));
        assert!(found.is_empty(), "{profile}:\n{}", found.join("\n"));
    }
}

#[test]
fn the_file_is_understood() {
    if !tools::are_there(&["skaffold", "helm3"]) {
        return;
    }
    for profile in ["dev", "ha", "helm-staging"] {
        let text = skaffold(&["diagnose", "--yaml-only", "--profile", profile]);
        assert!(text.contains("darda-bootstrap"), "{profile}: {text}");
    }
}
