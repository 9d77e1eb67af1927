//! Arguments and variables. No server is needed.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

fn bootstrap(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootstrap"));
    command.args(arguments).env_clear();
    command.envs(variables.iter().copied());
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    (
        status.code(),
        String::from_utf8([stdout, stderr].concat()).unwrap(),
    )
}

const SERVERS: [(&str, &str); 3] = [
    ("DARDA_REDIS_URL", "redis://127.0.0.1:1"),
    ("DARDA_RABBITMQ_URL", "amqp://u:s3cret@127.0.0.1:1/v"),
    ("DARDA_MONGODB_URI", "mongodb://u:s3cret@127.0.0.1:1/d"),
];

#[test]
fn help_lists_every_variable() {
    for argument in ["--help", "-h"] {
        let (code, text) = bootstrap(&[argument], &[]);
        assert_eq!(code, Some(0));
        for list in bootstrap::VARIABLES {
            for variable in *list {
                assert!(
                    text.contains(variable.name),
                    "no {} in:\n{text}",
                    variable.name
                );
            }
        }
    }
    let (code, text) = bootstrap(&["--version"], &[]);
    assert_eq!(
        (code, text.trim()),
        (Some(0), concat!("bootstrap ", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn what_is_not_understood_is_refused() {
    for arguments in [&[][..], &["explode"], &["run", "fast"]] {
        let (code, text) = bootstrap(arguments, &SERVERS);
        assert!(code == Some(2) && text.contains("Usage:"), "{text}");
    }
}

#[test]
fn a_bad_variable_is_named_and_ends_it() {
    for command in ["run", "check"] {
        for (name, value) in [
            ("DARDA_REDIS_URL", ""),
            ("DARDA_MONGODB_URI", "mongodb://u:s3c/ret@m"),
            ("DARDA_SHARDS", "0"),
            ("DARDA_BOOTSTRAP_MONGODB_MEMBERS", "m"),
            ("DARDA_BOOTSTRAP_MONGODB_KEY_FILE", "/nowhere"),
            ("DARDA_BOOTSTRAP_RABBITMQ_ADMIN_URL", "s3cret"),
            ("DARDA_LOG_FORMAT", "xml"),
        ] {
            let mut variables = SERVERS.to_vec();
            variables.retain(|(known, _)| *known != name);
            variables.push((name, value));
            let (code, text) = bootstrap(&[command], &variables);
            assert_eq!(code, Some(2), "{text}");
            let last = text.lines().last().unwrap_or_default();
            assert!(last.starts_with(&format!("Error: {name}: ")), "{text}");
            assert!(!text.contains("s3c"), "{text}");
        }
    }
    let (code, text) = bootstrap(&["secrets"], &[]);
    assert!(
        code == Some(2) && text.contains("DARDA_BOOTSTRAP_SECRET"),
        "{text}"
    );
}

/// As the first process of a container it would not be ended by a signal that it does not listen to.
#[test]
fn a_signal_ends_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootstrap"));
    command.arg("run").env_clear().envs(SERVERS);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let waits = said.find(|line| line.as_ref().unwrap().contains("waiting"));
    assert!(waits.is_some());
    let told = Command::new("kill").arg(child.id().to_string()).status();
    assert!(told.unwrap().success());
    let last = said.last().unwrap().unwrap();
    assert!(last.contains("ended by a signal"), "{last}");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// Outside of a pod there is nothing that `secrets` could ask.
#[test]
fn secrets_are_made_in_a_pod() {
    let (code, text) = bootstrap(&["secrets"], &[("DARDA_BOOTSTRAP_SECRET", "darda")]);
    assert!(
        code == Some(1) && text.contains("KUBERNETES_SERVICE_HOST"),
        "{text}"
    );
}
