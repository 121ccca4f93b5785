//! `demo`, end to end: separate processes, one of them killed, every figure counted.

use serde_json::{Value, json};

use crate::support::Place;

fn group<'a>(line: &'a Value, name: &str) -> &'a Value {
    let groups = line["groups"].as_array().unwrap();
    groups.iter().find(|group| group["group"] == name).unwrap()
}

#[test]
fn real_input_arrives_though_a_member_is_killed() {
    let place = Place::new();
    let lines = place.json(&["demo", "--keep", "kept"]);
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!((line["published"].clone(), line["stored"].clone()), (json!(1707), json!(1707)));
    assert_eq!((line["lost"].clone(), line["duplicates"].clone()), (json!(0), json!(0)));
    assert_eq!((line["ok"].clone(), line["broadcast"].clone()), (json!(true), json!(1707)));
    assert_eq!(line["durability"], "power");
    let held = line["killed"]["held"].as_u64().unwrap();
    assert!(held > 0);
    assert_eq!(line["redelivered"], held);
    assert_eq!(group(line, "alerts")["acked"], 85);
    assert_eq!(group(line, "alerts")["delivered"], 85 + held);
    assert_eq!(group(line, "statistics")["rejected"], 28);
    assert_eq!(
        line["reasons"],
        json!({"not an earthquake: explosion": 15, "not an earthquake: quarry blast": 13})
    );

    // What it left behind says the same to who looks.
    let bus = ["--bus", "file:kept"];
    let groups = place.json(&[&bus[..], &["groups", "quakes"]].concat());
    assert_eq!(
        (groups[0]["group"].clone(), groups[0]["redelivered"].clone()),
        (json!("alerts"), json!(held))
    );
    assert_eq!(place.json(&[&bus[..], &["dead", "list", "statistics"]].concat()).len(), 28);
    let strong = ["read", "quakes", "--pattern", "quake.*.strong"];
    assert_eq!(place.json(&[&bus[..], &strong].concat()).len(), 85);
    assert_eq!(place.run(&["log", "verify", "kept"]).code, 0);
    place.run(&["demo", "--keep", "kept"]).fails(2, &["kept is not empty"]);
}

#[test]
fn people_get_a_table_and_commands_that_work() {
    let place = Place::new();
    let done = place.run(&["demo", "--keep", "my kept"]);
    assert_eq!(done.code, 0, "{done:?}");
    for words in ["SIGKILL", "took over", "\nlost ", "durability", "Look around"] {
        assert!(done.stdout.contains(words), "'{words}' is not in {}", done.stdout);
    }
    let (_, commands) = done.stdout.split_once("left behind:\n").unwrap();
    let mut count = 0;
    for command in commands.lines().map(str::trim) {
        let shell = std::process::Command::new("sh")
            .args(["-c", command])
            .current_dir(place.path())
            .output()
            .unwrap();
        assert!(shell.status.success(), "{command}: {shell:?}");
        count += 1;
    }
    assert!(count > 5);
    assert!(!place.path().join("my kept").exists(), "the last one removes it");
}

#[test]
fn own_data() {
    let place = Place::new();
    let record = |n: u32, magnitude: &str, kind: &str| {
        format!("{{\"id\":{n},\"net\":\"x\",\"magnitude\":{magnitude},\"type\":\"{kind}\"}}\n")
    };
    let path = place.path().join("own.ndjson");
    let run = |lines: &str| {
        std::fs::write(&path, lines).unwrap();
        place.json(&["demo", "--data", "own.ndjson"])[0].clone()
    };
    let line = run(&(record(1, "5", "earthquake") + &record(2, "null", "landslide")));
    assert_eq!((line["published"].clone(), line["lost"].clone()), (json!(2), json!(0)));
    assert_eq!(line["killed"]["held"], 1);
    assert_eq!(line["reasons"], json!({"not an earthquake: landslide": 1}));
    clean(&line);

    let line = run(&record(1, "0.5", "earthquake"));
    assert_eq!((line["killed"].clone(), line["ok"].clone()), (Value::Null, json!(true)));
    clean(&line);

    std::fs::write(&path, "{}\nnonsense\n").unwrap();
    place.run(&["demo", "--data", "own.ndjson"]).fails(2, &["own.ndjson line 2 is no record"]);
    std::fs::write(&path, "").unwrap();
    place.run(&["demo", "--data", "own.ndjson"]).fails(2, &["no record in own.ndjson"]);
    place.run(&["demo", "--data", "own.ndjson", "--deadline", "0s"]).fails(2, &["own.ndjson"]);
    place.run(&["demo", "--keep", "kept", "--deadline", "0s"]).fails(3, &["--deadline", "kept"]);
    place.run(&["--bus", "memory:", "demo"]).fails(2, &["--keep DIR says where"]);
}

fn clean(line: &Value) {
    let directory = line["bus"].as_str().unwrap().strip_prefix("file:").unwrap();
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn no_process_outlives_a_demo_that_is_stopped() {
    use rustix::process::Signal;
    for (signal, code) in [(Signal::KILL, 128 + 9), (Signal::INT, 130), (Signal::TERM, 0)] {
        let place = Place::new();
        let mut demo = place.start(&["demo", "--keep", "kept"]);
        let mut children = Vec::new();
        while children.len() < 4 {
            let line = demo.line();
            assert!(!line.is_empty(), "it ended before it started its processes");
            let started = line.strip_prefix("started").and_then(|line| line.split_once("(pid "));
            if let Some((_, pid)) = started {
                children.push(pid.trim_end().trim_end_matches(')').to_owned());
            }
        }
        demo.signal(signal);
        let done = demo.finish();
        assert_eq!(done.code, code, "{done:?}");
        for pid in children {
            // Killed by the demo, or ending by itself when its standard input does.
            let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                Err(_) => true,
                Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
            };
            while !gone() {
                std::thread::yield_now();
            }
        }
    }
}
