//! Queues of other programs on RabbitMQ: what a policy of the broker's put aside, and what waits anywhere.

use serde_json::{Value, json};

use crate::broker::Vhost;
use crate::support::{Place, Running, python, spawn};

/// A queue that gets all events, as a service of another language declares it, and the policy that such services ask
/// their operators for.
fn policed() -> Option<(Vhost, Place)> {
    let vhost = Vhost::new()?;
    let ask = |method: &str, what: &str, body: Value| vhost.ask(method, what, &body.to_string());
    let durable = || json!({"durable": true});
    for exchange in ["events", "am-dlx"] {
        let topic = json!({"type": "topic", "durable": true});
        ask("PUT", &format!("exchanges/{exchange}"), topic);
    }
    for (queue, exchange) in [("lab.events", "events"), ("dead-letters", "am-dlx")] {
        ask("PUT", &format!("queues/{queue}"), durable());
        let everything = json!({"routing_key": "#"});
        ask("POST", &format!("bindings/e/{exchange}/q/{queue}"), everything);
    }
    let policy = json!({
        "pattern": r".*\.events|.*\.commands",
        "definition": {"dead-letter-exchange": "am-dlx"},
        "apply-to": "queues",
    });
    ask("PUT", "policies/am-dlx", policy);
    let place = Place::on(vhost.url(""));
    Some((vhost, place))
}

/// Events of these keys, with numbers.
fn publish(place: &Place, keys: &[&str]) {
    for (n, key) in keys.iter().enumerate() {
        let payload = json!({ "n": n }).to_string();
        let args = ["event", "publish", key, "-", "--conversation", "c", "--mandatory"];
        assert_eq!(place.run_with(&args, payload.as_bytes()).code, 0);
    }
}

/// As such a service does with what it cannot handle.
fn reject(vhost: &Vhost, count: usize) {
    let count = count.to_string();
    let args = ["consume", "events", "--group", "lab", "--count", &count, "--reject", "no"];
    Place::on(vhost.url("&dialect=eventail")).json(&args);
}

