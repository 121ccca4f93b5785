//! The verbs on Kafka: what works on the embedded bus works there, or says why it cannot.

use std::net::TcpStream;

use serde_json::json;

use crate::support::Place;

/// A place on the broker, and a topic that nobody else has; `None`, said aloud, where there is no broker.
fn place(name: &str) -> Option<(Place, String)> {
    let address = std::env::var("BUSLINE_TEST_KAFKA").unwrap_or_default();
    if address.is_empty() {
        println!("skip: BUSLINE_TEST_KAFKA names no Kafka, see CONTRIBUTING.md");
        return None;
    }
    if let Err(error) = TcpStream::connect(&address) {
        let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
        assert!(!required, "Kafka is required and not at {address}: {error}");
        println!("skip: Kafka is not at {address}, see `cargo xtask brokers`: {error}");
        return None;
    }
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let topic = format!("cli-{name}-{}-{now}", std::process::id());
    Some((Place::on(format!("kafka://{address}")), topic))
}

#[test]
fn a_log_is_published_and_read() {
    let Some((place, topic)) = place("read") else { return };
    place.publish(&topic, &["a.x", "a.y", "b.x"]);
    let numbers = |args: &[&str]| {
        let records = place.json(&[&["read", &topic], args].concat());
        records.iter().map(|record| record["payload"]["n"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    let all = place.json(&["read", &topic]);
    assert_eq!(numbers(&[]), [1, 2, 3]);
    assert_eq!(numbers(&["--from", all[1]["offset"].as_str().unwrap()]), [2, 3]);
    assert_eq!(numbers(&["--from", all[0]["time"].as_str().unwrap()]), [1, 2, 3]);
    assert_eq!(numbers(&["--from", "latest"]), [0_i64; 0]);
    assert_eq!(numbers(&["--pattern", "a.*"]), [1, 2]);
}

#[test]
fn a_group_consumes_and_is_listed_with_its_lag() {
    let Some((place, topic)) = place("group") else { return };
    place.json(&["consume", &topic, "--group", "g", "--timeout", "1ms"]);
    place.publish(&topic, &["a", "b", "c"]);
    let consumed = place.json(&["consume", &topic, "--group", "g", "--count", "2"]);
    assert_eq!(consumed.len(), 2);
    let groups = place.json(&["groups", &topic]);
    assert_eq!((&groups[0]["group"], &groups[0]["lag"]), (&json!("g"), &json!(1)));
    let topics = place.json(&["topics"]);
    let ours = topics.iter().find(|line| line["topic"] == topic.as_str()).unwrap();
    assert_eq!((&ours["messages"], &ours["groups"]), (&json!(3), &json!(1)));
    assert_eq!(place.json(&["group", "reset", &topic, "g", "--to", "earliest"]).len(), 1);
    let again = place.json(&["consume", &topic, "--group", "g", "--count", "3"]);
    assert_eq!(again.len(), 3);
    place.json(&["topic", "delete", &topic]);
    place.run(&["read", &topic]).fails(2, &[&topic]);
}

#[test]
fn the_bus_is_measured() {
    let Some((place, _)) = place("bench") else { return };
    let report = &place.json(&["bench", "--messages", "500", "--samples", "5"])[0];
    assert!(report.to_string().contains("kafka"), "{report}");
}

#[test]
fn what_is_wrong_says_so() {
    let Some((place, topic)) = place("wrong") else { return };
    place.run(&["read", &topic]).fails(2, &[&topic]);
    Place::on("kafka://127.0.0.1:1".to_owned()).run(&["read", "t"]).fails(5, &["127.0.0.1:1"]);
    let misspelt = Place::on("kafka://localhost?partitons=3".to_owned());
    misspelt.run(&["topics"]).fails(2, &["no option 'partitons'"]);
}
