//! Parts of words, so that text inside a public room's id, name or topic is found by an index.
//!
//! A room keeps all runs of one, two and three characters of its words. Text that is looked for has the same runs in
//! every room that contains it; the few rooms an index finds by them are then looked at.

use std::collections::BTreeSet;

const LONGEST: usize = 3;
/// Runs of a text that are asked for; more would hardly find fewer rooms.
const ASKED_MAX: usize = 12;

/// All runs of a room's words.
pub(super) fn of(folded: &str) -> Vec<String> {
    let chars: Vec<char> = folded.chars().collect();
    let runs = (1..=LONGEST).flat_map(|length| chars.windows(length));
    let runs: BTreeSet<String> = runs.map(|run| run.iter().collect()).collect();
    runs.into_iter().collect()
}

/// Runs that every room with this text has. Empty where there is no text.
pub(super) fn asked(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    if chars.is_empty() {
        return Vec::new();
    }
    let runs = chars.windows(chars.len().min(LONGEST));
    let step = runs.len().div_ceil(ASKED_MAX).max(1);
    let runs: BTreeSet<String> = runs.step_by(step).map(|run| run.iter().collect()).collect();
    runs.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_text_is_found_by_its_runs() {
        let words = "general\ngroße runde\n100% $where {a: 1}";
        let kept = of(words);
        let chars: Vec<char> = words.chars().collect();
        for from in 0..chars.len() {
            for to in from + 1..=chars.len() {
                let part: String = chars[from..to].iter().collect();
                let asked = asked(&part);
                assert!(!asked.is_empty() && asked.len() <= ASKED_MAX);
                assert!(asked.iter().all(|run| kept.contains(run)), "{part:?}");
            }
        }
        assert!(asked("").is_empty());
        assert_eq!(asked("ab"), ["ab"]);
        assert!(!asked("grosse").iter().all(|run| kept.contains(run)));
    }
}
