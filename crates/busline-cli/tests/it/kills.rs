//! Signals, SIGKILL in the middle, closed pipes, and the same work started twice.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::Place;

#[test]
fn sigint_is_130_and_sigterm_a_clean_end() {
    let place = Place::new();
    place.publish("t", &["a"]);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 0)] {
        for args in [
            &["--json", "read", "t", "--follow"][..],
            &["--json", "consume", "t", "--group", signal_group(code)],
            &["--json", "consume", "t", "--group", signal_group(code + 1), "--count", "5"],
        ] {
            let mut running = place.start(args);
            assert_eq!(running.json()["key"], "a");
            running.signal(signal);
            let done = running.finish();
            assert_eq!((done.code, done.stderr.as_str()), (code, ""), "{args:?}");
        }
        let mut publisher = place.start(&["--json", "publish", "other", "--lines"]);
        publisher.write("one");
        publisher.json();
        publisher.signal(signal);
        let stdin = publisher.take_stdin();
        let done = publisher.finish();
        drop(stdin);
        assert_eq!(done.code, code, "{done:?}");
        assert!(done.stderr.contains("1 message stored: line 1"), "{done:?}");
    }
    let settled = place.json(&["groups", "t"]);
    assert!(
        settled.iter().all(|group| group["acked"] == 1 && group["in_flight"] == 0),
        "{settled:?}"
    );
}

fn signal_group(n: i32) -> &'static str {
    match n {
        130 => "int",
        131 => "int with count",
        0 => "term",
        _ => "term with count",
    }
}

#[test]
fn nobody_reads_any_more() {
    let place = Place::new();
    let many: Vec<_> = std::iter::repeat_n("a.long.key.to.fill.a.pipe", 20_000).collect();
    place.publish("t", &many);
    for args in [&["read", "t"][..], &["--json", "consume", "t", "--group", "g"]] {
        let mut running = place.start(args);
        assert!(!running.line().is_empty());
        running.close_stdout();
        let done = running.finish();
        assert_eq!((done.code, done.stderr.as_str()), (141, ""), "{args:?}");
    }
    // What nobody saw is not settled: it comes again.
    let groups = place.json(&["groups", "t"]);
    assert!(groups[0]["acked"].as_u64().unwrap() < 20_000, "{groups:?}");
}

#[test]
fn killed_in_the_middle_of_lines_and_continued() {
    let place = Place::new();
    let mut receipted = BTreeSet::new();
    let mut number = 0;
    for round in 1..=5 {
        let mut publisher = place.start(&["--json", "publish", "t", "--lines"]);
        let mut stdin = publisher.take_stdin();
        let first = number;
        let writer = std::thread::spawn(move || {
            let mut sent = first;
            // Until it is killed.
            while std::io::Write::write_all(&mut stdin, format!("line {sent}\n").as_bytes()).is_ok()
            {
                sent += 1;
            }
            sent
        });
        for _ in 0..100 * round {
            receipted.insert(publisher.json()["offset"].as_str().unwrap().to_owned());
        }
        publisher.signal(Signal::KILL);
        assert_eq!(publisher.finish().code, 128 + 9);
        number = writer.join().unwrap();
    }
    let records = place.json(&["read", "t"]);
    let stored: BTreeSet<_> =
        records.iter().map(|record| record["offset"].as_str().unwrap().to_owned()).collect();
    assert!(receipted.is_subset(&stored), "a receipt is kept, whatever is killed");
    let payloads: BTreeSet<_> =
        records.iter().map(|record| record["payload"].to_string()).collect();
    assert_eq!(payloads.len(), records.len(), "no line is stored twice");
    assert_eq!(place.run(&["log", "verify", "busline-data"]).code, 0);
}

#[test]
fn a_member_that_is_killed_loses_nothing() {
    let place = Place::new();
    place.publish("t", &["a"; 50]);
    let mut member = place.start(&["--json", "consume", "t", "--group", "g", "--count", "60"]);
    // With a count above what comes, the last ones are shown and held.
    for _ in 0..50 {
        member.json();
    }
    member.signal(Signal::KILL);
    assert_eq!(member.finish().code, 128 + 9);
    let again = place.json(&["consume", "t", "--group", "g", "--timeout", "500ms"]);
    let acked = place.json(&["groups", "t"])[0]["acked"].as_u64().unwrap();
    assert_eq!(acked, 50);
    assert!(again.iter().all(|line| line["attempt"] == 2), "{again:?}");
    assert!(!again.is_empty());
}

#[test]
fn the_same_work_started_twice() {
    let place = Place::new();
    let mut publishers: Vec<_> =
        (0..2).map(|_| place.start(&["--json", "publish", "t", "--lines"])).collect();
    let mut feeders = Vec::new();
    for (index, publisher) in publishers.iter_mut().enumerate() {
        let mut stdin = publisher.take_stdin();
        feeders.push(std::thread::spawn(move || {
            for n in 0..1000 {
                let line = format!("{{\"from\":{index},\"n\":{n}}}\n");
                std::io::Write::write_all(&mut stdin, line.as_bytes()).unwrap();
            }
        }));
    }
    feeders.into_iter().for_each(|feeder| feeder.join().unwrap());
    for publisher in publishers {
        let done = publisher.finish();
        assert_eq!((done.code, done.stdout.lines().count()), (0, 1000), "{}", done.stderr);
    }
    let consume = ["--json", "consume", "t", "--group", "g", "--timeout", "300ms"];
    let members: Vec<_> = (0..2).map(|_| place.start(&consume)).collect();
    let mut seen = Vec::new();
    for member in members {
        let done = member.finish();
        assert_eq!(done.code, 0, "{}", done.stderr);
        seen.extend(done.lines().into_iter().map(|line| line["payload"].clone()));
    }
    assert_eq!(seen.len(), 2000, "each is delivered to one of the two");
    for index in 0..2 {
        let of = |value: &&Value| value["from"] == index;
        let numbers: BTreeSet<_> = seen.iter().filter(of).map(|v| v["n"].as_i64()).collect();
        assert_eq!(numbers.len(), 1000);
    }
    let order = place.json(&["read", "t"]);
    for index in 0..2 {
        let of = |line: &&Value| line["payload"]["from"] == index;
        let numbers: Vec<_> = order.iter().filter(of).map(|l| l["payload"]["n"].as_i64()).collect();
        assert!(numbers.is_sorted(), "each publisher's order is kept");
    }
}
