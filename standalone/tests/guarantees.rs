//! `docs/guarantees.md` states every promise, and names only tests and files that exist.

use std::fs;
use std::path::{Path, PathBuf};

/// Every promise has these parts.
const PARTS: [&str; 3] = [
    "\nMechanism: ",
    "\nBroken on purpose by:\n",
    "\nNot promised: ",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn page() -> String {
    read("docs/guarantees.md")
}

/// The section of a promise, its heading first.
fn promise(page: &str, number: usize) -> &str {
    let heading = format!("P{number} ");
    let sections: Vec<&str> = page
        .split("\n## ")
        .filter(|section| section.starts_with(&heading))
        .collect();
    match sections[..] {
        [section] => section,
        _ => panic!("there are {} headings of P{number}", sections.len()),
    }
}

/// What stands between backticks, in prose.
fn quoted(text: &str) -> Vec<&str> {
    let mut quoted = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            let parts: Vec<&str> = line.split('`').collect();
            assert!(parts.len() % 2 == 1, "a backtick has no partner: {line}");
            quoted.extend(parts.into_iter().skip(1).step_by(2));
        }
    }
    quoted
}

/// The tests that are named, by file and name.
fn tests(text: &str) -> Vec<(&str, &str)> {
    quoted(text)
        .into_iter()
        .filter_map(|words| words.split_once("::"))
        .collect()
}

/// Whether a file has a test: a function in Rust, a title in TypeScript.
fn has_test(path: &str, name: &str) -> bool {
    let source = read(path);
    if path.ends_with(".rs") {
        source.contains(&format!("fn {name}("))
    } else {
        source.contains(&format!("test(\"{name}\""))
    }
}

fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
        .collect()
}

/// The name that a link uses for a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_promise_says_how_it_is_kept_and_which_tests_try_to_break_it() {
    let page = page();
    for number in 1..=9 {
        let promise = promise(&page, number);
        for part in PARTS {
            assert!(promise.contains(part), "P{number} has no part {part:?}");
        }
        assert!(!tests(promise).is_empty(), "P{number} names no test");
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let page = page();
    for (path, name) in tests(&page) {
        assert!(has_test(path, name), "{path} has no test '{name}'");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let page = page();
    let is_heading = |page: &str, name: &str| {
        let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
        headings.map(anchor).any(|known| known == name)
    };
    for link in links(&page) {
        if link.contains("://") {
            continue;
        }
        let (file, name) = link.split_once('#').unwrap_or((link, ""));
        let path = root().join("docs").join(file);
        assert!(path.exists(), "docs/{file} does not exist");
        let there = match file {
            "" => page.clone(),
            _ if name.is_empty() => continue,
            file => read(&format!("docs/{file}")),
        };
        assert!(is_heading(&there, name), "no heading for {link}");
    }
}
