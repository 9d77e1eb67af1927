//! `docs/configuration.md` says what the programs say.

use runtime::Variable;

const PAGE: &str = include_str!("../../docs/configuration.md");

fn table(variables: &[Variable]) -> String {
    let mut table = "| variable | default | meaning |\n| --- | --- | --- |\n".to_owned();
    for variable in variables {
        let default = match variable.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let meaning = variable.meaning.replace('|', "\\|");
        table.push_str(&format!(
            "| `{}` | {default} | {meaning} |\n",
            variable.name
        ));
    }
    table
}

/// The lists of all programs. Those of standalone are among them, as its own tests check.
fn lists() -> impl Iterator<Item = &'static [Variable]> {
    let programs = [
        chat_service::VARIABLES,
        history_service::VARIABLES,
        bootstrap::VARIABLES,
    ];
    programs.into_iter().flatten().copied()
}

#[test]
fn every_variable_is_on_the_page_with_its_default_and_meaning() {
    for variables in lists() {
        let table = table(variables);
        assert!(
            PAGE.contains(&table),
            "docs/configuration.md does not have this table:\n\n{table}"
        );
    }
}

#[test]
fn the_page_names_no_other_variable() {
    let known: Vec<&str> = lists().flatten().map(|variable| variable.name).collect();
    for word in PAGE.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
        if word.starts_with("DARDA_") && word != "DARDA_" {
            let base = word.strip_suffix("_FILE").unwrap_or(word);
            let is_known = known.contains(&word) || known.contains(&base);
            assert!(is_known, "{word} is not a variable");
        }
    }
}

#[test]
fn the_cluster_has_its_variables() {
    assert!(
        lists()
            .flatten()
            .any(|variable| variable.name == "DARDA_REDIS_URL")
    );
}
