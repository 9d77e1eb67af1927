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

#[test]
fn every_variable_is_on_the_page_with_its_default_and_meaning() {
    for variables in standalone::VARIABLES {
        let table = table(variables);
        assert!(
            PAGE.contains(&table),
            "docs/configuration.md does not have this table:\n\n{table}"
        );
    }
}

#[test]
fn the_page_names_no_other_variable() {
    let known: Vec<&str> = standalone::VARIABLES
        .iter()
        .flat_map(|variables| variables.iter())
        .map(|variable| variable.name)
        .collect();
    for word in PAGE.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
        if word.starts_with("DARDA_") && word != "DARDA_" {
            let base = word.strip_suffix("_FILE").unwrap_or(word);
            assert!(known.contains(&base), "{word} is not a variable");
        }
    }
}

#[test]
fn history_service_has_no_variable_that_is_not_on_the_page() {
    for variable in history_service::VARIABLES.iter().flat_map(|v| v.iter()) {
        assert!(
            PAGE.contains(&format!("`{}`", variable.name)),
            "{}",
            variable.name
        );
    }
}
