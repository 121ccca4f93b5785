//! A bus that somebody broke: each way of doing it, each verb. Nobody panics or waits for ever, `log verify` finds
//! what the others meet, and what a break did not touch stays readable.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::support::{Done, Place};

/// A way to break topic `q`, which has six messages and a group `g`, beside topic `other`.
struct Break {
    name: &'static str,
    doing: fn(&Broken),
    /// The exit codes of `log verify`, `read q`, `consume q`, `publish q` and `log repair`.
    codes: [i32; 5],
    /// What `log verify` says.
    says: &'static [&'static str],
    /// How many messages `read q` finds after `log repair`.
    left: usize,
}

struct Broken {
    place: Place,
}

impl Broken {
    fn new() -> Self {
        let place = Place::new();
        place.publish("q", &["a.b"; 6]);
        place.publish("other", &["c"]);
        assert_eq!(place.run(&["consume", "q", "--group", "g", "--count", "2"]).code, 0);
        Self { place }
    }

    fn topic(&self, name: &str) -> PathBuf {
        self.place.bus().join("topics").join(name)
    }

    fn log(&self) -> PathBuf {
        self.topic("q/log")
    }

    fn segment(&self) -> PathBuf {
        self.log().join("00000000000000000000.seg")
    }

    fn group(&self) -> PathBuf {
        let groups = fs::read_dir(self.log().join("groups")).unwrap();
        let mut groups = groups.map(|entry| entry.unwrap().path());
        groups.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("g.")).unwrap()
    }

    /// Runs a verb; whoever does not end is killed and fails the test.
    #[track_caller]
    fn run(&self, args: &[&str]) -> Done {
        let child = self.place.command(args).stdin(Stdio::null()).spawn().unwrap();
        let process = child.id();
        let (ended, watched) = std::sync::mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            let is_hung = watched.recv_timeout(Duration::from_secs(60)).is_err();
            if is_hung {
                let process = rustix_pid(process);
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
            is_hung
        });
        let done = crate::support::done(child.wait_with_output().unwrap());
        let _ = ended.send(());
        assert!(!watch.join().unwrap(), "{args:?} did not end: {done:?}");
        assert!(!done.stderr.contains("panicked") && done.code != 101, "{args:?}: {done:?}");
        if done.code != 0 {
            assert!(done.stderr.starts_with("error: "), "{args:?}: {done:?}");
        }
        done
    }
}