#[test]
fn what_the_broker_put_aside_is_listed_looked_into_and_saved() {
    let Some((vhost, place)) = policed() else { return };
    publish(&place, &["Boom", "Bang"]);
    let waiting = place.json(&["inspect", "lab.events", "--count", "1"]);
    assert_eq!((waiting.len(), &waiting[0]["key"]), (1, &json!("Boom")));
    reject(&vhost, 2);
    let letters = place.json(&["dead", "list", "dead-letters"]);
    let keys: Vec<_> = letters.iter().map(|letter| letter["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["Boom", "Bang"]);
    for letter in &letters {
        assert_eq!((&letter["reason"], &letter["redrives"]), (&json!("rejected"), &json!(0)));
        assert_eq!(letter["origin_topic"], "events");
        assert_eq!((&letter["origin_group"], &letter["attempt"]), (&json!("lab"), &Value::Null));
        assert!(letter["rejected_at"].is_string(), "{letter}");
    }
    let shown = place.json(&["dead", "show", "dead-letters", "--filter", "key == 'Bang'"]);
    assert_eq!((shown.len(), &shown[0]["conversation_id"]), (1, &json!("c")));

    let looked = place.json(&["inspect", "dead-letters", "--save", "kept"]);
    assert_eq!((&looked[1]["kind"], &looked[1]["payload"]), (&json!("event"), &json!({"n": 1})));
    assert_eq!((&looked[1]["topic"], &looked[1]["offset"]), (&json!("am-dlx"), &json!("0.1")));
    let saved = place.path().join(looked[1]["saved"].as_str().unwrap());
    assert_eq!(saved.file_name().unwrap(), "Bang.c.cbor");
    assert_eq!(std::fs::read(saved).unwrap(), b"\xa1\x61n\x01");
    let human = place.run(&["inspect", "dead-letters"]);
    assert_eq!(human.code, 0);
    assert!(human.stdout.contains("Boom") && human.stderr.contains("redelivered"), "{human:?}");
    assert_eq!(place.json(&["dead", "list", "dead-letters"]).len(), 2, "nothing was taken");
}

#[test]
fn what_the_broker_put_aside_goes_back_with_its_marks_and_not_for_ever() {
    let Some((vhost, place)) = policed() else { return };
    publish(&place, &["Boom", "Bang"]);
    reject(&vhost, 2);
    let dry = place.json(&["dead", "redrive", "dead-letters", "--dry-run"]);
    assert_eq!((&dry[0]["done"], &dry[0]["reasons"]), (&json!(2), &json!({"rejected": 2})));
    let chosen = ["dead", "redrive", "dead-letters", "--filter", "key == 'Boom'"];
    let done = place.json(&chosen);
    assert_eq!((&done[0]["queue"], &done[0]["done"]), (&json!("dead-letters"), &json!(1)));
    assert_eq!(done[0]["remaining"], 1);
    let back = &place.json(&["inspect", "lab.events"])[0];
    assert_eq!((&back["topic"], &back["payload"]), (&json!("events"), &json!({"n": 0})));
    assert_eq!(back["meta"]["x-first-death-queue"], "lab.events");
    // It is no letter while it waits for its service, whatever marks it bears.
    assert_eq!(place.json(&["dead", "purge", "lab.events", "--yes"])[0]["matched"], 0);
    reject(&vhost, 1);
    let letters = place.json(&["dead", "list", "dead-letters", "--filter", "key == 'Boom'"]);
    assert_eq!(letters[0]["redrives"], 1);
    let again = place.run(&[&chosen[..], &["--max-redrives", "1"]].concat());
    again.fails(1, &["refused: 1 letter put back 1 times or more"]);

    // Confirmed alone would say nothing: no queue takes it.
    vhost.ask("DELETE", "queues/lab.events", "");
    place.run(&["dead", "redrive", "dead-letters"]).fails(1, &["2 letters that no group or"]);
    assert_eq!(place.json(&["dead", "list", "dead-letters"]).len(), 2);
}

#[test]
fn only_letters_are_dropped_whatever_else_is_in_the_queue() {
    let Some((vhost, place)) = policed() else { return };
    publish(&place, &["Boom"]);
    reject(&vhost, 1);
    let args = ["publish", "amq.default", "--key", "dead-letters", "--data", "odd", "--mandatory"];
    assert_eq!(place.json(&args)[0]["status"], "stored");
    let odd = &place.json(&["inspect", "dead-letters"])[1];
    assert_eq!((&odd["kind"], &odd["payload"]), (&Value::Null, &json!("odd")));
    assert!(odd["invalid"].is_string(), "{odd}");
    let done = place.json(&["dead", "purge", "dead-letters", "--yes"]);
    assert_eq!((&done[0]["done"], &done[0]["remaining"]), (&json!(1), &json!(1)));
    place.run(&["inspect", "nothing"]).fails(2, &["there is no queue 'nothing'", "'lab.events'"]);
    place.run(&["dead", "list", "nothing"]).fails(2, &["'nothing' is no dead-letter topic"]);
    let nobody = ["publish", "amq.default", "--key", "nothing", "--data", "x", "--mandatory"];
    place.run(&nobody).fails(4, &[]);
}

/// What waits in a queue, taken out of it, as the broker shows it.
fn take(vhost: &Vhost, queue: &str) -> Vec<Value> {
    let how = json!({"count": 10, "ackmode": "ack_requeue_false", "encoding": "auto"});
    let taken = vhost.ask("POST", &format!("queues/{queue}/get"), &how.to_string());
    serde_json::from_str(&taken).unwrap()
}

/// Odd ones of another program: no bound of ours holds for what is put back, and one holds no other up.
#[test]
fn letters_go_back_exactly_as_they_were() {
    let Some((vhost, place)) = policed() else { return };
    let long = "c".repeat(300);
    let odd = [
        json!({"headers": {"conversation_id": long}, "delivery_mode": 2}),
        json!({"headers": {"conversation_id": "ok"}, "delivery_mode": 1, "app_id": "a"}),
        json!({"headers": {"conversation_id": "ok", "user_id": "sender"}, "user_id": "guest"}),
        json!({"headers": {"conversation_id": "ok", "user_id": "sender"}, "correlation_id": ""}),
        json!({"headers": {"large": "y".repeat(40_000)}}),
        json!({"headers": {"conversation_id": "ok"}, "cluster_id": "x", "priority": 3}),
    ];
    for (n, properties) in odd.iter().enumerate() {
        let message = json!({
            "properties": properties, "routing_key": format!("K{n}"),
            "payload": n.to_string(), "payload_encoding": "string",
        });
        let done = vhost.ask("POST", "exchanges/events/publish", &message.to_string());
        assert_eq!(done, r#"{"routed":true}"#);
    }
    reject(&vhost, odd.len());
    let done = place.run(&["--json", "dead", "redrive", "dead-letters", "--batch-size", "10"]);
    assert_eq!((done.code, done.lines()[0]["done"].as_u64()), (0, Some(6)), "{done:?}");
    assert!(done.stderr.contains("user_id"), "{done:?}");
    let back = take(&vhost, "lab.events");
    assert_eq!(back.len(), odd.len());
    for (n, (message, was)) in back.into_iter().zip(odd).enumerate() {
        assert_eq!(message["routing_key"], format!("K{n}"));
        let mut properties = message["properties"].clone();
        let headers = properties["headers"].as_object_mut().unwrap();
        headers.retain(|name, _| !name.starts_with("x-"));
        assert_eq!(properties, was, "{n}");
    }
}

#[test]
fn a_letter_that_the_broker_does_not_take_stays_and_holds_no_other_up() {
    let Some((vhost, place)) = policed() else { return };
    let full =
        json!({"durable": true, "arguments": {"x-max-length": 1, "x-overflow": "reject-publish"}});
    vhost.ask("PUT", "queues/full", &full.to_string());
    vhost.ask("POST", "bindings/e/events/q/full", r#"{"routing_key":"Boom"}"#);
    publish(&place, &["Boom", "Bang", "Bong"]);
    reject(&vhost, 3);
    let done = place.run(&["--json", "dead", "redrive", "dead-letters"]);
    done.fails(1, &["refused: 1 letter"]);
    assert!(done.stderr.contains("warning: the letter 'Boom' stays"), "{done:?}");
    let line = &done.lines()[0];
    assert_eq!((&line["done"], &line["refused"]), (&json!(2), &json!(1)));
    let left = place.json(&["dead", "list", "dead-letters"]);
    assert_eq!((left.len(), &left[0]["key"]), (1, &json!("Boom")));
}

/// As the tools of Python services, which know nothing but AMQP.
#[test]
fn queues_are_used_by_name_where_nothing_can_be_listed() {
    let Some((vhost, place)) = policed() else { return };
    publish(&place, &["Boom", "Bang", "Bong"]);
    // No option is given twice: the port of nothing stands for the real one.
    let url = vhost.url("");
    let gone = format!("{}?management=http://127.0.0.1:1", url.split('?').next().unwrap());
    for (url, why) in [(gone, "cannot be reached"), (vhost.url_untagged(""), "401")] {
        let place = Place::on(url);
        assert_eq!(place.json(&["inspect", "lab.events"]).len(), 3);
        assert_eq!(place.json(&["inspect", "lab.events", "--count", "0"]).len(), 3);
        let one = place.run(&["inspect", "lab.events", "--count", "1"]);
        assert!(!one.stderr.contains("empty"), "{one:?}");
        place.run(&["inspect", "nothing"]).fails(5, &["'nothing'", why]);
        reject(&vhost, 3);
        let listed = place.run(&["--json", "dead", "list", "dead-letters"]);
        assert_eq!((listed.code, listed.lines().len()), (0, 3), "{listed:?}");
        assert!(listed.stderr.contains(why), "{listed:?}");
        let chosen = ["--filter", "key == 'Bang'"];
        let shown = place.json(&[&["dead", "show", "dead-letters"][..], &chosen].concat());
        assert_eq!(shown[0]["payload_encoding"], "base64");
        let dry = place.json(&["dead", "redrive", "dead-letters", "--dry-run"]);
        assert_eq!((&dry[0]["done"], &dry[0]["remaining"]), (&json!(3), &json!(3)));
        let done = place.json(&[&["dead", "redrive", "dead-letters"][..], &chosen].concat());
        assert_eq!((&done[0]["done"], &done[0]["remaining"]), (&json!(1), &json!(2)));
        let done = place.json(&["dead", "purge", "dead-letters", "--yes", "--count", "1"]);
        assert_eq!((&done[0]["done"], &done[0]["remaining"]), (&json!(1), &json!(1)));
        let rest = place.json(&["dead", "redrive", "dead-letters"]);
        assert_eq!((&rest[0]["done"], &rest[0]["remaining"]), (&json!(1), &json!(0)));
        place.run(&["dead", "list", "lab"]).fails(5, &["'lab'", why]);
        publish(&place, &["More"]);
    }
}

#[test]
fn the_doctor_sees_what_services_reject_vanish() {
    let Some((vhost, place)) = policed() else { return };
    let theirs = ["", "&dialect=eventail"].map(|options| Place::on(vhost.url(options)));
    // A queue of our own keeps its letters without any policy.
    place.json(&["consume", "events", "--group", "own", "--timeout", "1ms"]);
    for place in &theirs {
        let report = &place.json(&["doctor"])[0];
        assert_eq!(report["without_dead_letters"], json!([]), "{report}");
    }
    // It leads to an exchange that leads nowhere; then nowhere at all.
    for (place, what) in theirs.iter().zip(["queues/dead-letters", "policies/am-dlx"]) {
        vhost.ask("DELETE", what, "");
        let done = place.run(&["--json", "doctor"]);
        done.fails(1, &["dead letter policy"]);
        let report = &done.lines()[0];
        assert_eq!(report["without_dead_letters"], json!(["lab.events"]), "{report}");
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["check"] == "dead letter policy").unwrap();
        assert!(check["do"].as_str().unwrap().contains("rabbitmqctl set_policy"), "{check}");
    }
    let untagged = Place::on(vhost.url_untagged(""));
    let report = &untagged.json(&["doctor"])[0];
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["check"] == "lists"), "{report}");
    assert_eq!(report["without_dead_letters"], Value::Null);
}

#[test]
fn a_virtual_host_that_is_not_there_is_5() {
    let Some(vhost) = Vhost::new() else { return };
    let url = vhost.url("").replace("?management", "-gone?management");
    Place::on(url).run(&["topics"]).fails(5, &["create the virtual host"]);
}

#[test]
fn queues_of_the_embedded_bus_are_looked_into() {
    let place = Place::new();
    place.json(&["consume", "events", "--group", "lab", "--timeout", "1ms"]);
    publish(&place, &["Boom", "Bang"]);
    for name in ["lab.events", "events/lab"] {
        let waiting = place.json(&["inspect", name]);
        assert_eq!((waiting.len(), &waiting[1]["payload"]), (2, &json!({"n": 1})));
        assert_eq!(waiting[1]["kind"], "event");
    }
    let args = ["consume", "events", "--group", "lab", "--count", "1", "--reject", "no"];
    place.json(&args);
    let dead = place.json(&["inspect", "lab.events.dead"]);
    assert_eq!((&dead[0]["kind"], &dead[0]["key"]), (&json!("event"), &json!("Boom")));
    assert_eq!(place.json(&["inspect", "lab.events"]).len(), 1);
    place.run(&["inspect", "nothing"]).fails(2, &["there is no queue 'nothing'", "'lab.events'"]);
}

/// A service of the real Python library, ready.
fn lab(vhost: &Vhost, fails: &[&str]) -> Option<Running> {
    let mut command = python("probe.py")?;
    let options = json!({"events": ["Boom"], "commands": ["lab.#"], "fails": fails});
    // Options of ours are not for others.
    let url = vhost.url("");
    command.arg(url.split('?').next().unwrap()).arg("lab").arg(options.to_string());
    let mut running = spawn(&mut command);
    assert_eq!(running.json()["kind"], "ready");
    Some(running)
}

#[test]
fn letters_of_python_services_go_back_to_them() {
    let Some((vhost, place)) = policed() else { return };
    let Some(mut failing) = lab(&vhost, &["Boom", "Bang"]) else { return };
    publish(&place, &["Boom"]);
    let send = ["command", "send", "lab.Bang", "-", "--timeout", "1s", "--conversation", "c2"];
    // It is tried twice and given up without an answer.
    place.run_with(&send, b"[2]").fails(3, &["no result of lab.Bang"]);
    let tries: Vec<_> = (0..4).map(|_| failing.json()["key"].to_string()).collect();
    assert_eq!(tries.iter().filter(|key| **key == "\"Boom\"").count(), 2, "{tries:?}");
    let letters = || place.json(&["dead", "list", "dead-letters"]);
    while letters().len() < 2 {}
    drop(failing);
    let mut fine = lab(&vhost, &[]).unwrap();
    let done = place.json(&["dead", "redrive", "dead-letters"]);
    assert_eq!((&done[0]["done"], &done[0]["remaining"]), (&json!(2), &json!(0)));
    let mut back = [fine.json(), fine.json()];
    back.sort_by_key(|line| line["kind"].to_string());
    let [command, event] = &back;
    // {"n": 0} and [2], as they were sent.
    assert_eq!((&event["key"], &event["payload"]), (&json!("Boom"), &json!("a1616e00")));
    assert_eq!((&command["key"], &command["payload"]), (&json!("lab.Bang"), &json!("8102")));
    assert_eq!(
        (&event["conversation_id"], &command["conversation_id"]),
        (&json!("c"), &json!("c2"))
    );
    assert!(command["reply_to"].as_str().is_some_and(|key| !key.is_empty()), "{command}");
    assert_ne!(command["correlation_id"], "");
    assert_eq!(event["meta"]["x-first-death-queue"], "lab.events", "{event}");
    assert_eq!(letters().len(), 0);
}
