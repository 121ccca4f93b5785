//! Whether an expression holds for a JSON line.

use std::cmp::Ordering;

use busline::{Offset, Timestamp};
use serde_json::{Number, Value};

use super::{Node, Operator};

/// A field that is missing is null; what cannot be compared is unequal and in no order.
pub(super) fn holds(node: &Node, line: &Value) -> bool {
    match node {
        Node::All(nodes) => nodes.iter().all(|node| holds(node, line)),
        Node::Any(nodes) => nodes.iter().any(|node| holds(node, line)),
        Node::Not(node) => !holds(node, line),
        Node::Matches { path, pattern } => {
            field(line, path).as_str().is_some_and(|text| pattern.matches(text))
        }
        Node::Compare { path, operator, literal } => {
            let order = compare(field(line, path), literal);
            match operator {
                Operator::Equal => order == Some(Ordering::Equal),
                Operator::NotEqual => order != Some(Ordering::Equal),
                Operator::Less => order == Some(Ordering::Less),
                Operator::LessOrEqual => order.is_some_and(Ordering::is_le),
                Operator::Greater => order == Some(Ordering::Greater),
                Operator::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
            }
        }
    }
}

fn field<'a>(line: &'a Value, path: &[String]) -> &'a Value {
    let step = |value: &'a Value, name: &String| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        value => value.get(name),
    };
    path.iter().try_fold(line, step).unwrap_or(&Value::Null)
}

fn compare(found: &Value, literal: &Value) -> Option<Ordering> {
    match (found, literal) {
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => Some(compare_texts(a, b)),
        _ => None,
    }
}

fn compare_numbers(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

/// Times and offsets by their own order, other texts by their characters.
fn compare_texts(a: &str, b: &str) -> Ordering {
    let is_time = |text: &str| text.len() >= 20 && text.contains('T');
    if is_time(a)
        && is_time(b)
        && let (Ok(a), Ok(b)) = (a.parse::<Timestamp>(), b.parse::<Timestamp>())
    {
        return a.cmp(&b);
    }
    if let (Ok(a), Ok(b)) = (a.parse::<Offset>(), b.parse::<Offset>())
        && let Some(order) = a.compare(&b)
    {
        return order;
    }
    a.cmp(b)
}

#[cfg(test)]
mod tests {
    use crate::filter::Filter;

    #[track_caller]
    fn check(filter: &str, expected: bool) {
        let line = serde_json::json!({
            "key": "quake.us.strong", "attempt": 3, "offset": "ab.10", "reason": null,
            "headers": {"source": "a", "x.y": 1, "list": [1, "two"]},
            "time": "2018-02-07T00:31:39.65Z",
            "payload": {"magnitude": 5.5, "felt": null, "deep": {"er": true}},
        });
        let filter: Filter = filter.parse().unwrap();
        assert_eq!(filter.holds(&line), expected, "{filter:?}");
    }

    #[test]
    fn expressions() {
        check("key ~ 'quake.*.strong' and attempt > 2 and headers.source == 'a'", true);
        check("key ~ 'quake.*' or attempt <= 2", false);
        check("not (key ~ '#' and attempt == 4)", true);
        check("headers.'x.y' == 1 and headers.list.1 == 'two'", true);
        check("payload.magnitude >= 5.5 and payload.deep.er == true", true);
        check("payload.magnitude > 5", true);
        check("payload.magnitude < -1", false);
        check("key == \"quake.us.strong\"", true);
        check("key < 'r' and key > 'a'", true);
    }

    #[test]
    fn what_is_missing_is_null_and_in_no_order() {
        check("payload.nothing == null and payload.felt == null and reason == null", true);
        check("payload.nothing != 'x'", true);
        check("payload.nothing > 1 or payload.nothing <= 1", false);
        check("key == 5", false);
        check("key != 5", true);
        check("attempt ~ '#'", false);
        check("payload.magnitude.deeper == null", true);
    }

    #[test]
    fn times_and_offsets_have_their_own_order() {
        check("time > '2018-02-07T00:31:39Z'", true);
        check("time < '2018-02-07T02:31:40+01:00'", true);
        check("offset > 'ab.9'", true);
        check("attempt == 3.0", true);
    }
}
