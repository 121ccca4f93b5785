//! Damaged files (7), full disks (8), `log verify` and `log repair`.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;

use crate::support::{BUSLINE, Place, finish, in_namespace, namespace};

/// The only segment of topic t.
fn segment(place: &Place) -> PathBuf {
    let log = place.bus().join("topics/t/log");
    let mut segments: Vec<_> = fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    assert_eq!(segments.len(), 1);
    segments.remove(0)
}

/// Three messages, each in a frame of its own, the middle one with a bit flipped.
fn damaged() -> Place {
    let place = Place::new();
    for text in ["first", "damage me", "last"] {
        assert_eq!(place.run(&["publish", "t", "--data", text]).code, 0);
    }
    let mut file = fs::File::options().read(true).write(true).open(segment(&place)).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let at = bytes.windows(9).position(|window| window == b"damage me").unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[b'd' ^ 1]).unwrap();
    place
}

#[test]
fn a_flipped_bit_is_found_exactly_and_given_up_only_when_told() {
    let place = damaged();
    let read = place.run(&["--json", "read", "t"]);
    read.fails(7, &["damaged", "busline log verify"]);
    assert_eq!(read.lines().len(), 1, "what is before the damage is read");

    let verify = place.run(&["--json", "log", "verify", "busline-data"]);
    verify.fails(7, &["1 of 1 log not sound"]);
    let line = &verify.lines()[0];
    assert_eq!((&line["status"], &line["records"]), (&json!("damaged"), &json!(2)));
    let finding = &line["findings"][0];
    assert_eq!((&finding["kind"], &finding["records"]), (&json!("damaged"), &json!([1, 2])));
    assert!(place.run(&["log", "verify", "busline-data"]).stdout.contains("records 1 to 2"));

    let before = fs::read(segment(&place)).unwrap();
    let repair = place.run(&["log", "repair", "busline-data"]);
    repair.fails(7, &["nothing was changed", "--allow-drop"]);
    assert!(fs::read(segment(&place)).unwrap() == before);

    let repaired = place.json(&["log", "repair", "busline-data", "--allow-drop"]);
    assert_eq!(repaired[0]["status"], "repaired");
    assert_eq!(repaired[0]["mended"][0]["records"], json!([1, 2]));
    assert_eq!(place.json(&["log", "verify", "busline-data"])[0]["status"], "sound");
    let payloads: Vec<_> =
        place.json(&["read", "t"]).iter().map(|record| record["payload"].clone()).collect();
    assert_eq!(payloads, ["first", "last"]);
    assert_eq!(place.json(&["log", "repair", "busline-data"])[0]["status"], "sound");
}

#[test]
fn a_sound_bus_a_topic_and_what_is_none() {
    let place = Place::new();
    place.publish("t", &["a", "b"]);
    place.json(&["consume", "t", "--group", "g", "--count", "1"]);
    let logs = place.json(&["log", "verify", "busline-data"]);
    assert_eq!(logs.len(), 2, "the topic's, and the state of its group: {logs:?}");
    assert!(logs.iter().all(|log| log["status"] == "sound" && log["findings"] == json!([])));
    assert_eq!(logs[0]["records"], 2);
    let one = place.json(&["log", "verify", "busline-data/topics/t/log"]);
    assert_eq!(one[0]["records"], 2);
    place.run(&["log", "verify", "missing"]).fails(2, &["missing"]);
    fs::create_dir(place.path().join("empty")).unwrap();
    place.run(&["log", "verify", "empty"]).fails(5, &["there is no log in empty"]);
    let member = place.start(&["read", "t", "--follow"]);
    let mut member = member;
    member.line();
    assert_eq!(place.run(&["log", "verify", "busline-data"]).code, 0, "it may be in use");
    place.run(&["log", "repair", "busline-data"]).fails(5, &[]);
}

#[test]
fn a_full_disk_is_8_and_nothing_is_lost() {
    if !namespace("a_full_disk_is_8_and_nothing_is_lost") {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path().join("small")).unwrap();
    // The disk fills up; then a stone is taken away, and everything goes on.
    let script = "mount -t tmpfs -o size=2m none small\n\
        head -c 1000000 /dev/zero > small/stone\n\
        set +e\n\
        seq 100000 | sed 's/$/ is a line to fill a small disk with/' \
          | \"$0\" --json --bus 'file:small/bus?full_wait=10ms' publish t --lines > receipts\n\
        echo \"code $?\" >> codes\n\
        rm small/stone\n\
        \"$0\" --bus file:small/bus publish t --data after; echo \"code $?\" >> codes\n\
        \"$0\" --bus file:small/bus --json read t > records; echo \"code $?\" >> codes\n\
        \"$0\" log verify small/bus; echo \"code $?\" >> codes\n";
    let done = finish(in_namespace(&place, script, &[]));
    let read = |name: &str| fs::read_to_string(place.path().join(name)).unwrap();
    assert_eq!(read("codes"), "code 8\ncode 0\ncode 0\ncode 0\n", "{done:?}");
    done.fails(0, &["no space left", "stored: lines 1-"]);
    // Exactly the lines that the error names are there, each with its receipt.
    let (_, named) = done.stderr.split_once("stored: lines ").unwrap();
    let mut expected: Vec<String> = Vec::new();
    for range in named.lines().next().unwrap().split(", ") {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let numbers = first.parse::<u32>().unwrap()..=last.parse().unwrap();
        expected.extend(numbers.map(|n| format!("{n} is a line to fill a small disk with")));
    }
    assert_eq!(read("receipts").lines().count(), expected.len());
    expected.push("after".to_owned());
    let payload = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["payload"].as_str().unwrap().to_owned()
    };
    let stored: Vec<_> = read("records").lines().map(payload).collect();
    assert!(stored == expected, "{} stored, {} expected", stored.len(), expected.len());
}

#[test]
fn a_file_size_limit_is_8_and_no_signal() {
    let place = Place::new();
    let mut command = std::process::Command::new("sh");
    // 512-byte blocks, or 1 KiB ones with some shells: small either way.
    command.args(["-c", "ulimit -f 128; exec \"$0\" \"$@\"", BUSLINE]);
    command.args([
        "--bus",
        "file:bus?full_wait=10ms&segment_bytes=1048576",
        "publish",
        "t",
        "--lines",
    ]);
    command.current_dir(place.path()).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        let line = [&[b'x'; 1000][..], b"\n"].concat();
        // Until it gives up.
        while stdin.write_all(&line).is_ok() {}
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(8), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    let after = place.run(&["--bus", "file:bus", "publish", "t", "--data", "without a limit"]);
    assert_eq!(after.code, 0, "{after:?}");
    assert_eq!(place.run(&["log", "verify", "bus"]).code, 0);
}

#[test]
fn standard_output_on_a_full_disk_is_8() {
    let place = Place::new();
    place.publish("t", &["a"]);
    let full = fs::File::options().write(true).open("/dev/full");
    let Ok(full) = full else {
        println!("skip: standard_output_on_a_full_disk_is_8: there is no /dev/full");
        return;
    };
    let output = place.command(&["read", "t"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(8));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: standard output: "), "{stderr}");
}
