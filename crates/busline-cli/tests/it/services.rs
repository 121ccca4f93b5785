//! The verbs of services, on the embedded bus and on RabbitMQ.

use busline::service::wire::{self, Format, Kind, Level, LogLine, Status};
use busline::transport::Dialect;
use busline::{Bus, GroupName, KeyPattern, Patterns, SystemClock, Timestamp};
use serde_json::{Value, json};

use crate::broker::Vhost;
use crate::support::{Place, Running, python};

/// On both kinds of bus.
fn on_each(test: impl Fn(&Place, &str)) {
    let place = Place::new();
    test(&place, &format!("file:{}", place.bus().display()));
    if let Some(vhost) = Vhost::new() {
        // The dialect is that of services without anybody asking.
        test(&Place::on(vhost.url("")), &vhost.url(""));
    }
}

/// A service that answers `pong.Ping` with what came, and anything else with an error, this many times.
fn service(url: &str, commands: usize) -> std::thread::JoinHandle<()> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let url = url.to_owned();
    let running = std::thread::spawn(move || {
        let serving = async {
            let bus = Bus::open(&url).await.unwrap().in_dialect(Dialect::Eventail).unwrap();
            let group = bus.group(wire::topic(Kind::Command), GroupName::new("pong").unwrap());
            let pattern = Patterns::new([KeyPattern::new("pong.*").unwrap()]);
            let group = group.unwrap().patterns(pattern).attempts_max(None);
            let mut consumer = group.subscribe().await.unwrap();
            ready.send(()).unwrap();
            let publisher = bus.publisher(wire::topic(Kind::Result)).await.unwrap();
            for _ in 0..commands {
                let delivery = consumer.next().await.unwrap().unwrap();
                let came = wire::decode(Kind::Command, &delivery.message).unwrap();
                let status =
                    if &*came.key == "pong.Ping" { Status::Success } else { Status::Error };
                let payload = wire::encode(Format::Cbor, &came.body).unwrap();
                let answer = wire::result(
                    came.reply_to.as_deref().unwrap(),
                    Format::Cbor,
                    payload,
                    &came.conversation,
                    status,
                    came.correlation_id.as_deref(),
                );
                publisher.publish_mandatory(answer.unwrap()).await.unwrap();
                delivery.ack().await.unwrap();
            }
            bus.close(std::time::Duration::from_secs(10)).await.unwrap();
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(serving);
    });
    is_ready.recv().unwrap();
    running
}

/// Starts one that watches, and waits until nothing can pass unseen.
fn watching(place: &Place, args: &[&str], topics: &[&str]) -> Running {
    let running = place.start(&[&["--json"], args].concat());
    let clock = SystemClock::shared();
    let deadline = clock.monotonic() + std::time::Duration::from_secs(60);
    loop {
        let done = place.run(&["--json", "groups"]);
        let groups = if done.code == 0 { done.lines() } else { Vec::new() };
        let is_there = |topic: &&str| {
            groups.iter().any(|group| group["topic"] == **topic && group["broadcast"] == true)
        };
        if topics.iter().all(is_there) {
            return running;
        }
        assert!(clock.monotonic() < deadline, "{topics:?} are not watched: {groups:?}");
    }
}

