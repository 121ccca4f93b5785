//! What eventail 2.3.6 sent, captured on the wire: read, and written again byte for byte.

use busline_core::{HeaderValue, Key, Message, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::super::gelf::Origin;
use super::super::*;
use super::bytes;

#[derive(Deserialize)]
struct Vector {
    id: String,
    emitter: String,
    exchange: String,
    routing_key: String,
    body_hex: String,
    properties: Map<String, Json>,
}

impl Vector {
    fn all() -> Vec<Self> {
        serde_json::from_str(include_str!("eventail.json")).unwrap()
    }

    fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).and_then(Json::as_str)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.properties.get("headers")?.get(name)?.as_str()
    }

    fn kind(&self) -> Kind {
        match &*self.exchange {
            "events" => Kind::Event,
            "commands" => Kind::Command,
            "configurations" => Kind::Configuration,
            "logs" => Kind::Log,
            other => panic!("{other}"),
        }
    }

    /// As a transport hands it on.
    fn message(&self) -> Message {
        let key = Key::new(self.routing_key.as_str()).unwrap();
        let mut message = Message::new(topic(self.kind()), key, bytes(&self.body_hex));
        let properties = &mut message.properties;
        let filled =
            |name: &str| self.property(name).filter(|text| !text.is_empty()).map(Into::into);
        properties.content_type = filled("content_type");
        properties.reply_to = filled("reply_to");
        properties.correlation_id = filled("correlation_id");
        properties.conversation_id = self.header("conversation_id").map(Into::into);
        for (name, value) in
            self.properties.get("headers").and_then(Json::as_object).into_iter().flatten()
        {
            if let (true, Some(text)) = (name != "conversation_id", value.as_str()) {
                message.headers.append(name.clone(), text);
            }
        }
        message
    }
}

#[test]
fn what_a_python_service_sends_is_read_and_written_the_same() {
    let mut written = 0;
    for vector in Vector::all().iter().filter(|vector| vector.kind() != Kind::Log) {
        let id = &vector.id;
        let incoming = decode(vector.kind(), &vector.message()).unwrap();
        assert_eq!(*incoming.key, vector.routing_key, "{id}");
        assert_eq!(
            incoming.conversation(),
            vector.header("conversation_id").unwrap_or_default(),
            "{id}"
        );
        let format = incoming.body.format();
        // Only a service's own way of writing is ours, not that of the library for plain scripts.
        let payload = encode(format, &incoming.body.value().unwrap()).unwrap();
        let is_services = vector.properties.contains_key("reply_to") && id != "R1";
        if !is_services {
            continue;
        }
        written += 1;
        assert_eq!(payload, bytes(&vector.body_hex), "{id}");
        let conversation = &incoming.conversation;
        let (key, correlation) = (&*vector.routing_key, vector.property("correlation_id"));
        let again = match incoming.kind {
            Kind::Event => event(key, format, payload, conversation),
            Kind::Configuration => configuration(key, format, payload),
            Kind::Command => {
                let return_key = vector.property("reply_to").unwrap();
                command(key, format, payload, conversation, return_key, correlation.unwrap())
            }
            _ => {
                let status = match incoming.status.as_deref() {
                    Some("success") => Status::Success,
                    Some("error") => Status::Error,
                    other => panic!("{id}: {other:?}"),
                };
                result(key, format, payload, conversation, status, correlation)
            }
        };
        assert_eq!(again.unwrap(), vector.message(), "{id}");
    }
    assert_eq!(written, 21);
}

/// The payload of most vectors, as a type with its fields in order.
#[derive(serde::Serialize, Deserialize, Debug, PartialEq)]
struct Sample {
    name: String,
    n: u8,
    neg: i64,
    pi: f64,
    ok: bool,
    none: Option<String>,
    list: (u8, String),
    big: u64,
    nested: std::collections::BTreeMap<String, char>,
}

#[test]
fn a_typed_payload_goes_there_and_back() {
    for (id, format) in [("S1", Format::Cbor), ("SJ1", Format::Json)] {
        let vectors = Vector::all();
        let vector = vectors.iter().find(|vector| vector.id == id).unwrap();
        let sample = Sample {
            name: "Zoé".to_owned(),
            n: 42,
            neg: -7,
            pi: 3.5,
            ok: true,
            none: None,
            list: (1, "a".to_owned()),
            big: 1_099_511_627_776,
            nested: [("k".to_owned(), 'v')].into(),
        };
        assert_eq!(encode(format, &sample).unwrap(), bytes(&vector.body_hex), "{id}");
        let incoming = decode(vector.kind(), &vector.message()).unwrap();
        assert_eq!(incoming.payload::<Sample>().unwrap(), sample, "{id}");
    }
}

