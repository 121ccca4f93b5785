//! What code without async publishes: on the broker it is what Python's own publisher for such code sends.

use busline::blocking::Publisher;
use busline::service::Level;
use busline::service::wire::{Body, Format, LogLine, Value as Payload};
use serde_json::{Value, json};

use super::ground::Ground;

/// Captured from the library.
const VECTORS: &str = include_str!("../../../src/service/wire/tests/eventail.json");

fn body(vector: &Value) -> Payload {
    let hex = vector["body_hex"].as_str().unwrap();
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().unwrap();
    let format = Format::of_content_type(vector["properties"]["content_type"].as_str());
    Body::new(format, bytes.into()).unwrap().value().unwrap()
}

/// Says what a program says that wants this on the wire.
fn publish(publisher: &Publisher, vector: &Value) {
    let (key, payload) = (vector["routing_key"].as_str().unwrap(), body(vector));
    let sent = match vector["exchange"].as_str().unwrap() {
        "events" => {
            let conversation = vector["properties"]["headers"]["conversation_id"].as_str().unwrap();
            publisher.event(key, conversation, &payload, Some(3))
        }
        "configurations" => publisher.configuration(key, &payload, Some(3)),
        _ => {
            let line = LogLine::new(Level::INFO, "short \u{e9}").full("full\ntext");
            let line = line.field("extra", 1).unwrap().field("esc", [1, 2]).unwrap();
            publisher.log(&line, "conv-8", Some(3))
        }
    };
    sent.unwrap();
}

#[test]
fn every_message_of_the_blocking_publisher_is_as_pythons() {
    let Some(ground) = Ground::find() else { return };
    let url = ground.url();
    let service = "syncprobe";
    let [cbor, json] = [false, true].map(|is_json| {
        let publisher = Publisher::open(&url, service).unwrap();
        if is_json { publisher.json() } else { publisher }
    });
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let theirs =
        |vector: &&Value| vector["id"].as_str().is_some_and(|id| id.starts_with('E') || id == "C3");
    let mut count = 0;
    for vector in vectors.iter().filter(theirs) {
        let id = vector["id"].as_str().unwrap();
        let (exchange, key) = (&vector["exchange"], &vector["routing_key"]);
        // Python and we declare the exchange when it is needed, and this is before.
        let durable = json!({ "type": "topic", "durable": true });
        ground.ask("PUT", "exchanges", exchange.as_str().unwrap(), &durable);
        ground.ask("PUT", "queues", id, &json!({ "durable": true }));
        let binding = format!("e/{}/q/{id}", exchange.as_str().unwrap());
        ground.ask("POST", "bindings", &binding, &json!({ "routing_key": key }));
        let is_json = vector["properties"]["content_type"] == "application/json";
        publish(if is_json { &json } else { &cbor }, vector);
        let get = json!({ "count": 1, "ackmode": "ack_requeue_false", "encoding": "auto" });
        let got = ground.ask("POST", "queues", &format!("{id}/get"), &get);
        let got = &got[0];
        assert_eq!((&got["exchange"], &got["routing_key"]), (exchange, key), "{id}");
        assert_eq!(got["properties"], vector["properties"], "{id}");
        if exchange == "logs" {
            let said = |text: &Value| -> Value {
                let mut line: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
                for one_s_own in ["host", "timestamp", "_worker_pid"] {
                    assert!(line.as_object_mut().unwrap().remove(one_s_own).is_some());
                }
                line
            };
            assert_eq!(said(&got["payload"]), said(&vector["body_text"]), "{id}");
        } else {
            assert_eq!(got["payload_bytes"], vector["body_size"], "{id}");
            if got["payload_encoding"] == "string" && is_json {
                assert_eq!(got["payload"], vector["body_text"], "{id}");
            }
        }
        count += 1;
    }
    assert_eq!(count, 10);
    cbor.close().unwrap();
    json.close().unwrap();
}
