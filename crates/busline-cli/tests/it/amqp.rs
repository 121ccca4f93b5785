//! The verbs on RabbitMQ: what works on the embedded bus works there, or says why it cannot.

use std::collections::BTreeSet;

use serde_json::json;

use crate::broker::Vhost;
use crate::support::Place;

/// A bus on the broker with three letters of group g: reasons one, one, two.
fn letters() -> Option<(Vhost, Place)> {
    let vhost = Vhost::new()?;
    let place = Place::on(vhost.url(""));
    // A queue gets what comes once it is there.
    place.json(&["consume", "t", "--group", "g", "--timeout", "1ms"]);
    place.publish("t", &["a.x", "b.x", "c.y"]);
    reject(&place, 2, "one");
    reject(&place, 1, "two");
    Some((vhost, place))
}

fn reject(place: &Place, count: u32, reason: &str) {
    let count = count.to_string();
    let args = ["consume", "t", "--group", "g", "--count", &count, "--reject", reason];
    assert_eq!(place.json(&args).len().to_string(), count);
}

#[test]
fn letters_are_listed_shown_and_filtered() {
    let Some((_vhost, place)) = letters() else { return };
    let letters = place.json(&["dead", "list", "g.t.dead"]);
    assert_eq!(letters, place.json(&["dead", "list", "g"]), "looking changes nothing");
    assert_eq!(letters, place.json(&["dead", "list", "t/g"]));
    let mut reasons: Vec<_> = letters.iter().map(|line| line["reason"].to_string()).collect();
    reasons.sort();
    assert_eq!(reasons, ["\"one\"", "\"one\"", "\"two\""]);
    for letter in &letters {
        assert_eq!((&letter["origin_topic"], &letter["origin_group"]), (&json!("t"), &json!("g")));
        assert_eq!((&letter["attempt"], &letter["redrives"]), (&json!(1), &json!(0)));
        // A queue does not keep when a message came.
        assert_eq!(letter["time"], letter["rejected_at"]);
        assert_ne!(letter["time"], json!(null));
    }
    let filter = "reason == 'one' and key ~ 'b.*' and payload.n >= 2";
    let chosen = place.json(&["dead", "show", "g", "--filter", filter]);
    assert_eq!(chosen.len(), 1);
    assert_eq!(chosen[0]["payload"], json!({"key": "b.x", "n": 2}));
    assert_eq!(chosen[0]["headers"]["busline-dead-reason"], "one");
}

#[test]
fn redriven_letters_reach_the_group_that_rejected_them_and_nobody_else() {
    let Some((_vhost, place)) = letters() else { return };
    place.json(&["consume", "t", "--group", "other", "--timeout", "1ms"]);
    let dry = place.json(&["dead", "redrive", "g", "--dry-run"]);
    assert_eq!((&dry[0]["status"], &dry[0]["done"]), (&json!("would_redrive"), &json!(3)));
    assert_eq!(dry[0]["reasons"], json!({"one": 2, "two": 1}));
    assert_eq!(place.json(&["dead", "list", "g"]).len(), 3);

    let chosen = ["--filter", "reason == 'one'", "--batch-size", "1"];
    let done = place.json(&[&["dead", "redrive", "g"], &chosen[..]].concat());
    assert_eq!((&done[0]["status"], &done[0]["done"]), (&json!("redriven"), &json!(2)));
    assert_eq!(done[0]["remaining"], 1);
    let left = place.json(&["dead", "list", "g"]);
    assert_eq!((left.len(), &left[0]["reason"]), (1, &json!("two")));

    let back = place.json(&["consume", "t", "--group", "g", "--count", "2"]);
    let keys: BTreeSet<_> = back.iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert_eq!(keys, BTreeSet::from(["a.x", "b.x"]));
    assert_eq!(back[0]["headers"]["busline-redrives"], 1);
    assert_eq!(back[0]["headers"].get("busline-dead-reason"), None);
    let args = ["consume", "t", "--group", "other", "--timeout", "300ms"];
    assert_eq!(place.json(&args).len(), 0, "another group does not see them again");
}

