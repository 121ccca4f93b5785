//! Exit codes of a bus that cannot be used, and of what it lacks; configuration.

use std::fs;

use crate::support::{Place, finish, in_namespace, namespace};

#[test]
fn wrong_usage_is_2() {
    let place = Place::new();
    assert_eq!(place.run(&[]).code, 2);
    for (args, words) in [
        (&["fly"][..], "unrecognized subcommand 'fly'"),
        (&["read"], "required arguments were not provided"),
        (&["consume", "t"], "required arguments were not provided"),
        (&["consume", "t", "--group", "g", "--broadcast"], "cannot be used with"),
        (&["consume", "t", "--group", "g", "--ack", "--reject", "x"], "cannot be used with"),
        (&["--bus", "pigeon:coop", "topics"], "no transport for the scheme 'pigeon:'"),
        (&["--bus", "file:b?fsync=off", "topics"], "no option 'fsync'"),
        (&["--bus", "file:b?sync=never", "topics"], "always, interval or os"),
        (&["--bus", "nonsense", "topics"], "has no scheme"),
        (&["--config", "missing.toml", "topics"], "missing.toml"),
        (&["publish", "t", "--file", "missing"], "missing"),
    ] {
        place.run(args).fails(2, &[words]);
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn help_is_no_error() {
    let place = Place::new();
    for args in
        [&["--help"][..], &["help", "publish"], &["dead", "redrive", "--help"], &["--version"]]
    {
        let done = place.run(args);
        assert_eq!((done.code, done.stderr.as_str()), (0, ""));
        assert!(!done.stdout.is_empty());
    }
}

#[test]
fn what_is_no_bus_is_5() {
    let place = Place::new();
    fs::write(place.path().join("file"), "text").unwrap();
    fs::create_dir(place.path().join("full")).unwrap();
    fs::write(place.path().join("full/letter.txt"), "dear reader").unwrap();
    place.publish("t", &["a"]);
    for (url, words) in [
        ("file:file", ""),
        ("file:full", "full"),
        ("file:missing?create=false", "there is no bus in missing"),
    ] {
        let url = ["--bus", url];
        place.run(&[&url[..], &["publish", "t", "--data", "x"]].concat()).fails(5, &[words]);
        place.run(&[&url[..], &["topics"]].concat()).fails(5, &[words]);
    }
    assert_eq!(fs::read_to_string(place.path().join("full/letter.txt")).unwrap(), "dear reader");
    assert_eq!(fs::read_dir(place.path().join("full")).unwrap().count(), 1);

    fs::write(place.bus().join("BUSLINE"), "busline bus 2\n").unwrap();
    place.run(&["topics"]).fails(5, &["newer format", "use the version of Busline"]);
    fs::write(place.bus().join("BUSLINE"), "garbage").unwrap();
    assert_eq!(place.run(&["topics"]).code, 5);
    let done = place.run(&["--json", "doctor"]);
    done.fails(5, &[]);
    assert_eq!(done.lines()[0]["reachable"], false);
}

#[test]
fn a_read_only_bus_is_5() {
    let test = "a_read_only_bus_is_5";
    if !namespace(test) {
        return;
    }
    let place = Place::new();
    place.publish("t", &["a"]);
    let script = "mount --bind busline-data busline-data; \
                  mount -o remount,ro,bind busline-data; exec \"$0\" \"$@\"";
    let publish = finish(in_namespace(&place, script, &["publish", "t", "--data", "x"]));
    publish.fails(5, &["ead-only"]);
    let doctor = finish(in_namespace(&place, script, &["doctor"]));
    assert!([1, 5].contains(&doctor.code), "{doctor:?}");
    assert!(doctor.stdout.contains("WRONG"), "{doctor:?}");
    assert_eq!(place.json(&["read", "t"]).len(), 1);
}

#[test]
fn what_a_transport_lacks_is_6() {
    let place = Place::new();
    let publish = ["publish", "t", "--data", "x", "--durability"];
    for (url, least) in [
        ("memory:", "process"),
        ("file:b?sync=os", "power"),
        ("file:b?sync=interval", "power"),
        ("file:b", "replicated"),
    ] {
        let args = [&["--bus", url][..], &publish, &[least]].concat();
        place
            .run(&args)
            .fails(6, &[&format!("durability '{least}'"), "configure or choose another"]);
    }
    assert_eq!(place.run(&[&publish[..], &["power"]].concat()).code, 0);
    assert_eq!(place.json(&["--bus", "file:b", "topics"]).len(), 0, "nothing was sent");
}

#[test]
fn the_bus_is_named_by_flag_configuration_and_environment() {
    let place = Place::new();
    let publish = |command: &mut std::process::Command| {
        assert!(command.output().unwrap().status.success());
    };
    fs::write(place.path().join("c.toml"), "urls = [\"file:from-config\"]\nclient_name = \"x\"\n")
        .unwrap();
    fs::write(place.path().join("no-url.toml"), "client_name = \"x\"\n").unwrap();
    let data = ["publish", "t", "--data", "x"];
    publish(place.command(&data).env("BUSLINE_URL", "file:from-env"));
    publish(&mut place.command(&[&["--config", "c.toml"][..], &data].concat()));
    publish(
        place
            .command(&[&["--config", "no-url.toml"][..], &data].concat())
            .env("BUSLINE_URL", "file:env-2"),
    );
    publish(
        place
            .command(&[&["--bus", "file:flag", "--config", "c.toml"][..], &data].concat())
            .env("BUSLINE_URL", "file:from-env"),
    );
    publish(&mut place.command(&data));
    for directory in ["from-env", "from-config", "env-2", "flag", "busline-data"] {
        let url = format!("file:{directory}");
        assert_eq!(place.json(&["--bus", &url, "read", "t"]).len(), 1, "{directory}");
    }
    for (text, words) in [
        ("urls = 5", "bad.toml"),
        ("urls = [\"memory:\"]\nurlss = 1", "urlss"),
        ("urls = [\"memory:\"]\n= 1", "bad.toml line 2"),
        ("topology = \"maybe\"", "maybe"),
    ] {
        fs::write(place.path().join("bad.toml"), text).unwrap();
        place.run(&["--config", "bad.toml", "topics"]).fails(2, &[words]);
    }
}

#[test]
fn memory_is_a_bus_of_one_process() {
    let place = Place::new();
    let bus = ["--bus", "memory:"];
    let receipts = place.json(&[&bus[..], &["publish", "t", "--data", "x"]].concat());
    assert_eq!(receipts[0]["status"], "stored");
    place.run(&[&bus[..], &["read", "t"]].concat()).fails(2, &["'t'"]);
    assert_eq!(place.json(&[&bus[..], &["topics"]].concat()).len(), 0);
    let quiet = ["consume", "t", "--group", "g", "--timeout", "1ms"];
    assert_eq!(place.json(&[&bus[..], &quiet].concat()).len(), 0);
    let done = place.run(&["doctor", "memory:"]);
    assert_eq!(done.code, 0);
    assert!(done.stdout.contains("a receipt survives    memory"), "{}", done.stdout);
    assert_eq!(place.json(&["bench", "memory:", "--messages", "100", "--samples", "3"]).len(), 1);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn doctor_examines_a_bus() {
    let place = Place::new();
    place.publish("t", &["a"]);
    place.json(&["consume", "t", "--group", "g", "--count", "1", "--reject", "why not"]);
    let url = format!("file:{}", place.bus().display());
    let line = place.json(&["--bus", "file:elsewhere", "doctor", &url]).remove(0);
    assert_eq!((&line["reachable"], &line["durability"]), (&true.into(), &"power".into()));
    let promises = line["capabilities"].as_array().unwrap();
    assert!(promises.iter().any(|p| p["promise"] == "replay" && p["support"] == "native"));
    assert!(promises.iter().any(|p| p["support"] == "refused" && p["note"].is_string()));
    let checks = line["checks"].as_array().unwrap();
    let letters = checks.iter().find(|check| check["check"] == "dead letters").unwrap();
    assert_eq!(letters["found"], "1 dead letter in g.t.dead");
    let process = place.json(&["doctor", &format!("{url}?sync=os")]).remove(0);
    assert_eq!(process["durability"], "process");
}
