//! Choices of which each has several ways, and cases in which every two ways of every two choices meet.

use serde_json::Value;

/// Something that can be one way or another. The first way is what holds when nothing is said.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub name: &'static str,
    /// A name and the values that make it so.
    pub ways: &'static [(&'static str, &'static str)],
}

/// For each choice the index of its way.
pub type Case = Vec<usize>;

/// Cases in which every two ways that may meet do.
pub fn cases(choices: &[Choice], may_meet: impl Fn(&[Choice], &Case) -> bool) -> Vec<Case> {
    let mut open = Vec::new();
    for first in 0..choices.len() {
        for second in first + 1..choices.len() {
            for a in 0..choices[first].ways.len() {
                for b in 0..choices[second].ways.len() {
                    let mut case = vec![0; choices.len()];
                    (case[first], case[second]) = (a, b);
                    if may_meet(choices, &case) {
                        open.push((first, a, second, b));
                    }
                }
            }
        }
    }
    let mut cases = Vec::new();
    while let Some(&(first, a, second, b)) = open.first() {
        let mut case = vec![0; choices.len()];
        (case[first], case[second]) = (a, b);
        let mut settled = vec![first, second];
        for choice in 0..choices.len() {
            if settled.contains(&choice) {
                continue;
            }
            let gain = |way: usize| {
                let met = |one: usize, its: usize, other: usize| {
                    one == choice && its == way && settled.contains(&other)
                };
                let new = |&&(f, x, s, y): &&(usize, usize, usize, usize)| {
                    (met(f, x, s) && case[s] == y) || (met(s, y, f) && case[f] == x)
                };
                open.iter().filter(new).count()
            };
            let fits = |way: &usize| {
                let mut tried = case.clone();
                tried[choice] = *way;
                may_meet(choices, &tried)
            };
            let ways = (0..choices[choice].ways.len()).filter(fits);
            // Of equal ways the first, so that a case strays no further than it has to.
            case[choice] = ways.rev().max_by_key(|way| gain(*way)).unwrap_or(0);
            settled.push(choice);
        }
        let before = open.len();
        open.retain(|&(f, x, s, y)| case[f] != x || case[s] != y);
        assert!(open.len() < before, "a case that meets nothing new");
        cases.push(case);
    }
    cases
}

/// What a case is called: the ways that are not the first.
pub fn name(choices: &[Choice], case: &Case) -> String {
    let ways = choices.iter().zip(case).filter(|(_, way)| **way > 0);
    let names: Vec<_> = ways
        .map(|(choice, way)| format!("{}={}", choice.name, choice.ways[*way].0))
        .collect();
    if names.is_empty() {
        "nothing said".to_owned()
    } else {
        names.join(" ")
    }
}

/// Puts values over values, as Helm does.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_two_ways_meet_that_may() {
        const WAYS: &[(&str, &str)] = &[("a", ""), ("b", ""), ("c", "")];
        let choices: Vec<Choice> = ["p", "q", "r", "s", "t"]
            .into_iter()
            .map(|name| Choice { name, ways: WAYS })
            .collect();
        // The last way of p does not go with the last of q.
        let may_meet = |_: &[Choice], case: &Case| case[0] != 2 || case[1] != 2;
        let cases = cases(&choices, may_meet);
        assert!(cases.len() <= 20, "{}", cases.len());
        for first in 0..5 {
            for second in first + 1..5 {
                for (a, b) in (0..9).map(|n| (n / 3, n % 3)) {
                    let met = cases.iter().any(|c| c[first] == a && c[second] == b);
                    let expected = (first, second, a, b) != (0, 1, 2, 2);
                    assert_eq!(met, expected, "{first}={a} {second}={b}");
                }
            }
        }
    }
}
