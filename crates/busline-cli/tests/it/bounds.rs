//! Bounds: sizes, names, patterns, offsets, and memory that does not grow with the input.

use std::io::Write;

use crate::support::{Place, Running};

#[test]
fn what_is_over_a_bound_is_named_and_nothing_is_stored() {
    let place = Place::new();
    place.publish("t", &["a"]);
    let long_key = "k".repeat(256);
    let long_name = "n".repeat(256);
    let header = format!("{long_name}=1");
    for (args, words) in [
        (
            &["publish", "t", "--data", "x", "--key", &long_key][..],
            "key has 256 bytes, at most 255",
        ),
        (&["publish", &long_name, "--data", "x"], "topic name has 256 bytes"),
        (&["publish", "", "--data", "x"], "topic name is empty"),
        (&["publish", "t", "--data", "x", "--header", &header], "header name"),
        (&["publish", "t", "--data", "x", "--header", "no-value"], "NAME=VALUE"),
        (&["consume", "t", "--group", &long_name], "group name has 256 bytes"),
        (&["consume", "t", "--group", "g", "--pattern", "a*b"], "mixes a wildcard"),
        (&["read", "t", "--pattern", "#x"], "mixes a wildcard"),
        (&["read", "t", "--from", "yesterday"], "a position is 'earliest', 'latest'"),
        (&["read", "t", "--from", "2018-02-30T00:00:00Z"], "is not a time"),
        (&["read", "t", "--timeout", "5"], "write a duration as"),
    ] {
        place.run(args).fails(2, &[words]);
    }
    assert_eq!(place.json(&["read", "t"]).len(), 1);
    assert_eq!(place.json(&["topics"]).len(), 1);
}

#[test]
fn a_payload_too_large_is_refused_before_it_is_sent() {
    let place = Place::new();
    let large = vec![b'x'; (16 << 20) + 1];
    let done = place.run_with(&["publish", "t"], &large);
    done.fails(2, &["longer than 16777216 bytes"]);
    let done = place.run_with(&["publish", "t", "--lines"], &[b"ok\n", &large[..], b"\n"].concat());
    done.fails(2, &["line 2 is longer than 16777216 bytes", "stored: line 1"]);
    assert_eq!(place.json(&["read", "t"]).len(), 1);
    let fits = place.run_with(&["publish", "t"], large.get(1..).unwrap());
    assert_eq!(fits.code, 0, "{}", fits.stderr);
    let done = place.run(&["--json", "read", "t"]);
    assert_eq!(done.lines()[1]["payload"].as_str().map(str::len), Some(16 << 20));
}

#[test]
fn offsets_of_another_topic_and_beyond_the_end() {
    let place = Place::new();
    place.publish("t", &["a"]);
    place.publish("u", &["a"]);
    let offset = place.json(&["read", "u"])[0]["offset"].as_str().unwrap().to_owned();
    place.run(&["read", "t", "--from", &offset]).fails(2, &["is not of this topic"]);
    let (shard, _) = offset.split_once('.').unwrap();
    let beyond = format!("{shard}.99");
    place.run(&["read", "u", "--from", &beyond]).fails(2, &["is beyond the end", "the end is"]);
    let reset = ["group", "reset", "u", "g", "--to", &beyond];
    place.run(&["consume", "u", "--group", "g", "--count", "1"]);
    place.run(&reset).fails(2, &["beyond the end"]);
}

/// Memory of its own that a process has at this moment; mapped files do not count.
fn anonymous_bytes(running: &Running) -> u64 {
    let path = format!("/proc/{}/status", running.pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_input() {
    const LINES: usize = 48 * 1024;
    const BOUND: u64 = 40 << 20;
    let place = Place::new();
    let bus = ["--bus", "file:bus?sync=os", "--json"];
    let mut publisher = place.start(&[&bus[..], &["publish", "t", "--lines"]].concat());
    let mut stdin = publisher.take_stdin();
    let feeder = std::thread::spawn(move || {
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..LINES {
            stdin.write_all(&line).unwrap();
        }
        stdin
    });
    let mut most = 0;
    for n in 0..LINES {
        assert!(!publisher.line().is_empty());
        if n % 4096 == 0 || n + 1 == LINES {
            most = most.max(anonymous_bytes(&publisher));
        }
    }
    drop(feeder.join().unwrap());
    assert_eq!(publisher.finish().code, 0);
    assert!(most < BOUND, "publish took {most} bytes for 48 MiB of lines");

    for args in [&["read", "t", "--follow"][..], &["consume", "t", "--group", "g"]] {
        let mut reader = place.start(&[&bus[..], args].concat());
        let mut most = 0;
        for n in 0..LINES {
            assert!(!reader.line().is_empty());
            if n % 4096 == 0 || n + 1 == LINES {
                most = most.max(anonymous_bytes(&reader));
            }
        }
        reader.signal(rustix::process::Signal::TERM);
        assert_eq!(reader.finish().code, 0);
        assert!(most < BOUND, "{args:?} took {most} bytes for 48 MiB of records");
    }
}
