//! Hermes' own side in Python beside ours: what each writes the other reads, while both run and the file is purged
//! and VACUUMed under them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use busline_core::transport::Role;
use busline_core::{ErrorKind, Position};
use serde_json::{Value, json};

use super::support::{
    HERMES, Place, declare, follow, message, python, reader, script, send, texts,
};

/// The peer, told things by lines of JSON.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// With the real plugins when asked for; `None` where they, or Python, are missing, which is said aloud.
    fn start(place: &Place, real: bool) -> Option<Self> {
        let hermes = std::env::var_os("HERMES_DIR");
        if real && hermes.is_none() {
            println!("skip: the real plugins of Hermes: HERMES_DIR names no checkout");
            return None;
        }
        let mut command = Command::new(python()?);
        command
            .arg(script("hermes.py"))
            .arg(place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if !real {
            command.env_remove("HERMES_DIR");
        }
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut peer = Self { child, input, output: BufReader::new(output) };
        assert_eq!(peer.line(), "ready");
        Some(peer)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: '{line}'"))
    }

    fn tell(&mut self, what: &Value) {
        writeln!(self.input, "{what}").unwrap();
    }

    /// Does something, which must succeed.
    fn does(&mut self, what: &Value) -> Value {
        self.tell(what);
        let mut said = self.line();
        assert!(said.get("error").is_none(), "{what}: {said}");
        said["done"].take()
    }

    fn fails(&mut self, what: &Value) -> String {
        self.tell(what);
        self.line()["error"].as_str().unwrap().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An event in the very layout of Hermes.
fn event(category: &str, number: u64) -> String {
    format!(
        "{{\n    \"evcategory\": \"{category}\",\n    \"eventtype\": \"removed\",\n    \"objtype\": \"SRVUsers\",\n    \
         \"objpkey\": {number},\n    \"objattrs\": {{}},\n    \"step\": 0,\n    \"isPartiallyProcessed\": false\n}}"
    )
}

fn objects(records: &[busline_core::Record]) -> Vec<u64> {
    let object =
        |text: &String| serde_json::from_str::<Value>(text).unwrap()["objpkey"].as_u64().unwrap();
    texts(records).iter().map(object).collect()
}

async fn each_reads_the_other(real: bool) {
    let place = Place::new();
    let Some(mut peer) = Peer::start(&place, real) else { return };
    // Theirs, read by us: the file appears while we wait for it.
    let session = place.hermes(Role::Consume).await;
    let mut ours = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    peer.does(&json!(["open", 10]));
    peer.does(&json!(["send", event("base", 1)]));
    peer.does(&json!(["send", event("initsync", 2)]));
    let records = follow(&mut *ours, 2).await.unwrap();
    assert_eq!(texts(&records), [event("base", 1), event("initsync", 2)]);
    assert_eq!(records[1].message.key.as_str(), "initsync");

    // Ours, read by them, while their producer has the file open.
    let publisher = place.hermes(Role::Publish).await;
    declare(&*publisher, HERMES).await.unwrap();
    let messages = (3..=5).map(|number| message(HERMES, "base", event("base", number)));
    for receipt in send(&*publisher, messages.collect()).await.unwrap() {
        receipt.unwrap();
    }
    peer.does(&json!(["beginning"]));
    peer.does(&json!(["timeout", 1]));
    let theirs = peer.does(&json!(["iterate", 100]));
    let theirs = theirs.as_array().unwrap();
    let numbers: Vec<_> = theirs.iter().map(|row| row[0].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    let mut all = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    for (record, row) in follow(&mut *all, 5).await.unwrap().iter().zip(theirs) {
        assert_eq!(record.message.payload, row[1].as_str().unwrap());
        let seconds = row[2].as_f64().unwrap();
        assert!((record.time.unix_us() as f64 / 1e6 - seconds).abs() < 2e-6, "{row}");
    }
    // The same offsets are taken and refused.
    for offset in [1, 3, 6] {
        peer.does(&json!(["seek", offset]));
    }
    for offset in [0, 7] {
        let error = peer.fails(&json!(["seek", offset]));
        assert!(error.starts_with("IndexError"), "{error}");
        let position = Position::Offset(busline_core::Offset::new(0, offset));
        let error = reader(&*session, HERMES, position).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Limit), "{error}");
    }
    peer.does(&json!(["close"]));
}

/// The server opens, purges, VACUUMs, sends and closes again and again, while we publish and read: nothing is lost on
/// either side, and neither stops the other.
async fn both_at_once(real: bool) {
    const CYCLES: u64 = 30;
    const OURS: u64 = 200;
    let place = Place::new();
    let Some(mut peer) = Peer::start(&place, real) else { return };
    let publisher = place.hermes(Role::Publish).await;
    declare(&*publisher, HERMES).await.unwrap();
    let session = place.hermes(Role::Consume).await;
    let mut ours = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    peer.tell(&json!([
        "cycles",
        CYCLES,
        10,
        [event("base", 1_000_001), event("initsync", 1_000_002)]
    ]));
    let publishing = async {
        for number in 0..OURS {
            let sent =
                send(&*publisher, vec![message(HERMES, "base", event("base", number))]).await;
            sent.unwrap().remove(0).unwrap_or_else(|error| panic!("{number}: {error}"));
        }
    };
    let all = (OURS + 2 * CYCLES) as usize;
    let ((), records) = futures_util::future::join(publishing, follow(&mut *ours, all)).await;
    let records = records.unwrap();
    let said = peer.line();
    assert_eq!(said, json!({ "done": CYCLES }), "the server was stopped by us");
    let found = objects(&records);
    let own: Vec<u64> = found.iter().copied().filter(|number| *number < 1_000_000).collect();
    assert_eq!(own, (0..OURS).collect::<Vec<_>>());
    assert_eq!(found.iter().filter(|number| **number == 1_000_002).count() as u64, CYCLES);
    // They see the same, in the same order.
    peer.does(&json!(["beginning"]));
    peer.does(&json!(["timeout", 1]));
    let theirs = peer.does(&json!(["iterate", all]));
    let theirs: Vec<_> =
        theirs.as_array().unwrap().iter().map(|row| row[1].as_str().unwrap().to_owned()).collect();
    assert_eq!(theirs, texts(&records));
}

/// A purge takes rows that we have not read: that is said, with the oldest that is left, and reading goes on.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_purge_takes_while_they_are_read_are_missed_aloud() {
    let place = Place::new();
    let Some(mut peer) = Peer::start(&place, false) else { return };
    peer.does(&json!([
        "cycles",
        1,
        10,
        (1..=6).map(|number| event("base", number)).collect::<Vec<_>>()
    ]));
    let session = place.hermes(Role::Consume).await;
    let mut ours =
        reader(&*session, HERMES, Position::Offset(busline_core::Offset::new(0, 2))).await.unwrap();
    // All but the last two have grown old.
    peer.does(&json!(["sql", "UPDATE hermesmessages SET timestamp = 5.5 WHERE msgid < 5", []]));
    peer.does(&json!(["cycles", 1, 10, [event("base", 7)]]));
    let error = ours.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("0.2 was removed") && error.to_string().contains("0.5"),
        "{error}"
    );
    assert_eq!(objects(&follow(&mut *ours, 3).await.unwrap()), [5, 6, 7]);
}

