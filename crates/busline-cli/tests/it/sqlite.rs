//! The command line on `sqlite:` URLs, both layouts.

use serde_json::json;

use crate::support::Place;

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap().keep();
    Place::on(format!("sqlite:{}/bus.db", folder.display()))
}

#[test]
fn messages_groups_and_letters_on_a_database() {
    let place = place();
    place.publish("t", &["a.x", "b.x", "c.y"]);
    let all = place.json(&["read", "t"]);
    assert_eq!(all.len(), 3);
    assert_eq!(place.json(&["read", "t", "--pattern", "*.x"]).len(), 2);
    let from = all[1]["offset"].as_str().unwrap();
    assert_eq!(place.json(&["read", "t", "--from", from]).len(), 2);

    assert_eq!(place.json(&["consume", "t", "--group", "g", "--count", "1"])[0]["key"], "a.x");
    let rejected = place.json(&["consume", "t", "--group", "g", "--count", "1", "--reject", "no"]);
    assert_eq!(rejected[0]["key"], "b.x");
    let groups = place.json(&["groups", "t"]);
    assert_eq!((groups[0]["acked"].clone(), groups[0]["rejected"].clone()), (json!(1), json!(1)));
    assert_eq!(place.json(&["topics"]).len(), 2);
    let letters = place.json(&["dead", "list", "g"]);
    assert_eq!((letters.len(), letters[0]["reason"].clone()), (1, json!("no")));
    assert_eq!(place.json(&["dead", "redrive", "g"])[0]["done"], 1);
    let rest = place.json(&["consume", "t", "--group", "g", "--count", "2"]);
    let keys: Vec<_> = rest.iter().map(|line| line["key"].clone()).collect();
    assert_eq!(keys, ["c.y", "b.x"]);
    assert_eq!(rest[1]["payload"], json!({ "key": "b.x", "n": 2 }));

    place.json(&["group", "reset", "t", "g", "--to", "earliest"]);
    // The letter that was put back is a record of its own.
    assert_eq!(place.json(&["consume", "t", "--group", "g", "--count", "4"]).len(), 4);
    place.json(&["group", "delete", "t", "g"]);
    place.json(&["topic", "delete", "t"]);
    assert_eq!(place.json(&["topics"]).len(), 1);
    place.run(&["read", "t"]).fails(2, &["topic 't' does not exist"]);
}

#[test]
fn looking_makes_no_database() {
    let place = place();
    for args in [&["topics"][..], &["read", "t"], &["groups"], &["doctor"]] {
        place.run(args).fails(2, &["there is no bus at"]);
    }
    place.publish("t", &["a"]);
    let report = &place.json(&["doctor"])[0];
    assert_eq!(
        (report["profile"].clone(), report["durability"].clone()),
        (json!("sqlite"), json!("power"))
    );
}

#[test]
fn a_bench_runs_on_a_database() {
    let place = place();
    let report = &place.json(&["bench", "--messages", "200", "--size", "50"])[0];
    assert_eq!(report["durability"], "power");
    assert!(!report["rows"].as_array().unwrap().is_empty());
    assert_eq!(place.json(&["topics"]).len(), 0, "its topic is left behind");
}

#[test]
fn a_bus_of_hermes_is_read_and_written_to() {
    let place = place();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bus.sqlite");
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../busline-transports/tests/fixtures/hermes/bus.sqlite"
    );
    std::fs::copy(fixture, &file).unwrap();
    let url = format!("sqlite:{}?layout=hermes", file.display());
    let on = |args: &[&str]| place.json(&[args, &["--bus", &url]].concat());
    let all = on(&["read", "hermesmessages"]);
    assert_eq!(all.len(), 19);
    assert_eq!(
        (all[2]["key"].clone(), all[2]["offset"].clone()),
        (json!("initsync"), json!("0.3"))
    );
    assert_eq!(all[2]["payload"]["eventtype"], "init-start");
    assert!(all.iter().all(|line| line["time"].as_str().unwrap().starts_with("2026-11-21T")));
    let syncs = on(&["read", "hermesmessages", "--pattern", "initsync"]);
    assert!(syncs.len() < 19 && syncs.iter().all(|line| line["key"] == "initsync"));
    assert_eq!(on(&["read", "hermesmessages", "--from", "0.18"]).len(), 2);
    let topics = on(&["topics"]);
    assert_eq!((topics.len(), topics[0]["messages"].clone()), (1, json!(19)));
    assert_eq!(on(&["groups"]).len(), 0);
    assert_eq!(on(&["doctor"])[0]["profile"], "sqlite, hermes");

    let event = r#"{"evcategory": "base", "eventtype": "dataschema", "objtype": null, "objpkey": null, "objattrs": {}}"#;
    on(&["publish", "hermesmessages", "--data", event]);
    let last = &on(&["read", "hermesmessages", "--from", "0.20"])[0];
    assert_eq!(
        (last["key"].clone(), last["payload"]["eventtype"].clone()),
        (json!("base"), json!("dataschema"))
    );
    let bus = ["--bus", &url];
    let run = |args: &[&str]| place.run(&[args, &bus[..]].concat());
    run(&["publish", "hermesmessages", "--data", "no event"])
        .fails(2, &["no JSON object", "evcategory"]);
    run(&["consume", "hermesmessages", "--group", "g"])
        .fails(6, &["has no group", "layout=hermes out"]);
    run(&["read", "people"]).fails(2, &["one topic, 'hermesmessages'"]);
}
