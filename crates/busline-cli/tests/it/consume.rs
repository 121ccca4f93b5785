//! `consume`: as a member, alone, and every way to settle.

use serde_json::{Value, json};

use crate::support::Place;

fn numbers(records: &[Value]) -> Vec<i64> {
    records.iter().map(|record| record["payload"]["n"].as_i64().unwrap()).collect()
}

#[test]
fn a_group_goes_on_where_it_was() {
    let place = Place::new();
    place.publish("t", &["a", "b", "c"]);
    let first = place.json(&["consume", "t", "--group", "g", "--count", "2"]);
    assert_eq!(numbers(&first), [1, 2]);
    assert_eq!(
        (first[0]["attempt"].clone(), first[0]["outcome"].clone()),
        (json!(1), json!("ack"))
    );
    let rest = place.json(&["consume", "t", "--group", "g", "--timeout", "20ms"]);
    assert_eq!(numbers(&rest), [3]);
    assert_eq!(rest[0]["attempt"], 1, "what was not wanted was not delivered for nothing");
    let all = place.json(&["consume", "t", "--group", "other", "--timeout", "20ms", "--ack"]);
    assert_eq!(numbers(&all), [1, 2, 3]);
}

#[test]
fn a_new_group_starts_where_it_is_told() {
    let place = Place::new();
    place.publish("t", &["a", "b"]);
    let none = ["consume", "t", "--group", "g", "--from", "latest", "--timeout", "1ms"];
    assert_eq!(place.json(&none).len(), 0);
    place.publish("t", &["c"]);
    let come = place.json(&["consume", "t", "--group", "g", "--count", "1"]);
    assert_eq!(come[0]["key"], "c");
    // It exists by now, and stays where it is.
    let again = ["consume", "t", "--group", "g", "--from", "earliest", "--timeout", "1ms"];
    assert_eq!(place.json(&again).len(), 0);
}

#[test]
fn patterns_belong_to_the_group() {
    let place = Place::new();
    place.publish("t", &["a.x", "b.x"]);
    let with = ["consume", "t", "--group", "g", "--pattern", "a.*", "--timeout", "20ms"];
    assert_eq!(numbers(&place.json(&with)), [1]);
    place.publish("t", &["a.y", "b.y"]);
    let other = ["consume", "t", "--group", "g", "--pattern", "b.*"];
    place.run(&other).fails(5, &["found: a.*", "without --pattern it is joined as it is"]);
    // Joined as it is.
    let joined = place.json(&["consume", "t", "--group", "g", "--timeout", "20ms"]);
    assert_eq!(joined[0]["key"], "a.y");
    let other = ["consume", "t", "--group", "g", "--pattern", "b.*", "--timeout", "1ms"];
    place.run(&other).fails(5, &["group 'g' of topic 't' exists and differs", "a.*", "b.*"]);
}

#[test]
fn retries_come_again_and_count() {
    let place = Place::new();
    place.publish("t", &["a"]);
    let retry = ["consume", "t", "--group", "g", "--count", "1", "--retry-after", "1ms"];
    assert_eq!(place.json(&retry)[0]["outcome"], "retry");
    let again = place.json(&["consume", "t", "--group", "g", "--count", "1"]);
    assert_eq!(again[0]["attempt"], 2);
    let groups = place.json(&["groups", "t"]);
    assert_eq!(
        (groups[0]["delivered"].clone(), groups[0]["redelivered"].clone()),
        (json!(2), json!(1))
    );
    assert_eq!((groups[0]["acked"].clone(), groups[0]["lag"].clone()), (json!(1), json!(0)));
}

#[test]
fn rejected_ones_go_to_the_dead_letters() {
    let place = Place::new();
    place.publish("t", &["a"]);
    let reject = ["consume", "t", "--group", "g", "--count", "1", "--reject", "no use"];
    assert_eq!(place.json(&reject)[0]["outcome"], "reject");
    let letters = place.json(&["dead", "list", "g"]);
    assert_eq!(letters[0]["reason"], "no use");
}

#[test]
fn a_broadcast_sees_what_comes_from_now_on() {
    let place = Place::new();
    place.publish("t", &["old"]);
    let mut ticker = place.start(&["--json", "consume", "t", "--broadcast", "--count", "2"]);
    // Its temporary group is there as soon as it has subscribed.
    while !place.json(&["groups"]).iter().any(|group| group["broadcast"] == true) {}
    place.publish("t", &["new.1", "new.2"]);
    assert_eq!(
        (ticker.json()["key"].clone(), ticker.json()["key"].clone()),
        (json!("new.1"), json!("new.2"))
    );
    assert_eq!(ticker.finish().code, 0);
    assert_eq!(place.json(&["groups"]).len(), 0, "it is gone with its only member");
}

#[test]
fn a_count_that_does_not_come() {
    let place = Place::new();
    place.publish("t", &["a"]);
    let args = ["--json", "consume", "t", "--group", "g", "--count", "2", "--timeout", "3s"];
    let done = place.run(&args);
    done.fails(3, &["1 of 2"]);
    assert_eq!(done.lines().len(), 1);
    // What came was settled all the same.
    assert_eq!(place.json(&["groups"])[0]["acked"], 1);
}

#[test]
fn what_did_not_come_is_counted_in_english() {
    let place = Place::new();
    let waiting = ["consume", "t", "--group", "g", "--count", "3", "--timeout", "1ms"];
    place.run(&waiting).fails(3, &["0 of 3 deliveries came"]);
}
