//! Entry points for fuzzing: events of Hermes. For `fuzz/` and the smoke test; no part of the API.

use crate::log::hermes::{DataSchema, Event};

/// Does with arbitrary bytes what a program would do with them.
pub type Target = fn(&[u8]);

/// Every target by name. The seeds of one are the files of `fuzz/seeds/{name}`.
pub const TARGETS: &[(&str, Target)] = &[("hermes_event", event)];

/// Runs a target on some bytes; panics when there is none of this name.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, run) = found.expect("the target is in the table");
    run(data);
}

/// The text of an event: what is understood is written so that it is understood as the same.
fn event(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(event) = Event::from_json(&text) else { return };
    // No one line of a log takes more than this, whatever the event holds.
    assert!(format!("{event} {event:?}").len() < 64 << 10);
    let _ = event.changes();
    let _ = event.attributes().map(DataSchema::from_map);
    let written = event.to_json().expect("what was read nests no deeper than what is written");
    assert!(written.is_ascii());
    let again = Event::from_json(&written).expect("what was written is read");
    assert_eq!(again.to_json().expect("it is as deep"), written);
}

#[cfg(test)]
mod tests;
