//! Where two values are not the same.

use serde_json::Value;

/// One place.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub pointer: String,
    pub left: Option<Value>,
    pub right: Option<Value>,
}

/// All places, the deepest that say it. Lists are compared by position.
pub fn between(left: &Value, right: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk(Some(left), Some(right), &mut String::new(), &mut found);
    found
}

fn walk(left: Option<&Value>, right: Option<&Value>, at: &mut String, found: &mut Vec<Difference>) {
    match (left, right) {
        (Some(left), Some(right)) if left == right => {}
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            let mut keys: Vec<_> = left.keys().chain(right.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let step = key.replace('~', "~0").replace('/', "~1");
                down(at, &step, left.get(key), right.get(key), found);
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            for index in 0..left.len().max(right.len()) {
                let step = index.to_string();
                down(at, &step, left.get(index), right.get(index), found);
            }
        }
        _ => found.push(Difference {
            pointer: at.clone(),
            left: left.cloned(),
            right: right.cloned(),
        }),
    }
}

fn down(
    at: &mut String,
    step: &str,
    left: Option<&Value>,
    right: Option<&Value>,
    found: &mut Vec<Difference>,
) {
    let length = at.len();
    at.push('/');
    at.push_str(step);
    walk(left, right, at, found);
    at.truncate(length);
}