#[test]
fn the_loop_guard_refuses_what_came_back_too_often() {
    let Some(vhost) = Vhost::new() else { return };
    // Retries counted by the broker: the guard looks at redrives, not at those.
    let place = Place::on(vhost.url("&queue=quorum"));
    place.json(&["consume", "t", "--group", "g", "--timeout", "1ms"]);
    place.publish("t", &["a"]);
    for _ in 0..2 {
        reject(&place, 1, "again");
        assert_eq!(place.json(&["dead", "redrive", "g", "--max-redrives", "2"])[0]["done"], 1);
    }
    reject(&place, 1, "again");
    let done = place.run(&["--json", "dead", "redrive", "g", "--max-redrives", "2"]);
    done.fails(1, &["refused: 1 letter put back 2 times or more"]);
    let line = &done.lines()[0];
    assert_eq!((&line["done"], &line["refused"]), (&json!(0), &json!(1)));
    assert_eq!(line["remaining"], 1);
    assert_eq!(place.json(&["dead", "list", "g"])[0]["redrives"], 2);
    assert_eq!(place.json(&["dead", "redrive", "g"])[0]["done"], 1);
}

#[test]
fn purged_letters_are_gone_and_nothing_is_put_back_where_nobody_takes_it() {
    let Some((_vhost, place)) = letters() else { return };
    place.json(&["group", "delete", "t", "g"]);
    place.run(&["dead", "redrive", "g.t.dead"]).fails(2, &["topic 't' has no group 'g' any more"]);
    let dry = place.json(&["dead", "purge", "g.t.dead", "--dry-run"]);
    assert_eq!((&dry[0]["status"], &dry[0]["matched"]), (&json!("would_purge"), &json!(3)));
    let some = place.json(&["dead", "purge", "g.t.dead", "--filter", "key ~ '*.y'", "--yes"]);
    assert_eq!((&some[0]["done"], &some[0]["remaining"]), (&json!(1), &json!(2)));
    assert_eq!(place.json(&["dead", "purge", "g.t.dead"])[0]["done"], 2);
    assert_eq!(place.json(&["dead", "list", "g.t.dead"]).len(), 0);
}

#[test]
fn many_letters_are_gone_through_page_by_page() {
    let Some(vhost) = Vhost::new() else { return };
    let place = Place::on(vhost.url(""));
    place.json(&["consume", "t", "--group", "g", "--timeout", "1ms"]);
    place.publish("t", &["a"; 600]);
    reject(&place, 600, "no");
    let letters = place.json(&["dead", "list", "g"]);
    let ids: BTreeSet<_> = letters.iter().map(|line| line["message_id"].to_string()).collect();
    assert_eq!((letters.len(), ids.len()), (600, 600));
    let done = place.json(&["dead", "redrive", "g", "--batch-size", "50", "--count", "250"]);
    assert_eq!((&done[0]["done"], &done[0]["remaining"]), (&json!(250), &json!(350)));
}

#[test]
fn a_broker_is_measured_and_nothing_is_left_of_it() {
    let Some(vhost) = Vhost::new() else { return };
    let place = Place::on(vhost.url(""));
    let report = &place.json(&["bench", "--messages", "500", "--samples", "5"])[0];
    assert_eq!((&report["messages"], &report["durability"]), (&json!(500), &json!("power")));
    let rows = report["rows"].as_array().unwrap();
    let figures: BTreeSet<_> = rows.iter().map(|row| row["figure"].as_str().unwrap()).collect();
    for figure in ["publish, pipelined", "consume and ack", "one message to its receipt, p50"] {
        assert!(figures.contains(figure), "{figure} is not in {figures:?}");
    }
    assert!(rows.iter().all(|row| row["of"] == "bus" && row["value"].as_f64().unwrap() > 0.0));
    assert_eq!(place.json(&["topics"]).len(), 0);
    assert_eq!(vhost.ask("GET", "queues", ""), "[]");
}
