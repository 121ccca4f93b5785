//! A directory of people: from a database into a log, and from there into a file, whoever is stopped meanwhile.

use std::path::Path;

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::stage::Stage;
use crate::python::peer::Peer;

/// Everybody in the file of a reader.
fn people(file: &Path) -> Vec<(i64, String, Option<String>)> {
    let read: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let person = |person: &Value| {
        (person["id"].as_i64().unwrap(), text(&person["name"]).unwrap(), text(&person["mail"]))
    };
    read["people"].as_object().unwrap().values().map(person).collect()
}

/// Everybody in the table.
fn table(database: &Connection) -> Vec<(i64, String, Option<String>)> {
    let mut select = database.prepare("SELECT id, name, mail FROM people ORDER BY id").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Waits until it has applied this event; the offsets of what it applied until then.
async fn applied(reader: &mut Peer, event: &str) -> Vec<String> {
    let mut offsets = Vec::new();
    loop {
        let line = reader.expect("applied").await;
        offsets.push(line["offset"].as_str().unwrap().to_owned());
        if line["event"] == event {
            return offsets;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_the_same_on_both_sides_whoever_is_stopped() {
    for stage in Stage::all() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name).display().to_string();
        let (database_path, file, late) = (path("people.db"), path("file.json"), path("late.json"));
        let every = ["source", &database_path, "--every", "20"];
        let mut source = stage.ready("07_people", &every).await;
        // Nobody is there yet, and that is said.
        while source.expect("sent").await["event"] != "<Event(initsync_init-stop)>" {}
        let database = Connection::open(&database_path).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
        let change = |sql: &str| database.execute_batch(sql).unwrap();
        change("INSERT INTO people VALUES (1, 'Ann', 'ann@x.org'), (2, 'Bób', NULL)");
        let mut reader = stage.ready("07_people", &["reader", &file]).await;
        let mut offsets = applied(&mut reader, "<Event(Person_added[2])>").await;
        assert_eq!(people(file.as_ref()), table(&database), "{}", stage.url);

        // The reader is stopped well, and goes on exactly there.
        reader.signal(Signal::TERM);
        assert_eq!(reader.code().await, Some(0));
        change("UPDATE people SET name = 'Anna', mail = NULL WHERE id = 1");
        let mut reader = stage.ready("07_people", &["reader", &file]).await;
        offsets.extend(applied(&mut reader, "<Event(Person_modified[1])>").await);
        change("INSERT INTO people VALUES (3, 'Cid', 'cid@x.org')");
        offsets.extend(applied(&mut reader, "<Event(Person_added[3])>").await);
        let before = offsets.len();
        offsets.sort();
        offsets.dedup();
        assert_eq!(offsets.len(), before, "nothing was applied twice");

        // Both are killed; neither forgets anything.
        reader.kill();
        source.kill();
        change("DELETE FROM people WHERE id = 2; UPDATE people SET mail = 'c@x.org' WHERE id = 3");
        let source = stage.ready("07_people", &every).await;
        let mut reader = stage.ready("07_people", &["reader", &file]).await;
        applied(&mut reader, "<Event(Person_removed[2])>").await;
        assert_eq!(people(file.as_ref()), table(&database));
        assert_eq!(table(&database).len(), 2);

        // Whoever comes late is told everything; it ends when there is no more.
        source.signal(Signal::TERM);
        assert_eq!(source.code().await, Some(0));
        let mut other = stage.start("07_people", &["reader", &late, "--timeout", "1"]);
        let lines = other.rest().await;
        let last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        assert_eq!(last, json!({"kind": "summary", "people": 2}), "{}", stage.url);
        assert_eq!(people(late.as_ref()), table(&database));
    }
}