#[test]
fn a_command_is_sent_and_its_result_shown() {
    on_each(|place, url| {
        let serving = service(url, 3);
        std::fs::write(place.path().join("p.json"), r#"{"text": "Zoé", "n": [1, null]}"#).unwrap();
        let answer = place.json(&["command", "send", "pong.Ping", "p.json", "--conversation", "c"]);
        let line = &answer[0];
        assert_eq!((answer.len(), &line["status"]), (1, &json!("success")));
        assert_eq!(line["payload"], json!({"text": "Zoé", "n": [1, null]}));
        assert_eq!(line["conversation_id"], "c");
        assert!(!line["correlation_id"].as_str().unwrap().is_empty());

        // {"b": h'ff'}, which JSON has no place for.
        std::fs::write(place.path().join("p.cbor"), b"\xa1\x61b\x41\xff").unwrap();
        let answer = place.json(&["command", "send", "pong.Ping", "p.cbor"]);
        assert_eq!(answer[0]["payload"], json!({"b": {"base64": "/w=="}}));

        let refused = place.run(&["--json", "command", "send", "pong.Fail", "p.json"]);
        refused.fails(1, &["the status 'error'"]);
        assert_eq!(refused.lines()[0]["status"], "error");
        serving.join().unwrap();
        let late = ["command", "send", "pong.Ping", "p.json", "--timeout", "200ms"];
        place.run(&late).fails(3, &["no result of pong.Ping", "unknown"]);
        let nobody = ["command", "send", "nobody.Ping", "p.json"];
        place.run(&nobody).fails(4, &["no service takes the command nobody.Ping"]);
    });
}

/// In the dialect of services nothing is a log: a queue of such a name is somebody's.
#[test]
fn a_queue_that_is_named_like_a_log_changes_nothing() {
    let Some(vhost) = Vhost::new() else { return };
    let topic = json!({"type": "topic", "durable": true}).to_string();
    vhost.ask("PUT", "exchanges/commands", &topic);
    vhost.ask("PUT", "queues/commands.log", r#"{"durable":true}"#);
    vhost.ask("POST", "bindings/e/commands/q/commands.log", r##"{"routing_key":"#"}"##);
    let place = Place::on(vhost.url(""));
    let serving = service(&vhost.url(""), 1);
    std::fs::write(place.path().join("p.json"), "[1]").unwrap();
    let answer = place.json(&["command", "send", "pong.Ping", "p.json"]);
    assert_eq!(answer[0]["status"], "success");
    serving.join().unwrap();
    let audited = place.json(&["inspect", "commands.log"]);
    assert_eq!(audited.len(), 2, "the command and its result: {audited:?}");
    let topics = place.json(&["topics"]);
    assert_eq!((topics.len(), &topics[0]["end"]), (1, &Value::Null), "{topics:?}");
    place.json(&["topic", "delete", "commands", "--yes"]);
    assert!(vhost.ask("GET", "queues", "").contains("commands.log"), "it is not ours");
}

#[test]
fn payloads_are_looked_at_before_anything_is_sent() {
    let place = Place::new();
    std::fs::write(place.path().join("bad.json"), "{\"a\":").unwrap();
    place.run(&["event", "publish", "E", "bad.json"]).fails(2, &["bad.json: the payload is not"]);
    std::fs::write(place.path().join("bad.cbor"), b"\xa1\x61a").unwrap();
    place.run(&["event", "publish", "E", "bad.cbor"]).fails(2, &["bad.cbor"]);
    place.run(&["event", "publish", "E", "none.json"]).fails(2, &["none.json"]);
    place.run(&["event", "publish", "E", "-"]).fails(2, &["the payload is empty"]);
    let long = "k".repeat(256);
    let done = place.run_with(&["event", "publish", &long, "-"], b"1");
    done.fails(2, &["255"]);
    assert!(!place.bus().exists());
}

#[test]
fn what_passes_is_shown_filtered_and_saved() {
    on_each(|place, url| {
        let args = ["monitor", "--events", "*", "--commands", "pong.#"];
        let more = ["--configurations", "#", "--save", "kept", "--count", "5"];
        let topics = ["events", "commands", "configurations"];
        let filter = ["--filter", "key != 'Hidden'"];
        let mut monitor = watching(place, &[&args[..], &more, &filter].concat(), &topics);
        let publish = |args: &[&str]| {
            let done = place.run_with(&[&["--json"], args].concat(), b"{\"n\": 1}");
            assert_eq!(done.code, 0, "{done:?}");
            done.lines().remove(0)
        };
        let published = publish(&["event", "publish", "Made", "-", "--conversation", "../c"]);
        assert_eq!(published["status"], "stored");
        assert_eq!((&published["topic"], &published["key"]), (&json!("events"), &json!("Made")));
        let event = monitor.json();
        assert_eq!((&event["kind"], &event["key"]), (&json!("event"), &json!("Made")));
        assert_eq!(event["conversation_id"], "../c");
        assert_eq!(event["content_type"], "application/cbor");
        assert_eq!((&event["payload"], &event["status"]), (&json!({"n": 1}), &Value::Null));
        let saved = place.path().join(event["saved"].as_str().unwrap());
        assert_eq!(saved.file_name().unwrap(), "Made..._c.cbor");
        assert_eq!(std::fs::read(saved).unwrap(), b"\xa1\x61n\x01");

        publish(&["event", "publish", "Hidden", "-"]);
        publish(&["configuration", "publish", "Settings", "-", "--json-payload"]);
        let settings = monitor.json();
        assert_eq!(
            (&settings["kind"], &settings["key"]),
            (&json!("configuration"), &json!("Settings"))
        );
        assert_eq!(settings["content_type"], "application/json");
        assert!(settings["saved"].as_str().unwrap().ends_with("Settings.na.json"));

        let serving = service(url, 1);
        publish(&["command", "send", "pong.Ping", "-"]);
        serving.join().unwrap();
        let (command, result) = (monitor.json(), monitor.json());
        assert_eq!((&command["kind"], &command["key"]), (&json!("command"), &json!("pong.Ping")));
        assert_eq!((&result["kind"], &result["status"]), (&json!("result"), &json!("success")));
        assert_eq!(result["correlation_id"], command["correlation_id"]);
        assert_eq!(result["key"], command["reply_to"]);

        // What services would refuse is shown with the reason.
        let odd = ["publish", "events", "--key", "Odd", "--data", "{", "--content-type", "x"];
        assert_eq!(place.run(&odd).code, 0);
        let odd = monitor.json();
        assert!(odd["invalid"].is_string(), "{odd}");
        assert_eq!(monitor.finish().code, 0);
        let broadcasts = place.json(&["groups"]).into_iter().filter(|g| g["broadcast"] == true);
        assert_eq!(broadcasts.count(), 0, "no queue is left behind");
    });
}

#[test]
fn logs_are_shown_by_level_and_service() {
    on_each(|place, url| {
        let args = ["logs", "--service", "pong", "--level", "warning", "--count", "2"];
        let mut logs = watching(place, &args, &["logs"]);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let bus = Bus::open(url).await.unwrap().in_dialect(Dialect::Eventail).unwrap();
            let publisher = bus.publisher(wire::topic(Kind::Log)).await.unwrap();
            let now = Timestamp::from_unix_ms(1_500);
            for (service, level, text) in [
                ("pong", Level::INFO, "too quiet"),
                ("ping", Level::ERROR, "of another"),
                ("pong", Level::WARNING, "hot"),
                ("pong", Level::EMERGENCY, "burns"),
            ] {
                let line = LogLine::new(level, text).full("all\nof it").field("degrees", 451);
                let message = line.unwrap().message(service, "c", now).unwrap();
                publisher.publish(message).await.unwrap();
            }
            bus.close(std::time::Duration::from_secs(10)).await.unwrap();
        });
        let hot = logs.json();
        assert_eq!((&hot["key"], &hot["level"]), (&json!("pong.WARNING"), &json!(4)));
        assert_eq!((&hot["short_message"], &hot["service"]), (&json!("hot"), &json!("pong")));
        assert_eq!((&hot["full_message"], &hot["timestamp"]), (&json!("all\nof it"), &json!(1.5)));
        assert_eq!(
            (&hot["conversation_id"], &hot["fields"]["degrees"]),
            (&json!("c"), &json!(451))
        );
        assert_eq!(logs.json()["short_message"], "burns");
        assert_eq!(logs.finish().code, 0);
    });
}

/// One by the real Python library.
#[test]
fn logs_of_python_services_are_shown() {
    let Some(vhost) = Vhost::new() else { return };
    let Some(mut publish) = python("endpoint.py") else { return };
    let url = vhost.url("");
    let mut logs =
        watching(&Place::on(url.clone()), &["logs", "--level", "error", "--count", "1"], &["logs"]);
    // Options of ours are not for others.
    let ended = publish.arg(url.split('?').next().unwrap()).arg("theirs").status();
    assert!(ended.unwrap().success());
    let line = logs.json();
    assert_eq!((&line["key"], &line["level"]), (&json!("theirs.ERROR"), &json!(3)));
    assert_eq!(
        (&line["short_message"], &line["service"]),
        (&json!("it failed: é"), &json!("theirs"))
    );
    assert_eq!(line["conversation_id"], "of endpoint");
    assert_eq!(logs.finish().code, 0);
}
