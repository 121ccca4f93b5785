//! `topics`, `groups`, `group reset`, `group delete`, `topic delete`.

use serde_json::json;

use crate::support::Place;

fn place() -> Place {
    let place = Place::new();
    place.publish("t", &["a", "b", "c"]);
    place.json(&["consume", "t", "--group", "g", "--count", "2"]);
    place
}

#[test]
fn lists() {
    let place = place();
    let topics = place.json(&["topics"]);
    assert_eq!((topics[0]["topic"].clone(), topics[0]["messages"].clone()), (json!("t"), json!(3)));
    assert_eq!(topics[0]["groups"], 1);
    assert!(topics[0]["bytes"].as_u64().unwrap() > 0);
    let groups = place.json(&["groups", "t"]);
    assert_eq!((groups[0]["group"].clone(), groups[0]["lag"].clone()), (json!("g"), json!(1)));
    assert_eq!(groups[0]["acked"], 2);
    assert_eq!(place.json(&["groups"]), groups);
    assert!(place.run(&["topics"]).stdout.starts_with("topic"));
    assert!(place.run(&["groups"]).stdout.contains("delivered"));
    place.run(&["groups", "nothing"]).fails(2, &["no topic 'nothing'"]);
}

#[test]
fn a_group_is_moved() {
    let place = place();
    let reset = ["group", "reset", "t", "g", "--to", "earliest"];
    let dry = place.json(&[&reset[..], &["--dry-run"]].concat());
    assert_eq!(dry[0]["status"], "would_reset");
    assert_eq!(place.json(&["groups"])[0]["lag"], 1, "a dry run does nothing");
    assert_eq!(place.json(&reset)[0]["status"], "reset");
    assert_eq!(place.json(&["consume", "t", "--group", "g", "--count", "3"]).len(), 3);
    let third = place.json(&["read", "t"])[2]["offset"].as_str().unwrap().to_owned();
    place.json(&["group", "reset", "t", "g", "--to", &third]);
    assert_eq!(place.json(&["consume", "t", "--group", "g", "--count", "1"])[0]["offset"], third);
    place.run(&["group", "reset", "t", "no", "--to", "latest"]).fails(2, &["no group 'no'"]);
}

#[test]
fn a_group_and_a_topic_are_deleted() {
    let place = place();
    let group = ["group", "delete", "t", "g"];
    place.run(&[&group[..], &["--if-empty"]].concat()).fails(5, &["not looked at", "group: g"]);
    assert_eq!(place.json(&[&group[..], &["--dry-run"]].concat())[0]["status"], "would_delete");
    assert_eq!(place.json(&group)[0]["messages"], 1);
    assert_eq!(place.json(&["groups"]).len(), 0);
    let topic = ["topic", "delete", "t"];
    let dry = place.json(&[&topic[..], &["--dry-run"]].concat());
    assert_eq!(
        (dry[0]["status"].clone(), dry[0]["messages"].clone()),
        (json!("would_delete"), json!(3))
    );
    assert_eq!(place.json(&topic)[0]["status"], "deleted");
    assert_eq!(place.json(&["topics"]).len(), 0);
    place.run(&topic).fails(2, &["there is no topic 't'"]);
}

#[test]
fn a_topic_in_use_is_not_deleted() {
    let place = place();
    let mut member = place.start(&["--json", "consume", "t", "--group", "g"]);
    assert_eq!(member.json()["key"], "c");
    place.run(&["topic", "delete", "t", "--if-unused"]).fails(5, &["in use"]);
    assert_eq!(place.json(&["read", "t"]).len(), 3);
    member.signal(rustix::process::Signal::TERM);
    assert_eq!(member.finish().code, 0);
}

#[test]
fn what_destroys_asks_on_a_terminal() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    // `script` makes a terminal of a pipe.
    if Command::new("script").arg("--version").output().is_err() {
        println!("skip: what_destroys_asks_on_a_terminal: there is no program 'script'");
        return;
    }
    let place = place();
    let run = |answer: &str| {
        let line = format!("{} topic delete t", crate::support::BUSLINE);
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).current_dir(place.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run("no\n");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("delete topic 't' with 3 records and 1 group? [y/N]"), "{text}");
    assert!(text.contains("not confirmed, nothing was done"), "{text}");
    assert_eq!(place.json(&["topics"]).len(), 1);
    assert_eq!(run("y\n").0, 0);
    assert_eq!(place.json(&["topics"]).len(), 0);
}
