//! The message bus of Hermes: with a peer that does what its specification says that the real plugins do, by the library
//! that they stand on.

use std::path::PathBuf;
use std::process::Command;

use busline_core::transport::{Read, Reader};
use busline_core::{Key, Message, Position};

use super::broker::Broker;
use super::input::{connect, declare, topic};

/// As the producer plugin: the key is the category, the value its JSON text, and the answer is waited for.
const PRODUCE: &str = r#"
import sys
from kafka import KafkaProducer
producer = KafkaProducer(bootstrap_servers=[sys.argv[1]], acks=1)
for category, text in (("base", '{"evcategory": "base", "n": 1}'), ("initsync", '{"n": "\\u00fc"}')):
    producer.send(sys.argv[2], key=category.encode(), value=text.encode()).get()
producer.close()
"#;

/// As the consumer plugin: one partition, assigned by hand, from its beginning, until nothing comes for a while.
const CONSUME: &str = r#"
import json, sys
from kafka import KafkaConsumer, TopicPartition
consumer = KafkaConsumer(bootstrap_servers=[sys.argv[1]], group_id="clients", enable_auto_commit=False,
                         auto_offset_reset="earliest", consumer_timeout_ms=3000)
partitions = consumer.partitions_for_topic(sys.argv[2])
assert partitions == {0}, partitions
consumer.assign([TopicPartition(sys.argv[2], partitions.pop())])
consumer.seek_to_beginning()
for record in consumer:
    key = record.key.decode() if record.key is not None else None
    print(json.dumps([record.offset, key, record.value.decode(), record.headers, record.timestamp_type]))
"#;

/// The interpreter that has the library; `None`, said aloud, where there is none.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("BUSLINE_TEST_PYTHON").map(PathBuf::from);
    let has_library = |python: &PathBuf| {
        let tried = Command::new(python).args(["-c", "import kafka"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let found = python.filter(has_library);
    if found.is_none() {
        let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
        assert!(!required, "BUSLINE_TEST_PYTHON names no Python with kafka-python");
        println!("skip: there is no Python with kafka-python, see `cargo xtask python`");
    }
    found
}

async fn run(python: &PathBuf, script: &'static str, broker: &Broker, topic: &str) -> String {
    let mut peer = Command::new(python);
    peer.args(["-c", script, &broker.address, topic]);
    let output = tokio::task::spawn_blocking(move || peer.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_both_ways_beside_a_peer_of_the_message_bus() {
    let (Some(broker), Some(python)) = (Broker::shared(), python()) else { return };
    if std::env::var_os("HERMES_DIR").is_none() {
        println!("skip: HERMES_DIR names no checkout of the real plugins, a peer stands for them");
    }
    let session = connect(&broker.url("&dialect=hermes")).await;
    let topic = topic("bus");
    declare(&*session, &topic, None).await;
    run(&python, PRODUCE, &broker, topic.as_str()).await;
    let read = Read::new(topic.clone(), Position::Earliest);
    let mut reader = session.read(read).await.unwrap();
    let records = all(&mut *reader, 2).await;
    let found: Vec<_> =
        records.iter().map(|r| (r.message.key.as_str(), r.message.payload.clone())).collect();
    assert_eq!(found[0], ("base", r#"{"evcategory": "base", "n": 1}"#.into()));
    assert_eq!(found[1], ("initsync", r#"{"n": "\u00fc"}"#.into()));
    assert!(records.iter().all(|record| record.message.headers.is_empty()));
    assert!(records[0].time.unix_us() > 1_600_000_000_000_000, "{}", records[0].time);

    let text = "{\n    \"evcategory\": \"base\"\n}";
    let ours = Message::new(topic.clone(), Key::new("base").unwrap(), text);
    let null = Message::new(topic.clone(), Key::empty(), "{}");
    for receipt in session.send(vec![ours, null].into()).await.unwrap() {
        receipt.await.unwrap();
    }
    let printed = run(&python, CONSUME, &broker, topic.as_str()).await;
    let lines: Vec<serde_json::Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4, "{printed}");
    // No headers, and the time of who made it.
    assert_eq!(lines[2], serde_json::json!([2, "base", text, [], 0]));
    assert_eq!(lines[3], serde_json::json!([3, null, "{}", [], 0]));
}

async fn all(reader: &mut dyn Reader, count: usize) -> Vec<busline_core::Record> {
    let mut records = Vec::new();
    while records.len() < count {
        records.extend(reader.next().await.unwrap());
        if records.len() < count {
            reader.wait().await.unwrap();
        }
    }
    records
}