fn rustix_pid(process: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(process.cast_signed()).unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn swap(one: &Path, two: &Path) {
    let aside = one.with_extension("aside");
    fs::rename(one, &aside).unwrap();
    fs::rename(two, one).unwrap();
    fs::rename(aside, two).unwrap();
}

fn to_directory(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
}

fn to_pipe(path: &Path) {
    fs::remove_file(path).unwrap();
    let status = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(status.success());
}

fn resize(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

const BREAKS: &[Break] = &[
    Break {
        name: "one bit of a topic's FORMAT flipped",
        doing: |b| flip(&b.log().join("FORMAT"), 20),
        codes: [7, 7, 7, 7, 0],
        says: &["FORMAT", "bytes 20 to 21", "one bit is flipped"],
        left: 6,
    },
    Break {
        name: "one bit of the version in a FORMAT flipped",
        doing: |b| flip(&b.log().join("FORMAT"), 8),
        codes: [7, 7, 7, 7, 0],
        says: &["FORMAT", "bytes 8 to 9"],
        left: 6,
    },
    Break {
        name: "one bit of a group's FORMAT flipped",
        doing: |b| flip(&b.group().join("FORMAT"), 20),
        codes: [7, 0, 7, 0, 0],
        says: &["groups/g.", "FORMAT", "one bit is flipped"],
        left: 7,
    },
    Break {
        name: "an empty FORMAT",
        doing: |b| resize(&b.log().join("FORMAT"), 0),
        codes: [7, 7, 7, 7, 7],
        says: &[
            "topics/q/log",
            "the file is damaged",
            "sound  busline-data/topics/other/log: 1 record",
        ],
        left: 0,
    },
    Break {
        name: "no FORMAT",
        doing: |b| fs::remove_file(b.log().join("FORMAT")).unwrap(),
        codes: [7, 7, 7, 7, 7],
        says: &[
            "topics/q/log",
            "FORMAT file is missing",
            "sound  busline-data/topics/other/log: 1 record",
        ],
        left: 0,
    },
    Break {
        name: "no segment",
        doing: |b| fs::remove_file(b.segment()).unwrap(),
        codes: [7, 7, 7, 7, 7],
        says: &["topics/q/log", "no segments"],
        left: 0,
    },
    Break {
        name: "no segment of the group",
        doing: |b| fs::remove_file(b.group().join("00000000000000000000.seg")).unwrap(),
        codes: [7, 0, 7, 0, 7],
        says: &["groups/g.", "no segments"],
        left: 7,
    },
    Break {
        name: "a topic without its log",
        doing: |b| fs::remove_dir_all(b.log()).unwrap(),
        codes: [7, 2, 2, 2, 7],
        says: &["topics/q/log", "its records are gone"],
        left: 0,
    },
    Break {
        name: "a pipe in the place of FORMAT",
        doing: |b| to_pipe(&b.log().join("FORMAT")),
        codes: [1, 1, 1, 1, 1],
        says: &["unusable", "a pipe, socket or device"],
        left: 0,
    },
    Break {
        name: "a pipe in the place of the settings",
        doing: |b| to_pipe(&b.topic("q/topic.json")),
        codes: [1, 0, 0, 0, 0],
        says: &["topic.json", "a pipe, socket or device"],
        left: 7,
    },
    Break {
        name: "a pipe in the place of a segment",
        doing: |b| to_pipe(&b.segment()),
        codes: [1, 1, 1, 1, 1],
        says: &["a pipe, socket or device"],
        left: 0,
    },
    Break {
        name: "a pipe in the place of the marker",
        doing: |b| to_pipe(&b.place.bus().join("BUSLINE")),
        codes: [0, 1, 1, 1, 0],
        says: &["sound"],
        left: 0,
    },
    Break {
        name: "a directory in the place of the control page",
        doing: |b| to_directory(&b.log().join("control")),
        codes: [1, 1, 1, 1, 0],
        says: &["control", "a directory stands where a file should"],
        left: 0,
    },
    Break {
        name: "a control page that is too long",
        doing: |b| resize(&b.log().join("control"), 1 << 30),
        codes: [1, 1, 1, 1, 0],
        says: &["control", "too long"],
        left: 0,
    },
    Break {
        name: "a file in the place of the groups",
        doing: |b| {
            fs::remove_dir_all(b.log().join("groups")).unwrap();
            fs::write(b.log().join("groups"), "").unwrap();
        },
        codes: [1, 0, 1, 0, 0],
        says: &["groups", "a file stands where a directory should"],
        left: 7,
    },
    Break {
        name: "logs of two topics swapped",
        doing: |b| swap(&b.log(), &b.topic("other/log")),
        codes: [0, 5, 5, 5, 0],
        says: &["sound"],
        left: 0,
    },
    Break {
        name: "two topics swapped",
        doing: |b| swap(&b.topic("q"), &b.topic("other")),
        codes: [1, 5, 5, 5, 0],
        says: &["topic.json", "it says that it is topic 'other'"],
        left: 0,
    },
    Break {
        name: "segments of two topics swapped",
        doing: |b| swap(&b.segment(), &b.topic("other/log/00000000000000000000.seg")),
        codes: [7, 7, 7, 7, 7],
        says: &["the segment belongs to another log"],
        left: 0,
    },
    Break {
        name: "settings that are no JSON",
        doing: |b| fs::write(b.topic("q/topic.json"), "[".repeat(60_000)).unwrap(),
        codes: [7, 0, 0, 0, 7],
        says: &["topic.json is damaged"],
        left: 7,
    },
    Break {
        name: "a link that leads in circles",
        doing: |b| std::os::unix::fs::symlink("circle", b.place.bus().join("circle")).unwrap(),
        codes: [1, 0, 0, 0, 0],
        says: &["circle", "it cannot be looked into"],
        left: 7,
    },
    Break {
        name: "a hole of a GiB behind a segment",
        doing: |b| resize(&b.segment(), 1 << 30),
        codes: [0, 0, 0, 0, 0],
        says: &["sound"],
        left: 7,
    },
    Break {
        name: "names that no terminal likes",
        doing: |b| {
            fs::write(b.log().join("what\nis\u{1b}[31m.seg"), "x").unwrap();
            fs::create_dir(b.topic(" a\tb")).unwrap();
        },
        codes: [0, 0, 0, 0, 0],
        says: &["sound"],
        left: 7,
    },
];

#[test]
fn no_break_is_a_hang_a_panic_or_a_lie() {
    for broken in BREAKS {
        let name = broken.name;
        let bus = Broken::new();
        (broken.doing)(&bus);
        let verify = bus.run(&["log", "verify", "busline-data"]);
        for words in broken.says {
            assert!(verify.stdout.contains(words), "{name}: '{words}': {verify:?}");
        }
        assert!(bus.run(&["doctor"]).code != 101, "{name}");
        let read = bus.run(&["read", "q", "--timeout", "100ms"]);
        let consume = bus.run(&["consume", "q", "--group", "g", "--timeout", "100ms"]);
        let publish = bus.run(&["publish", "q", "--data", "new"]);
        let repair = bus.run(&["log", "repair", "busline-data"]);
        let codes = [&verify, &read, &consume, &publish, &repair].map(|done| done.code);
        let found = [verify, read, consume, publish, repair];
        assert_eq!(codes, broken.codes, "{name}: {found:#?}");
        let left = bus.run(&["--json", "read", "q", "--timeout", "100ms"]);
        assert_eq!(left.stdout.lines().count(), broken.left, "{name}: {left:?}");
        let other = bus.run(&["log", "verify", "--json", "busline-data/topics/other/log"]);
        assert!(other.code == 0 || name.contains("two topics"), "{name}: {other:?}");
    }
}

#[test]
fn what_one_log_suffers_keeps_no_other_from_being_checked() {
    let bus = Broken::new();
    resize(&bus.log().join("FORMAT"), 0);
    let verify = bus.run(&["--json", "log", "verify", "busline-data"]);
    verify.fails(7, &["1 of 3 logs not sound"]);
    let found = verify.lines();
    let of = |name: &str| {
        let ends = |log: &&serde_json::Value| log["directory"].as_str().unwrap().ends_with(name);
        found.iter().find(ends).unwrap()["status"].clone()
    };
    assert_eq!((of("other/log"), of("q/log")), (json!("sound"), json!("damaged")));
}
