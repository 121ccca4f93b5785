//! The reference: every field of every JSON line is in the help, and nothing else is.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::Place;

/// The fields that the help of a verb documents.
fn documented(place: &Place, verb: &[&str]) -> BTreeSet<String> {
    let done = place.run(&[verb, &["--help"]].concat());
    let (_, below) = done.stdout.split_once("JSON lines (--json):").expect("it has a reference");
    let fields = below.lines().skip(1).take_while(|line| line.starts_with("  "));
    fields.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

fn keys(line: &Value) -> BTreeSet<String> {
    line.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn every_json_line_is_as_the_help_says() {
    let place = Place::new();
    place.publish("t", &["a", "b", "c"]);
    place.json(&["consume", "t", "--group", "g", "--count", "1", "--reject", "no"]);
    std::fs::write(place.path().join("payload.json"), "1").unwrap();
    let quick = ["--messages", "50", "--samples", "3"];
    for (verb, more) in [
        (&["publish"][..], &["t", "--data", "x"][..]),
        (&["read"], &["t"]),
        (&["consume"], &["t", "--group", "g", "--count", "1"]),
        (&["topics"], &[]),
        (&["groups"], &[]),
        (&["group", "reset"], &["t", "g", "--to", "earliest", "--dry-run"]),
        (&["group", "delete"], &["t", "g", "--dry-run"]),
        (&["topic", "delete"], &["t", "--dry-run"]),
        (&["dead", "list"], &["g"]),
        (&["dead", "show"], &["g"]),
        (&["dead", "redrive"], &["g", "--dry-run"]),
        (&["dead", "purge"], &["g", "--dry-run"]),
        (&["event", "publish"], &["E", "payload.json"]),
        (&["configuration", "publish"], &["C", "payload.json"]),
        (&["bridge"], &["--from", "file:./busline-data", "t", "--to", "file:./other", "t"]),
        (&["log", "verify"], &["busline-data"]),
        (&["log", "repair"], &["busline-data"]),
        (&["doctor"], &[]),
        (&["bench"], &quick),
        (&["demo"], &["--keep", "kept"]),
    ] {
        let lines = place.json(&[verb, more].concat());
        assert!(!lines.is_empty(), "{verb:?}");
        let documented = documented(&place, verb);
        for line in &lines {
            assert_eq!(keys(line), documented, "{verb:?}");
        }
    }
}

#[test]
fn man_pages_and_completions_are_made_from_the_arguments() {
    let place = Place::new();
    let page = place.run(&["man", "dead", "redrive"]);
    assert_eq!(page.code, 0);
    assert!(page.stdout.contains("max\\-redrives") && page.stdout.contains("remaining"));
    std::fs::create_dir(place.path().join("man")).unwrap();
    assert_eq!(place.run(&["man", "--dir", "man"]).code, 0);
    let pages = std::fs::read_dir(place.path().join("man")).unwrap().count();
    assert!(pages >= 18, "{pages}");
    assert!(place.path().join("man/busline-dead-redrive.1").is_file());
    place.run(&["man", "fly"]).fails(2, &["no verb 'fly'"]);
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completions", shell]);
        assert_eq!(script.code, 0);
        assert!(script.stdout.contains("redrive"));
    }
}

#[test]
fn the_tour_in_the_examples_runs() {
    let place = Place::new();
    let tour = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tour.sh");
    let programs = std::path::Path::new(crate::support::BUSLINE).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = std::process::Command::new(tour)
        .env("PATH", format!("{}:{path}", programs.display()))
        .current_dir(place.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout} {}", String::from_utf8_lossy(&output.stderr));
    for words in ["stored 1,707 messages", "the sensor was moved", "2 of 2 put back", "\nsound "] {
        assert!(stdout.contains(words), "'{words}' is not in {stdout}");
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn colours_only_for_terminals() {
    let place = Place::new();
    place.publish("t", &["a"]);
    assert!(!place.run(&["read", "t"]).stdout.contains('\u{1b}'));
    assert!(!place.run(&["read", "missing"]).stderr.contains('\u{1b}'));
    let forced = place.command(&["read", "t"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(String::from_utf8(forced.stdout).unwrap().contains('\u{1b}'));
    let mut never = place.command(&["read", "t"]);
    let never = never.env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
    assert!(!String::from_utf8(never.stdout).unwrap().contains('\u{1b}'));
}