/// A producer of theirs that was killed in the middle of a transaction leaves half of it behind: we undo that.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_producer_left_half_done_is_undone() {
    let place = Place::new();
    let Some(mut peer) = Peer::start(&place, false) else { return };
    peer.does(&json!(["cycles", 1, 10, [event("base", 1)]]));
    // Large enough to be written to the file before it is committed.
    let half = "import os, sqlite3, sys\n\
                db = sqlite3.connect(sys.argv[1])\n\
                db.execute('PRAGMA cache_size = 1')\n\
                for n in range(200):\n    db.execute('INSERT INTO hermesmessages (data, timestamp) VALUES (?, 1)', \
                ('{}' + ' ' * 4000,))\n\
                os.kill(os.getpid(), 9)";
    let mut killed = Command::new(python().unwrap());
    let status = killed.args(["-c", half]).arg(place.path()).status().unwrap();
    assert!(!status.success());
    let mut journal = place.path().into_os_string();
    journal.push("-journal");
    assert!(std::path::Path::new(&journal).exists(), "it left nothing to be undone");
    let session = place.hermes(Role::Consume).await;
    let mut ours = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    assert_eq!(objects(&super::support::rest(&mut *ours).await.unwrap()), [1]);
    peer.does(&json!(["cycles", 1, 10, [event("base", 2)]]));
    assert_eq!(objects(&follow(&mut *ours, 1).await.unwrap()), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_reads_what_the_other_wrote() {
    each_reads_the_other(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_reads_what_the_real_plugins_wrote() {
    each_reads_the_other(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_run_at_once() {
    both_at_once(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_run_beside_the_real_plugins() {
    both_at_once(true).await;
}
