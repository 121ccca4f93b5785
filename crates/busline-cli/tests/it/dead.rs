//! `dead`: list, show, redrive with its loop guard, purge.

use serde_json::json;

use crate::support::Place;

/// Three letters of group g: reasons one, one, two.
fn place() -> Place {
    let place = Place::new();
    place.publish("t", &["a.x", "b.x", "c.y"]);
    reject(&place, 2, "one");
    reject(&place, 1, "two");
    place
}

fn reject(place: &Place, count: u32, reason: &str) {
    let count = count.to_string();
    let args = ["consume", "t", "--group", "g", "--count", &count, "--reject", reason];
    assert_eq!(place.json(&args).len().to_string(), count);
}

#[test]
fn letters_are_listed_and_shown() {
    let place = place();
    let letters = place.json(&["dead", "list", "g.t.dead"]);
    let reasons: Vec<_> = letters.iter().map(|letter| letter["reason"].clone()).collect();
    assert_eq!(reasons, ["one", "one", "two"]);
    assert_eq!(letters, place.json(&["dead", "list", "g"]));
    assert_eq!(letters, place.json(&["dead", "list", "t/g"]));
    assert_eq!(letters[0]["origin_topic"], "t");
    assert_eq!(letters[0]["origin_group"], "g");
    assert_eq!(letters[0]["origin_offset"], place.json(&["read", "t"])[0]["offset"]);
    assert_eq!(
        (letters[0]["attempt"].clone(), letters[0]["redrives"].clone()),
        (json!(1), json!(0))
    );
    let shown = place.json(&["dead", "show", "g", "--count", "1"]);
    assert_eq!(shown[0]["payload"], json!({"key": "a.x", "n": 1}));
    assert_eq!(shown[0]["headers"]["busline-dead-reason"], "one");
    let filter = "reason == 'one' and key ~ 'b.*' and payload.n >= 2";
    let chosen = place.json(&["dead", "list", "g", "--filter", filter]);
    assert_eq!(chosen.len(), 1);
    assert_eq!(chosen[0]["key"], "b.x");
    assert!(place.run(&["dead", "list", "g"]).stdout.contains("b.x  one  (attempt 1"));
    assert!(place.run(&["dead", "show", "g"]).stdout.contains("rejected by group g"));
}

#[test]
fn redriven_letters_reach_the_group_that_rejected_them_and_nobody_else() {
    let place = place();
    place.json(&["consume", "t", "--group", "other", "--count", "3"]);
    let dry = place.json(&["dead", "redrive", "g", "--dry-run"]);
    assert_eq!(
        (dry[0]["status"].clone(), dry[0]["done"].clone()),
        (json!("would_redrive"), json!(3))
    );
    assert_eq!(dry[0]["reasons"], json!({"one": 2, "two": 1}));
    assert_eq!(place.json(&["dead", "list", "g"]).len(), 3);

    let done =
        place.json(&["dead", "redrive", "g", "--filter", "reason == 'one'", "--batch-size", "1"]);
    assert_eq!(done.len(), 1);
    assert_eq!((done[0]["status"].clone(), done[0]["done"].clone()), (json!("redriven"), json!(2)));
    assert_eq!(done[0]["remaining"], 1);
    let left = place.json(&["dead", "list", "g"]);
    assert_eq!((left.len(), left[0]["reason"].clone()), (1, json!("two")));

    let back = place.json(&["consume", "t", "--group", "g", "--count", "2"]);
    assert_eq!(back[0]["key"], "a.x");
    assert_eq!(back[0]["payload"], json!({"key": "a.x", "n": 1}));
    assert_eq!(back[0]["headers"]["busline-redrives"], 1);
    assert_eq!(back[0]["headers"].get("busline-dead-reason"), None);
    let args = ["consume", "t", "--group", "other", "--timeout", "20ms"];
    assert_eq!(place.json(&args).len(), 0, "another group does not see them again");
}

#[test]
fn a_count_limits_and_the_rest_stays() {
    let place = place();
    let done = place.json(&["dead", "redrive", "g", "--count", "1"]);
    assert_eq!((done[0]["done"].clone(), done[0]["remaining"].clone()), (json!(1), json!(2)));
    assert_eq!(place.json(&["dead", "redrive", "g"])[0]["done"], 2);
    assert_eq!(place.json(&["dead", "redrive", "g"])[0]["matched"], 0);
}

#[test]
fn the_loop_guard_refuses_what_came_back_too_often() {
    let place = Place::new();
    place.publish("t", &["a"]);
    for _ in 0..2 {
        reject(&place, 1, "again");
        assert_eq!(place.json(&["dead", "redrive", "g", "--max-redrives", "2"])[0]["done"], 1);
    }
    reject(&place, 1, "again");
    let done = place.run(&["--json", "dead", "redrive", "g", "--max-redrives", "2"]);
    done.fails(1, &["refused: 1 letter put back 2 times or more"]);
    let line = &done.lines()[0];
    assert_eq!((line["done"].clone(), line["refused"].clone()), (json!(0), json!(1)));
    assert_eq!(line["remaining"], 1);
    assert_eq!(place.json(&["dead", "list", "g"])[0]["redrives"], 2);
    // It is the default that refuses more, not the letter that is lost.
    assert_eq!(place.json(&["dead", "redrive", "g"])[0]["done"], 1);
}