#[test]
fn logs_are_written_byte_for_byte() {
    let mut seen = 0;
    for vector in Vector::all().iter().filter(|vector| vector.kind() == Kind::Log) {
        seen += 1;
        let (id, body) = (&vector.id, bytes(&vector.body_hex));
        // Not by the JSON library: it keeps neither order nor the last bit of a float.
        let log = Body::new(Format::Json, body.clone()).unwrap().value().unwrap();
        let log = log.as_map().unwrap();
        let field =
            |name: &str| &log.iter().find(|(key, _)| key.as_text() == Some(name)).unwrap().1;
        let text = |name: &str| field(name).as_text().unwrap();
        let int = |name: &str| i128::from(field(name).as_integer().unwrap());
        let mut line = LogLine::new(Level(int("level") as i64), text("short_message"))
            .full(text("full_message"));
        for (name, value) in &log[10..] {
            // With and without the underscore.
            let name = name.as_text().unwrap();
            line = line.field(if name == "_extra" { "extra" } else { name }, value).unwrap();
        }
        let (service, host) = (text("_logical_service"), text("host"));
        let origin = Origin { service, host, worker_pid: int("_worker_pid") as u32 };
        let timestamp = field("timestamp").as_float().unwrap();
        let now = Timestamp::from_unix_us((timestamp * 1e6).round() as i64);
        let again = line.body(origin, text("_conversation_id"), now).unwrap();
        // Python's clock counts nanoseconds; ours microseconds.
        let body = String::from_utf8(body.to_vec()).unwrap();
        let ours = (now.unix_us() as f64 / 1e6).to_string();
        assert_eq!(
            again,
            body.replace(&timestamp.to_string(), &ours),
            "{id} of {}",
            vector.emitter
        );
        let key = line.message(service, "", now).unwrap().key;
        assert_eq!(key.as_str(), vector.routing_key, "{id}");
    }
    assert_eq!(seen, 7);
}

#[test]
fn additional_fields_have_an_underscore_and_may_replace() {
    let line = LogLine::new(Level(-1), "short").field("levelname", "OWN").unwrap();
    let line = line.field("_more", [1.5]).unwrap();
    for name in ["id", "_id"] {
        let error = line.clone().field(name, 1).unwrap_err();
        assert!(error.to_string().contains(&format!("a field '{name}'")), "{error}");
    }
    let origin = Origin { service: "s", host: "s@h", worker_pid: 7 };
    let body = line.body(origin, "é", Timestamp::from_unix_us(1_500_000)).unwrap();
    let expected = r#"{"version": "1.1", "short_message": "short", "full_message": "", "level": -1, "_levelname": "OWN", "host": "s@h", "timestamp": 1.5, "_conversation_id": "\u00e9", "_logical_service": "s", "_worker_pid": 7, "_more": [1.5]}"#;
    assert_eq!(body, expected);
    assert_eq!(line.message("s", "", Timestamp::from_unix_us(0)).unwrap().key.as_str(), "s.DEBUG");
}

#[test]
fn meta_has_headers_and_four_properties_in_their_place() {
    let mut message = Message::new(topic(Kind::Event), Key::new("K").unwrap(), "1")
        .header("custom", "h")
        .header("timestamp", "fake")
        .header("status", "weird")
        .header("conversation_id", 77);
    message.properties.timestamp = Some(Timestamp::from_unix_us(1_700_000_000_000_000));
    message.properties.expiration = Some(std::time::Duration::from_mins(1));
    message.properties.app_id = Some("app".into());
    let incoming = decode(Kind::Event, &message).unwrap();
    assert_eq!(incoming.conversation(), "77");
    let body = encode(Format::Json, &incoming.meta).unwrap();
    let expected = r#"{"custom": "h", "timestamp": 1700000000, "status": "weird", "expiration": "60000", "user_id": null, "app_id": "app"}"#;
    assert_eq!(body, expected);
    assert_eq!(incoming.meta.timestamp_unix_s(), Some(1_700_000_000));
    assert_eq!(incoming.meta.text("user_id"), None);
    // What is no text goes on as it came.
    let next = event("Next", Format::Json, "1".into(), &incoming.conversation).unwrap();
    assert_eq!(next.headers.get("conversation_id"), Some(&HeaderValue::Int(77)));
    assert_eq!(next.properties.conversation_id, None);
    assert_eq!(json!(null), serde_json::to_value(incoming.meta).unwrap()["user_id"]);
}
