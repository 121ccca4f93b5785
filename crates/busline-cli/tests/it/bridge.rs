//! `bridge`: between real buses, by real processes, killed in the middle.

use std::collections::BTreeSet;

use busline::Record;
use busline::log::blocking::{Consumer, Producer};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::broker::Vhost;
use crate::support::{BUSLINE, Place, finish};

/// The arguments of a bridge between two topics `t`.
fn bridge<'a>(from: &'a str, to: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["bridge", "--from", from, "t", "--to", to, "t"], more].concat()
}

fn url(place: &Place, name: &str) -> String {
    format!("file:{}", place.path().join(name).display())
}

/// Everything in a topic `t`, once so many have come.
fn read(url: &str, at_least: usize) -> Vec<Record> {
    let mut consumer = Consumer::open(url, "t").unwrap();
    let mut records: Vec<_> = consumer.by_ref().take(at_least).map(Result::unwrap).collect();
    consumer.set_timeout(std::time::Duration::ZERO);
    records.extend(consumer.map(Result::unwrap));
    records
}

/// Publishes `from` to `to` as payloads.
fn publish(url: &str, numbers: std::ops::Range<u64>) {
    let producer = Producer::open(url, "t").unwrap();
    for n in numbers {
        producer.send(format!("k.{}", n % 7), n.to_string()).unwrap();
    }
    producer.close().unwrap();
}

fn n(record: &Record) -> u64 {
    std::str::from_utf8(&record.message.payload).unwrap().parse().unwrap()
}

/// Nothing is lost, first copies are in order, and what is repeated is repeated in order from somewhere on.
#[track_caller]
fn check(records: &[Record], count: u64) -> usize {
    let mut seen = 0;
    for record in records {
        let n = n(record);
        assert!(n <= seen, "{n} came when {seen} was next");
        assert_eq!(record.message.key.as_str(), format!("k.{}", n % 7));
        seen = seen.max(n + 1);
    }
    assert_eq!(seen, count, "all of them came");
    records.len() - usize::try_from(count).unwrap()
}

#[test]
fn everything_that_a_message_has_is_copied_in_order() {
    let place = Place::new();
    let (from, to) = (url(&place, "from"), url(&place, "to"));
    let producer = Producer::open(&from, "t").unwrap();
    for n in 0..50_u32 {
        let message = producer_message(n);
        producer.send_message(message).unwrap();
    }
    producer.close().unwrap();
    let line = place.json(&bridge(&from, &to, &[])).remove(0);
    assert_eq!((&line["copied"], &line["status"]), (&json!(50), &json!("done")));
    assert_eq!((&line["lag"], &line["resumed_at"]), (&json!(0), &Value::Null));
    assert!(line["progress"].as_str().unwrap().starts_with("group bridge-"), "{line}");
    let (before, after) = (read(&from, 50), read(&to, 50));
    assert_eq!(after.len(), 50);
    for (before, after) in before.iter().zip(&after) {
        // What the source knows of the time is kept beside.
        let mut expected = before.message.clone();
        assert!(expected.properties.timestamp.is_none());
        expected.properties.timestamp = Some(before.time);
        assert_eq!(after.message, expected);
    }
}

/// On a bus of Hermes there is nothing beside key, payload and time, and a message with more would be refused.
#[test]
fn to_a_bus_that_has_no_place_for_it_the_rest_is_left() {
    let place = Place::new();
    let (from, to) = (url(&place, "from"), url(&place, "to") + "?dialect=hermes");
    let producer = Producer::open(&from, "t").unwrap();
    producer.send_message(producer_message(1)).unwrap();
    let done = place.run(&bridge(&from, &to, &[]));
    assert_eq!(done.code, 0, "{done:?}");
    let (before, after) = (read(&from, 1).remove(0), read(&to, 1).remove(0).message);
    let mut expected = busline::Message::new(after.topic.clone(), before.message.key, vec![0, 255]);
    expected.properties.timestamp = Some(before.time);
    assert_eq!(after, expected);
}