#[test]
fn nothing_is_put_back_where_nobody_takes_it() {
    let place = place();
    place.json(&["group", "delete", "t", "g"]);
    place.run(&["dead", "redrive", "g.t.dead"]).fails(2, &["topic 't' has no group 'g' any more"]);
    assert_eq!(place.json(&["dead", "list", "g.t.dead"]).len(), 3);
    assert_eq!(place.json(&["topics"]).len(), 2);
}

#[test]
fn purged_letters_are_gone() {
    let place = place();
    let dry = place.json(&["dead", "purge", "g", "--dry-run"]);
    assert_eq!(
        (dry[0]["status"].clone(), dry[0]["matched"].clone()),
        (json!("would_purge"), json!(3))
    );
    let some = place.json(&["dead", "purge", "g", "--filter", "key ~ '*.y'", "--yes"]);
    assert_eq!((some[0]["done"].clone(), some[0]["remaining"].clone()), (json!(1), json!(2)));
    assert_eq!(place.json(&["dead", "purge", "g"])[0]["done"], 2);
    assert_eq!(place.json(&["dead", "list", "g"]).len(), 0);
    assert_eq!(place.json(&["read", "t"]).len(), 3, "the topic keeps its records");
}

#[test]
fn names_that_do_not_say_which() {
    let place = place();
    place.publish("u", &["a"]);
    place.json(&["consume", "u", "--group", "g", "--count", "1", "--reject", "three"]);
    place.run(&["dead", "list", "g"]).fails(2, &["'g' is ambiguous", "'g.t.dead', 'g.u.dead'"]);
    assert_eq!(place.json(&["dead", "list", "u/g"]).len(), 1);
    place.run(&["dead", "list", "t"]).fails(2, &["'t' is no dead-letter topic", "'g.t.dead'"]);
    let bad = place.run(&["dead", "list", "g.t.dead", "--filter", "reason = 'x'"]);
    bad.fails(2, &["at character 8: write == to compare"]);
}

#[test]
fn what_could_be_published_can_be_put_back() {
    let place = Place::new();
    let header = format!("full={}", "h".repeat(65_532));
    let publish = ["publish", "t", "--data", "x"];
    assert_eq!(place.run(&[&publish[..], &["--header", &header]].concat()).code, 0);
    let many: Vec<_> = (0..256).map(|n| format!("h{n}=1")).collect();
    let many = many.iter().flat_map(|header| ["--header", header]);
    assert_eq!(place.run(&publish.into_iter().chain(many).collect::<Vec<_>>()).code, 0);
    for _ in 0..2 {
        reject(&place, 2, "full");
        let done = place.json(&["dead", "redrive", "g"]);
        assert_eq!((&done[0]["done"], &done[0]["remaining"]), (&json!(2), &json!(0)));
    }
}

#[test]
fn a_large_letter_is_found_behind_small_ones_that_stay() {
    let place = Place::new();
    place.publish("t", &["small", "small"]);
    let large = vec![b'x'; 1 << 20];
    assert_eq!(place.run_with(&["publish", "t", "--key", "large"], &large).code, 0);
    reject(&place, 3, "r");
    let filter = ["--filter", "payload_bytes > 1000"];
    assert_eq!(place.json(&[&["dead", "list", "g"], &filter[..]].concat())[0]["key"], "large");
    let done = place.json(&[&["dead", "redrive", "g"], &filter[..]].concat());
    assert_eq!((&done[0]["done"], &done[0]["remaining"]), (&json!(1), &json!(2)));
    reject(&place, 1, "r");
    let done = place.json(&[&["dead", "purge", "g"], &filter[..]].concat());
    assert_eq!((&done[0]["done"], &done[0]["remaining"]), (&json!(1), &json!(2)));
}

#[test]
fn a_group_that_never_rejected_anything_gets_its_line_too() {
    let place = Place::new();
    place.publish("t", &["a"]);
    place.json(&["consume", "t", "--group", "calm", "--count", "1"]);
    for (args, status) in [
        (&["dead", "redrive", "calm"][..], "redriven"),
        (&["dead", "redrive", "calm", "--dry-run"], "would_redrive"),
        (&["dead", "purge", "calm"], "purged"),
        (&["dead", "purge", "calm", "--dry-run"], "would_purge"),
    ] {
        let lines = place.json(args);
        assert_eq!((lines.len(), &lines[0]["status"]), (1, &json!(status)));
        assert_eq!((&lines[0]["queue"], &lines[0]["matched"]), (&json!(null), &json!(0)));
    }
    // The name is not free for other uses: the topic would pass for one of dead letters.
    let done = place.run(&["consume", "t", "--group", "busline.dead", "--timeout", "1ms"]);
    done.fails(2, &["holds no dead letters", "choose another group"]);
    assert_eq!(place.json(&["groups"]).len(), 1);
}

#[test]
fn a_reason_of_any_length_leaves_a_table_readable() {
    let place = Place::new();
    place.publish("t", &["a"]);
    let reason = "long ".repeat(500);
    reject(&place, 1, &reason);
    assert_eq!(place.json(&["dead", "list", "g"])[0]["reason"], json!(reason));
    for args in [&["dead", "list", "g"][..], &["dead", "redrive", "g", "--dry-run"]] {
        let done = place.run(args);
        assert!(done.stdout.lines().all(|line| line.chars().count() < 250), "{}", done.stdout);
        assert!(done.stdout.contains('…'));
    }
}
