//! What has to be so of a pod.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Expected, containers, probed};
use crate::environment;
use crate::objects::{Object, Workload};

pub fn complaints(workload: &Workload, objects: &[Object], expected: &Expected) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |what: String| found.push(format!("{}: {what}", workload.id()));
    pod(workload, &mut say);
    for container in containers(workload) {
        let mut say = |what: String| say(format!("container {}: {what}", container.name));
        secure(container, expected, &mut say);
        measured(container, &mut say);
        image(container, &mut say);
    }
    if workload.lasts() {
        for container in &workload.spec.containers {
            probes(container, &mut say);
        }
        leaves_in_time(workload, objects, &mut say);
    }
    found
}

/// Pod Security "restricted", as far as it is said of the pod, and no token.
fn pod(workload: &Workload, say: &mut impl FnMut(String)) {
    let spec = &workload.spec;
    let security = spec.security_context.clone().unwrap_or_default();
    if security.run_as_non_root != Some(true) {
        say("may run as root".into());
    }
    if security.run_as_user.is_none_or(|user| user == 0) {
        say("its user is not said".into());
    }
    if security
        .seccomp_profile
        .is_none_or(|profile| profile.type_ != "RuntimeDefault")
    {
        say("has no seccomp profile".into());
    }
    for (what, is) in [
        ("network", spec.host_network),
        ("processes", spec.host_pid),
        ("IPC", spec.host_ipc),
    ] {
        if is == Some(true) {
            say(format!("shares the {what} of its node"));
        }
    }
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    for volume in volumes {
        if volume.config_map.is_none()
            && volume.secret.is_none()
            && volume.projected.is_none()
            && volume.empty_dir.is_none()
        {
            say(format!(
                "volume {} is of a kind that is not allowed",
                volume.name
            ));
        }
        if volume
            .empty_dir
            .as_ref()
            .is_some_and(|dir| dir.size_limit.is_none())
        {
            say(format!("volume {} may fill its node", volume.name));
        }
    }
    // One talks to Kubernetes: it fills a Secret.
    let token = spec.automount_service_account_token;
    if token != Some(workload.component() == "secrets") {
        say(format!("automountServiceAccountToken is {token:?}"));
    }
    // Otherwise Kubernetes makes variables of the names of Services, which begin with DARDA_.
    if spec.enable_service_links != Some(false) {
        say("is told of Services by variables".into());
    }
    if workload.lasts()
        && spec
            .restart_policy
            .as_deref()
            .is_some_and(|p| p != "Always")
    {
        say("is not started again".into());
    }
}

/// Pod Security "restricted", and a root file system that nobody writes to.
fn secure(container: &Container, expected: &Expected, say: &mut impl FnMut(String)) {
    let security = container.security_context.clone().unwrap_or_default();
    if security.allow_privilege_escalation != Some(false) {
        say("may get more rights".into());
    }
    if security.privileged == Some(true) {
        say("is privileged".into());
    }
    if security.run_as_user == Some(0) || security.run_as_non_root == Some(false) {
        say("may run as root".into());
    }
    let writable = expected.writable.contains(&container.name);
    if security.read_only_root_filesystem != Some(!writable) {
        say("its root file system is not as expected".into());
    }
    let capabilities = security.capabilities.unwrap_or_default();
    if capabilities.drop.unwrap_or_default() != ["ALL"] || capabilities.add.is_some() {
        say("keeps capabilities".into());
    }
    if container
        .ports
        .iter()
        .flatten()
        .any(|port| port.host_port.is_some())
    {
        say("takes a port of its node".into());
    }
}

/// Requests for both, and a limit of memory. (None of the processor, which would only make waiting of idle time.)
fn measured(container: &Container, say: &mut impl FnMut(String)) {
    let resources = container.resources.clone().unwrap_or_default();
    let requests = resources.requests.unwrap_or_default();
    for what in ["cpu", "memory"] {
        if !requests.contains_key(what) {
            say(format!("requests no {what}"));
        }
    }
    if !resources.limits.unwrap_or_default().contains_key("memory") {
        say("has no limit of memory".into());
    }
}

/// A version that stays what it is.
fn image(container: &Container, say: &mut impl FnMut(String)) {
    let image = container.image.as_deref().unwrap_or_default();
    let after = image.rsplit('/').next().unwrap_or_default();
    let tag = after.split_once([':', '@']).map_or("", |(_, tag)| tag);
    if tag.is_empty() || tag == "latest" {
        say(format!("{image:?} may be any version"));
    }
    if container.image_pull_policy.is_none() {
        say("when its image is pulled is not said".into());
    }
}

/// All three, of ports that it has.
fn probes(container: &Container, say: &mut impl FnMut(String)) {
    let ports = container.ports.as_deref().unwrap_or_default();
    for (name, probe) in [
        ("startup", &container.startup_probe),
        ("readiness", &container.readiness_probe),
        ("liveness", &container.liveness_probe),
    ] {
        let Some(probe) = probe else {
            say(format!("has no {name} probe"));
            continue;
        };
        match probed(probe) {
            Some(IntOrString::String(port))
                if ports.iter().any(|p| p.name.as_ref() == Some(port)) => {}
            Some(IntOrString::String(port)) => {
                say(format!("the {name} probe asks {port}, which it has not"))
            }
            Some(IntOrString::Int(number)) => {
                say(format!("the {name} probe asks {number}, not a name"))
            }
            None if probe.exec.is_none() => say(format!("the {name} probe asks nothing")),
            None => {}
        }
    }
}

/// What the programs take, beside the sleep before it: README of each, and `docs/kubernetes.md`.
fn leaves_in_time(workload: &Workload, objects: &[Object], say: &mut impl FnMut(String)) {
    let told = environment::of(workload, objects);
    let drain = || {
        let secs = told
            .get("DARDA_DRAIN_SECS")
            .and_then(|secs| secs.parse().ok());
        secs.unwrap_or(20)
    };
    let takes = match workload.component() {
        "chat-service" => drain() + 10,
        "history-service" => 15,
        "persistence-worker" => drain() + 5,
        // Until everything is on the disk.
        _ => 10,
    };
    let sleeps = before_the_end(&workload.spec);
    let has = workload.spec.termination_grace_period_seconds.unwrap_or(30);
    if has < sleeps + takes {
        say(format!(
            "is killed after {has} s, but takes {sleeps} + {takes} s to leave"
        ));
    }
}

/// The longest time that is spent before the process is told.
fn before_the_end(spec: &PodSpec) -> i64 {
    let hooks = spec.containers.iter().filter_map(|container| {
        let hook = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
        let sleep = hook.sleep.as_ref().map_or(0, |sleep| sleep.seconds);
        let command = hook.exec.as_ref().and_then(|exec| exec.command.clone());
        let words = command.unwrap_or_default().join(" ");
        // `-t 60; … -t 30`
        let waits = words.split("-t ").skip(1).filter_map(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<i64>().ok()
        });
        Some(sleep + waits.sum::<i64>())
    });
    hooks.max().unwrap_or(0)
}