fn producer_message(n: u32) -> busline::Message {
    let topic = "t".try_into().unwrap();
    let mut message =
        busline::Message::new(topic, format!("a.{n}").try_into().unwrap(), vec![0, 255])
            .header("h", "text")
            .header("h", i64::from(n))
            .content_type("application/x-test")
            .message_id(format!("id-{n}"));
    message.ordering_key = Some("order".into());
    message.properties.correlation_id = Some("c".into());
    message.properties.kind = Some("kind".into());
    message
}

#[test]
fn it_goes_on_where_it_stopped_and_takes_what_is_asked_for() {
    let place = Place::new();
    let (from, to, some) = (url(&place, "from"), url(&place, "to"), url(&place, "some"));
    publish(&from, 0..100);
    for (range, expected) in [(100..100, 100), (100..100, 0), (100..130, 30)] {
        publish(&from, range);
        assert_eq!(place.json(&bridge(&from, &to, &[]))[0]["copied"], expected);
    }
    assert_eq!(check(&read(&to, 130), 130), 0, "nothing twice");
    let line = place.json(&bridge(&from, &some, &["--pattern", "*.3"])).remove(0);
    assert_eq!((&line["copied"], &line["lag"]), (&json!(19), &json!(0)));
    assert!(read(&some, 19).iter().all(|record| n(record) % 7 == 3));
    // A relative path is the same bus from elsewhere, and another one is not.
    let again = place.json(&bridge("file:./from", "file:./to", &[])).remove(0);
    assert_eq!(again["copied"], 0, "{again}");
    std::fs::create_dir(place.path().join("elsewhere")).unwrap();
    let mut command = place.command(&["--json"]);
    command.args(bridge("file:../from", "file:./to", &[]));
    let elsewhere = command.current_dir(place.path().join("elsewhere")).output().unwrap();
    let line: Value = serde_json::from_slice(&elsewhere.stdout).unwrap();
    assert_eq!(line["copied"], 130, "{line}");
    // Its place is a group that operators see, and can move.
    let groups = place.json(&["--bus", &from, "groups", "t"]);
    assert_eq!(groups.len(), 3, "{groups:?}");
    assert!(groups.iter().all(|group| group["lag"] == 0), "{groups:?}");
}

/// Kills bridges until everything is copied; each had time for some messages.
fn killed(place: &Place, from: &str, to: &str, more: &[&str], count: u64) -> usize {
    let mut copied = 0;
    let mut consumer = Consumer::open(to, "t").unwrap();
    let mut kills = 0;
    for part in [5, 300, 500, 700] {
        let running = place.start(&[&["--json"], &bridge(from, to, more)[..]].concat());
        // Killed as soon as it has come so far, wherever it is with what comes then.
        while copied < count * part / 1000 {
            let record = consumer.next_message().unwrap().unwrap();
            copied = copied.max(n(&record) + 1);
        }
        running.signal(Signal::KILL);
        let done = running.finish();
        // It may have been done in between.
        kills += usize::from(done.code == 128 + 9);
    }
    let last = place.json(&bridge(from, to, more)).remove(0);
    assert_eq!(last["status"], "done");
    kills
}

#[test]
fn killed_in_the_middle_nothing_is_lost_and_the_order_is_kept() {
    let place = Place::new();
    let (from, to, other) = (url(&place, "from"), url(&place, "to"), url(&place, "other"));
    let count = 20_000;
    publish_plainly(&from, 0..count);
    for (to, more) in [(&to, &[][..]), (&other, &["--state", "state.json"])] {
        let kills = killed(&place, &from, to, more, count);
        let repeated = check(&read(to, usize::try_from(count).unwrap()), count);
        println!("{kills} kills, {repeated} messages repeated");
        assert!(kills > 0);
        // What was on its way, and what was receipted since the progress was saved.
        assert!(repeated <= kills * 5000, "{repeated}");
        assert_eq!(place.json(&bridge(&from, to, more))[0]["copied"], 0);
    }
}

