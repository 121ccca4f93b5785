//! Entry points for fuzzing what people and programs write as text: keys, patterns, offsets and positions. For
//! `fuzz/` and the smoke test; no part of the API.

use crate::{Key, KeyPattern, Offset, Patterns, Position};

/// Does with arbitrary bytes what a program would do with them.
pub type Target = fn(&[u8]);

/// Every target by name. The seeds of one are the files of `fuzz/seeds/{name}`.
pub const TARGETS: &[(&str, Target)] =
    &[("core_patterns", patterns), ("core_positions", positions)];

/// Runs a target on some bytes; panics when there is none of this name.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, run) = found.expect("the target is in the table");
    run(data);
}

/// Lines: a key, and patterns that are compared with the definition of matching, each alone and all together.
fn patterns(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let Ok(key) = lines.next().unwrap_or_default().parse::<Key>() else { return };
    let parsed: Vec<KeyPattern> = lines.take(8).filter_map(|line| line.parse().ok()).collect();
    let mut any = parsed.is_empty();
    for pattern in &parsed {
        let matches = pattern.matches(key.as_str());
        assert_eq!(matches, by_definition(pattern.as_str(), key.as_str()), "{pattern} {key}");
        assert!(matches || !pattern.is_all(), "{pattern} {key}");
        if let Some(only) = pattern.as_key() {
            assert_eq!(matches, only == key.as_str(), "{pattern} {key}");
        }
        any |= matches;
    }
    let set = Patterns::new(parsed);
    assert_eq!(set.matches(key.as_str()), any, "{set} {key}");
    if let Some(keys) = set.as_keys() {
        assert_eq!(keys.contains(&key.as_str()), any, "{set} {key}");
    }
}

/// Which prefixes of the key the pattern so far matches, word by word of the pattern.
fn by_definition(pattern: &str, key: &str) -> bool {
    let words = |text: &str| match text {
        "" => Vec::new(),
        _ => text.split('.').map(str::to_owned).collect::<Vec<_>>(),
    };
    let key = words(key);
    let mut matched: Vec<bool> = (0..=key.len()).map(|len| len == 0).collect();
    for word in words(pattern) {
        let mut next = vec![false; key.len() + 1];
        for len in 0..=key.len() {
            let before = |len: usize| matched.get(len).copied().unwrap_or(false);
            let taken = len.checked_sub(1).and_then(|at| key.get(at).map(|found| (at, found)));
            let is_match = match (word.as_str(), taken) {
                ("#", _) => (0..=len).any(before),
                ("*", Some((at, _))) => before(at),
                (word, Some((at, found))) => word == found && before(at),
                (_, None) => false,
            };
            if let Some(place) = next.get_mut(len) {
                *place = is_match;
            }
        }
        matched = next;
    }
    matched.last().copied().unwrap_or(false)
}

/// Lines: positions. What is understood is printed so that it is understood as the same.
fn positions(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let offsets: Vec<Offset> = text
        .split('\n')
        .take(8)
        .filter_map(|line| {
            let position: Position = line.parse().ok()?;
            let printed = position.to_string();
            assert_eq!(printed.parse::<Position>().ok().as_ref(), Some(&position), "{printed}");
            match position {
                Position::Offset(offset) => Some(offset),
                _ => None,
            }
        })
        .collect();
    for one in &offsets {
        assert_eq!(one.compare(one), Some(std::cmp::Ordering::Equal));
        assert!(one.pairs().is_sorted() && one.pairs().all(|(s, n)| one.number(s) == Some(n)));
        assert_ne!(one.compare(&one.next()), Some(std::cmp::Ordering::Greater));
        for other in &offsets {
            let reversed = other.compare(one).map(std::cmp::Ordering::reverse);
            assert_eq!(one.compare(other), reversed, "{one} {other}");
        }
    }
}

#[cfg(test)]
mod tests;
