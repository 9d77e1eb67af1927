//! `docs/configuration.md` says what `standalone` says, and `standalone` has nothing of the cluster family.

use std::process::Command;

const PAGE: &str = include_str!("../../docs/configuration.md");

fn standalone() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_standalone"));
    command.env_clear();
    command
}

#[test]
fn every_variable_is_on_the_page_with_its_default_and_meaning() {
    for variable in standalone::VARIABLES.iter().flat_map(|list| list.iter()) {
        let default = match variable.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let line = format!("| `{}` | {default} | {} |", variable.name, variable.meaning);
        assert!(PAGE.contains(&line), "docs/configuration.md lacks: {line}");
    }
}

#[test]
fn help_does_not_list_what_it_does_not_read() {
    let output = standalone().arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("DARDA_DATA_DIR"), "{help}");
    for other in ["DARDA_REDIS_URL", "DARDA_SHARDS", "DARDA_HISTORY_URL"] {
        assert!(!help.contains(other), "{other}");
    }
}

#[test]
fn the_cluster_family_is_refused_with_the_programs_that_have_it() {
    let output = standalone()
        .env("DARDA_BACKEND", "cluster")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    for word in ["DARDA_BACKEND", "standalone", "embedded", "chat-service"] {
        assert!(said.contains(word), "{word} is missing in: {said}");
    }
}