/// As [`publish`], many at once, to a topic that need not have a log.
fn publish_plainly(url: &str, numbers: std::ops::Range<u64>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = busline::Bus::open(url).await.unwrap();
        let publisher = bus.publisher("t").await.unwrap();
        let message = |n: u64| publisher.message(format!("k.{}", n % 7), n.to_string()).unwrap();
        let numbers: Vec<_> = numbers.collect();
        for numbers in numbers.chunks(1000) {
            let batch: Vec<_> = numbers.iter().copied().map(message).collect();
            for receipt in publisher.send(batch).await.unwrap() {
                receipt.await.unwrap();
            }
        }
        bus.close(std::time::Duration::from_secs(60)).await.unwrap();
    });
}

/// What the target has not taken is not passed over, however much of it was on its way.
#[test]
fn a_target_without_room_ends_it_and_the_next_run_goes_on_behind_its_receipts() {
    let place = Place::new();
    let (from, to) = (url(&place, "from"), url(&place, "to"));
    publish_plainly(&from, 0..20_000);
    for more in [&[][..], &["--state", "state.json"]] {
        let to = format!("{to}{}?full_wait=100ms&segment_bytes=1048576", more.len());
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -f 512; exec \"$0\" \"$@\"", BUSLINE, "--json"]);
        command.args(bridge(&from, &to, more)).current_dir(place.path());
        let done = finish(command);
        done.fails(8, &["copied before: "]);
        let copied = done.lines()[0]["copied"].as_u64().unwrap();
        assert!(copied < 20_000, "{done:?}");
        let last = place.json(&bridge(&from, &to, more)).remove(0);
        assert_eq!(last["copied"], 20_000 - copied, "{last}");
        let numbers: Vec<_> = read(&to, 20_000).iter().map(n).collect();
        // In between may be what was on its way behind the first one that found no room.
        let begun = usize::try_from(copied).unwrap();
        assert_eq!(numbers[..begun], (0..copied).collect::<Vec<_>>());
        let resumed = &numbers[numbers.len() - (20_000 - begun)..];
        assert_eq!(resumed, (copied..20_000).collect::<Vec<_>>());
    }
}

#[test]
fn to_a_broker_and_back_killed_in_the_middle() {
    let Some(vhost) = Vhost::new() else { return };
    let place = Place::new();
    let (from, to) = (url(&place, "from"), url(&place, "to"));
    let broker = vhost.url("&replay=true");
    publish(&from, 0..3000);
    let kills = killed(&place, &from, &broker, &[], 3000);
    println!("{kills} kills on the way there");
    check(&read(&broker, 3000), 3000);
    // Streams have no groups that keep a place: it is in a file, which is said.
    let kills = killed(&place, &broker, &to, &[], 3000);
    println!("{kills} kills on the way back");
    check(&read(&to, 3000), 3000);
    let done = place.run(&bridge(&broker, &to, &[]));
    assert!(done.stderr.contains("kept in file busline-bridge-"), "{done:?}");
    assert!(done.stderr.contains("it goes on at "), "{done:?}");
    assert!(!done.stderr.contains("guest"), "{done:?}");
}

#[test]
fn a_queue_without_a_log_is_emptied_into_a_log() {
    let Some(vhost) = Vhost::new() else { return };
    let place = Place::new();
    let (broker, to) = (vhost.url(""), url(&place, "to"));
    let line = |more: &[&str]| place.json(&bridge(&broker, &to, more)).remove(0);
    place.json(&["--bus", &broker, "publish", "t", "--data", "before"]);
    assert_eq!(line(&[])["copied"], 0, "what was before it is nowhere");
    publish_plainly(&broker, 0..500);
    let done = line(&[]);
    assert_eq!((&done["copied"], &done["next"]), (&json!(500), &Value::Null));
    assert_eq!(check(&read(&to, 500), 500), 0);
    place.run(&bridge(&broker, &to, &["--state", "x"])).fails(6, &["replay"]);
}

#[test]
fn where_nobody_would_take_it_it_stops_and_nothing_is_lost() {
    let Some(vhost) = Vhost::new() else { return };
    let place = Place::new();
    let (from, broker) = (url(&place, "from"), vhost.url(""));
    publish(&from, 0..10);
    place.run(&bridge(&from, &broker, &[])).fails(4, &["no group of the target", "replay=true"]);
    let consume = ["--bus", &broker, "consume", "t", "--group", "g", "--timeout"];
    place.json(&[&consume[..], &["1ms"]].concat());
    assert_eq!(place.json(&bridge(&from, &broker, &[]))[0]["copied"], 10);
    let got = place.json(&[&consume[..], &["5s", "--count", "10"]].concat());
    let numbers: BTreeSet<_> = got.iter().map(|line| line["payload"].to_string()).collect();
    assert_eq!(numbers.len(), 10);
}

#[test]
fn following_it_copies_what_comes_and_signals_end_it_well() {
    let place = Place::new();
    let (from, to) = (url(&place, "from"), url(&place, "to"));
    publish(&from, 0..5);
    let mut next = 5;
    for (signal, code) in [(Signal::TERM, 0), (Signal::INT, 130)] {
        let mut running =
            place.start(&[&["--json"], &bridge(&from, &to, &["--follow"])[..]].concat());
        let mut consumer = Consumer::open(&to, "t").unwrap();
        publish(&from, next..next + 3);
        next += 3;
        while n(&consumer.next_message().unwrap().unwrap()) + 1 < next {}
        running.signal(signal);
        let line = running.json();
        let done = running.finish();
        assert_eq!(done.code, code, "{done:?}");
        assert_eq!((&line["status"], &line["lag"]), (&json!("stopped"), &json!(0)), "{line}");
        assert!(!done.stderr.contains('\u{1b}'), "no bar where there is no terminal: {done:?}");
    }
    assert_eq!(check(&read(&to, 11), 11), 0, "a clean end repeats nothing");
}

#[test]
fn what_cannot_be_is_said_before_anything_is_done() {
    let place = Place::new();
    let (from, to) = (url(&place, "from"), url(&place, "to"));
    place.run(&bridge("file:./nowhere", &to, &[])).fails(5, &["there is no bus"]);
    assert!(!place.path().join("nowhere").exists());
    publish(&from, 0..3);
    place.run(&bridge(&from, &from, &[])).fails(2, &["copied to itself"]);
    place.run(&["bridge", "--from", &from, "x", "--to", &to, "x"]).fails(2, &["'x'"]);
    let usage = place.run(&["bridge", "--from", &from, "--to", &to, "t"]);
    assert_eq!(usage.code, 2, "{usage:?}");

    let state = ["--state", "deep/state.json"];
    assert_eq!(place.json(&bridge(&from, &to, &state))[0]["copied"], 3);
    // The same file for another bridge would skip what was not copied.
    let other = url(&place, "other");
    place.run(&bridge(&from, &other, &state)).fails(2, &["progress of another bridge", "--state"]);
    std::fs::write(place.path().join("deep/state.json"), "{").unwrap();
    place.run(&bridge(&from, &to, &state)).fails(7, &["no progress of a bridge"]);

    // Only one at a time keeps its place in a file.
    let args = bridge(&from, &to, &["--state", "one.json", "--follow"]);
    let one = place.start(&args);
    let mut consumer = Consumer::open(&to, "t").unwrap();
    for _ in 0..6 {
        consumer.next_message().unwrap().unwrap();
    }
    place.run(&args).fails(2, &["another bridge uses it"]);
    one.signal(Signal::TERM);
    assert_eq!(one.finish().code, 0);
}

#[test]
fn a_topic_that_is_another_one_now_is_an_error_and_no_gap() {
    let place = Place::new();
    let (from, to) = (url(&place, "from"), url(&place, "to"));
    publish(&from, 0..10);
    let state = ["--state", "state.json"];
    assert_eq!(place.json(&bridge(&from, &to, &state))[0]["copied"], 10);
    place.json(&["--bus", &from, "topic", "delete", "t", "--yes"]);
    publish(&from, 0..10);
    let done = place.run(&bridge(&from, &to, &state));
    done.fails(2, &["the bridge had come to", "state.json it begins anew"]);
    assert_eq!(read(&to, 10).len(), 10);
}
