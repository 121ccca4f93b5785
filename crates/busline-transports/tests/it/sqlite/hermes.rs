//! The table of a Hermes bus: read as the real server wrote it, written in the same form, and what is bad in it
//! reported.

use std::time::Duration;

use busline_core::transport::{
    Batch, GroupSpec, Membership, Read, Retention, Role, Subscribe, TopicSpec, Topology,
};
use busline_core::{
    Capability, ErrorKind, GroupName, KeyPattern, Offset, Patterns, Position, Receipt, Record,
    Timestamp,
};
use serde_json::Value;

use super::support::{
    HERMES, PATIENCE, Place, declare, follow, message, reader, rest, send, texts, topic,
};

const DDL: &str = "CREATE TABLE hermesmessages (msgid INTEGER PRIMARY KEY AUTOINCREMENT, data TEXT NOT NULL, \
                   timestamp REAL NOT NULL)";

fn event(category: &str, number: u64) -> String {
    let event = serde_json::json!({
        "evcategory": category, "eventtype": "added", "objtype": "SRVUsers", "objpkey": number,
        "objattrs": { "id": number }, "step": 0, "isPartiallyProcessed": false,
    });
    serde_json::to_string_pretty(&event).unwrap().replace("  ", "    ")
}

fn at(number: u64) -> Position {
    Position::Offset(Offset::new(0, number))
}

/// A bus that the real server made, and its rows.
fn real() -> (Place, Vec<Value>) {
    let place = Place::new();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/hermes");
    std::fs::copy(format!("{fixtures}/bus.sqlite"), place.path()).unwrap();
    let rows = std::fs::read_to_string(format!("{fixtures}/bus.ndjson")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 19);
    (place, rows)
}

/// A table with this many events of one category.
fn made(place: &Place, count: u64) {
    let other = place.sqlite();
    other.execute_batch(DDL).unwrap();
    for number in 1..=count {
        insert(&other, &event("base", number));
    }
}

fn insert(other: &rusqlite::Connection, text: &str) {
    let sql = "INSERT INTO hermesmessages (data, timestamp) VALUES (?1, 1795221606.25)";
    other.execute(sql, [text]).unwrap();
}

fn numbers(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.offset.number(0).unwrap()).collect()
}

#[tokio::test]
async fn every_row_of_a_real_server_is_read_as_it_is() {
    let (place, rows) = real();
    let session = place.hermes(Role::Consume).await;
    let mut all = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    let records = rest(&mut *all).await.unwrap();
    assert_eq!(records.len(), rows.len());
    for (record, row) in records.iter().zip(&rows) {
        assert_eq!(record.message.payload, row["data"].as_str().unwrap());
        assert_eq!(record.offset.to_string(), format!("0.{}", row["msgid"]));
        let seconds = row["timestamp"].as_f64().unwrap();
        assert_eq!(record.time.unix_us(), (seconds * 1e6).round() as i64, "{row}");
        let event: Value = serde_json::from_str(row["data"].as_str().unwrap()).unwrap();
        assert_eq!(record.message.key.as_str(), event["evcategory"].as_str().unwrap());
        assert!(
            record.message.headers.is_empty() && record.message.properties == Default::default()
        );
    }
    // From everywhere, and by category.
    for first in 1..=20_u64 {
        let mut from = reader(&*session, HERMES, at(first)).await.unwrap();
        assert_eq!(numbers(&rest(&mut *from).await.unwrap()), (first..=19).collect::<Vec<_>>());
    }
    let fifth = records[4].time;
    for (from, first) in
        [(fifth.unix_us(), 5), (fifth.unix_us() - 1, 5), (fifth.unix_us() + 1, 6), (0, 1)]
    {
        let position = Position::Time(Timestamp::from_unix_us(from));
        let mut from = reader(&*session, HERMES, position).await.unwrap();
        assert_eq!(numbers(&rest(&mut *from).await.unwrap())[0], first);
    }
    let only = Patterns::new([KeyPattern::new("initsync").unwrap()]);
    let read =
        Read { patterns: only, chunk_max: 2, ..Read::new(topic(HERMES), Position::Earliest) };
    let mut only = session.read(read).await.unwrap();
    let found = rest(&mut *only).await.unwrap();
    assert!(found.iter().all(|record| record.message.key.as_str() == "initsync"));
    let wanted = records.iter().filter(|record| record.message.key.as_str() == "initsync").count();
    assert_eq!(found.len(), wanted);
    let info = session.admin().unwrap().topics().await.unwrap().remove(0);
    assert_eq!((info.topic.as_str(), info.messages), (HERMES, 19));
    assert_eq!((info.earliest, info.end), (Some(Offset::new(0, 1)), Some(Offset::new(0, 20))));
    assert_eq!(session.admin().unwrap().groups(None).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_written_has_the_very_form_of_hermes() {
    let place = Place::new();
    let session = place.hermes(Role::Publish).await;
    declare(&*session, HERMES).await.unwrap();
    let stated = Timestamp::from_unix_us(1_795_221_606_194_011);
    let mut dated = message(HERMES, "", event("initsync", 2));
    dated.properties.timestamp = Some(stated);
    let null = r#"{"evcategory": null, "objpkey": NaN, "x": "\ud800"}"#;
    let messages =
        vec![message(HERMES, "base", event("base", 1)), dated, message(HERMES, "", null)];
    let receipts = send(&*session, messages).await.unwrap();
    for (index, receipt) in receipts.into_iter().enumerate() {
        let offset = Some(Offset::new(0, index as u64 + 1));
        assert_eq!(receipt.unwrap(), Receipt::Stored { offset });
    }
    let mut from = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    let records = rest(&mut *from).await.unwrap();
    let keys: Vec<_> = records.iter().map(|record| record.message.key.as_str()).collect();
    assert_eq!(keys, ["base", "initsync", ""]);
    assert_eq!(texts(&records)[2], null);
    assert_eq!(records[1].time, stated);
    session.close(PATIENCE).await.unwrap();

    let other = place.sqlite();
    let one = |sql: &str| other.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(one("SELECT sql FROM sqlite_schema WHERE name = 'hermesmessages'"), DDL);
    assert_eq!(
        one("SELECT group_concat(name) FROM sqlite_schema"),
        "hermesmessages,sqlite_sequence"
    );
    assert_eq!(one("PRAGMA journal_mode"), "delete");
    assert_eq!(
        one("SELECT group_concat(DISTINCT typeof(data) || typeof(timestamp)) FROM hermesmessages"),
        "textreal"
    );
    assert_eq!(one("SELECT data FROM hermesmessages WHERE msgid = 1"), event("base", 1));
    assert_eq!(
        one("SELECT CAST(timestamp AS TEXT) FROM hermesmessages WHERE msgid = 2"),
        "1795221606.194011"
    );
    let number = |sql: &str| other.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((number("PRAGMA user_version"), number("PRAGMA application_id")), (0, 0));
    assert_eq!(number("SELECT seq FROM sqlite_sequence"), 3);
    let beside = std::fs::read_dir(place.path().parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "something is left beside the file");
}

#[tokio::test]
async fn what_a_bus_of_hermes_has_no_place_for_is_refused_by_name() {
    let place = Place::new();
    let session = place.hermes(Role::Publish).await;
    declare(&*session, HERMES).await.unwrap();
    let mut replied = message(HERMES, "", event("base", 1));
    replied.properties.reply_to = Some("me".into());
    for (bad, words) in [
        (message(HERMES, "", "text"), "no JSON object: no '{' at byte 0"),
        (message(HERMES, "", "{\"evcategory\": \"base\""), "at byte 21"),
        (message(HERMES, "", vec![0xff]), "no text"),
        (
            message(HERMES, "initsync", event("base", 1)),
            "the key is 'initsync' and the category of the event 'base'",
        ),
        (message(HERMES, "base", "{}"), "the category of the event none"),
        (message(HERMES, "", event("base", 1)).header("trace", 1), "'trace' would be lost"),
        (replied, "reply_to would be lost"),
    ] {
        let error = send(&*session, vec![bad]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(error.to_string().contains(words) && error.way_out().is_some(), "{error}");
    }
    let error = send(&*session, vec![message("people", "", "{}")]).await.unwrap_err();
    assert!(error.to_string().contains("has one topic, 'hermesmessages'"), "{error}");
    assert!(error.to_string().contains("add topic=people"), "{error}");

    let group = GroupName::new("g").unwrap();
    let groups = vec![GroupSpec::new(topic(HERMES), group.clone())];
    let declared = session.declare(&Topology { groups, ..Topology::default() }).await;
    let joined =
        session.subscribe(Subscribe::new(topic(HERMES), Membership::Group(group.clone()))).await;
    let batch = Batch { messages: vec![message(HERMES, "", "{}")], mandatory: true };
    let admin = session.admin().unwrap();
    let retention = Some(Retention { bytes_max: Some(1), ..Retention::default() });
    let topics = vec![TopicSpec { retention, ..TopicSpec::new(topic(HERMES)) }];
    for (what, error) in [
        ("a group", declared.err()),
        ("joining", joined.err()),
        ("mandatory", session.send(batch).await.err()),
        ("replies", session.reply_address().await.err()),
        ("a purge", admin.purge(&topic(HERMES), &group).await.err()),
        ("deleting", admin.delete_topic(&topic(HERMES), Default::default()).await.err()),
        ("bytes", session.declare(&Topology { topics, ..Topology::default() }).await.err()),
    ] {
        let error = error.unwrap_or_else(|| panic!("{what} is refused"));
        assert_eq!(error.kind(), ErrorKind::Refused, "{what}: {error}");
        assert!(error.way_out().is_some(), "{what}: {error}");
    }
    let profile = session.capabilities(&Default::default());
    assert!(
        profile.require(Capability::Replay).is_ok() && profile.require(Capability::Settle).is_err()
    );
    // Nothing of all that was written.
    let mut from = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    assert_eq!(rest(&mut *from).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_row_that_is_no_event_is_reported_with_its_offset_and_reading_goes_on_behind_it() {
    let place = Place::new();
    made(&place, 2);
    let other = place.sqlite();
    let put = |data: &str, timestamp: &str| {
        let sql =
            format!("INSERT INTO hermesmessages (data, timestamp) VALUES ({data}, {timestamp})");
        other.execute(&sql, []).unwrap();
    };
    // Rows of a table without NOT NULL and affinities can hold anything.
    put("CAST('{\"evcategory\": \"base\"}' AS BLOB)", "1795221606.25");
    put("'{}'", "1795221606194");
    put("'{}'", "'yesterday'");
    put("'{}'", "1e400");
    put("CAST(x'7b22ff227d' AS TEXT)", "1795221606");
    insert(&other, &event("base", 8));
    let session = place.hermes(Role::Consume).await;
    let mut from = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    let (mut seen, mut errors) = (Vec::new(), Vec::new());
    // One more than there is to see: it ends.
    for _ in 0..=8 {
        match from.next().await {
            Ok(records) => seen.extend(numbers(&records)),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!(seen, [1, 2, 8]);
    let words = [
        "its data is a BLOB",
        "1795221606194 is no time in seconds",
        "text and no number",
        "inf",
        "not UTF-8",
    ];
    assert_eq!(errors.len(), words.len());
    for (index, (error, words)) in errors.iter().zip(words).enumerate() {
        let said = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(said.contains(words) && said.contains(&format!("0.{}", index + 3)), "{said}");
        assert!(said.contains(&format!("from 0.{}", index + 4)), "{said}");
    }
    // By its offset it is reported again, from the next one on it is passed over.
    from.seek(at(3)).await.unwrap();
    assert_eq!(from.next().await.unwrap_err().kind(), ErrorKind::Damaged);
    from.seek(at(8)).await.unwrap();
    assert_eq!(numbers(&rest(&mut *from).await.unwrap()), [8]);
}

#[tokio::test]
async fn a_number_where_text_should_be_is_reported() {
    let place = Place::new();
    let other = place.sqlite();
    // Of another form: without types everything stays what it is; columns may be in another order.
    other
        .execute_batch(
            "CREATE TABLE hermesmessages (timestamp, extra, data, msgid INTEGER PRIMARY KEY)",
        )
        .unwrap();
    let put = "INSERT INTO hermesmessages (data, timestamp) VALUES (?1, ?2)";
    other.execute(put, (7, 1_795_221_606)).unwrap();
    other.execute(put, (None::<i64>, 1_795_221_606)).unwrap();
    other.execute(put, ("{}", None::<i64>)).unwrap();
    other.execute(put, ("{\"evcategory\":\"base\"}", 1_795_221_606)).unwrap();
    let session = place.hermes(Role::Consume).await;
    let mut from = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    for words in
        ["0.1 cannot be read: its data is an integer", "its data is NULL", "timestamp is NULL"]
    {
        let error = from.next().await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    // An integer is a time too, and a table without AUTOINCREMENT has an end.
    let last = from.next().await.unwrap();
    assert_eq!((numbers(&last), last[0].time.unix_us()), (vec![4], 1_795_221_606_000_000));
    assert_eq!(from.position(), Some(Offset::new(0, 5)));
}

#[tokio::test]
async fn text_that_is_no_event_is_seen_by_who_reads_all_and_reported_to_who_selects() {
    let place = Place::new();
    made(&place, 1);
    insert(&place.sqlite(), "broken");
    insert(&place.sqlite(), &event("base", 3));
    let session = place.hermes(Role::Consume).await;
    let mut all = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    assert_eq!(texts(&rest(&mut *all).await.unwrap())[1], "broken");
    let only = Patterns::new([KeyPattern::new("base").unwrap()]);
    let read = Read { patterns: only, ..Read::new(topic(HERMES), Position::Earliest) };
    let mut only = session.read(read).await.unwrap();
    assert_eq!(numbers(&only.next().await.unwrap()), [1]);
    let error = only.next().await.unwrap_err().to_string();
    assert!(error.contains("0.2") && error.contains("no JSON object"), "{error}");
    assert_eq!(numbers(&only.next().await.unwrap()), [3]);
}

#[tokio::test]
async fn what_retention_removed_is_an_error_that_names_the_oldest_row() {
    let place = Place::new();
    made(&place, 10);
    let session = place.hermes(Role::Consume).await;
    let mut slow = reader(&*session, HERMES, at(3)).await.unwrap();
    let mut quick = reader(&*session, HERMES, Position::Latest).await.unwrap();
    let other = place.sqlite();
    other.execute("DELETE FROM hermesmessages WHERE msgid < 7", []).unwrap();
    other.execute("VACUUM", []).unwrap();
    let error = slow.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let said = error.to_string();
    assert!(
        said.contains("0.3 was removed by retention") && said.contains("oldest kept: 0.7"),
        "{said}"
    );
    // Told once; it goes on with what there is.
    assert_eq!(numbers(&rest(&mut *slow).await.unwrap()), [7, 8, 9, 10]);
    for (offset, kind, words) in
        [(6, ErrorKind::NotFound, "oldest kept: 0.7"), (12, ErrorKind::Limit, "end: 0.11")]
    {
        let error = reader(&*session, HERMES, at(offset)).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(words), "{error}");
    }
    let foreign = Position::Offset(Offset::new(5, 8));
    assert!(
        reader(&*session, HERMES, foreign)
            .await
            .unwrap_err()
            .to_string()
            .contains("5.8 is not one of")
    );
    // Everything goes: who had read everything misses nothing, who had not is told.
    slow.seek(at(9)).await.unwrap();
    other.execute("DELETE FROM hermesmessages", []).unwrap();
    let error = slow.next().await.unwrap_err().to_string();
    assert!(error.contains("oldest kept: none, end: 0.11"), "{error}");
    assert_eq!(rest(&mut *quick).await.unwrap().len(), 0);
    insert(&other, &event("base", 11));
    assert_eq!(numbers(&follow(&mut *quick, 1).await.unwrap()), [11]);
    assert_eq!(numbers(&follow(&mut *slow, 1).await.unwrap()), [11]);
}

#[tokio::test]
async fn numbers_have_gaps_and_an_end_that_was_deleted_is_waited_at() {
    let place = Place::new();
    made(&place, 2);
    let other = place.sqlite();
    let explicit = "INSERT INTO hermesmessages VALUES (?1, '{}', 1795221606)";
    other.execute(explicit, [1_i64 << 40]).unwrap();
    other.execute(explicit, [(1_i64 << 40) + 7]).unwrap();
    other.execute("DELETE FROM hermesmessages WHERE msgid > ?1", [1_i64 << 40]).unwrap();
    let session = place.hermes(Role::Consume).await;
    let mut from = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    assert_eq!(numbers(&rest(&mut *from).await.unwrap()), [1, 2, 1 << 40]);
    // The sequence is further than the last row: that is no reason to look again and again.
    let waited = tokio::time::timeout(Duration::from_millis(100), from.wait()).await;
    assert!(waited.is_err(), "it does not wait: {waited:?}");
    insert(&other, &event("base", 0));
    assert_eq!(numbers(&follow(&mut *from, 1).await.unwrap()), [(1 << 40) + 8]);
}

#[tokio::test]
async fn a_reader_may_be_there_before_the_file_is() {
    let place = Place::new();
    let session = place.hermes(Role::Consume).await;
    let mut first = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    let mut latest = reader(&*session, HERMES, Position::Latest).await.unwrap();
    assert_eq!(first.next().await.unwrap().len(), 0);
    let missing = reader(&*session, HERMES, at(1)).await.unwrap_err();
    assert!(missing.to_string().contains("there is no bus at"), "{missing}");
    assert!(!place.path().exists(), "reading made the file");
    let waiting = async {
        let one = numbers(&follow(&mut *first, 1).await.unwrap());
        (one, numbers(&follow(&mut *latest, 1).await.unwrap()))
    };
    let making = async {
        tokio::task::yield_now().await;
        made(&place, 1);
    };
    let (found, ()) = futures_util::future::join(waiting, making).await;
    assert_eq!(found, (vec![1], vec![1]));
}

#[tokio::test]
async fn a_file_that_takes_the_place_of_another_is_noticed() {
    let place = Place::new();
    made(&place, 1);
    let session = place.hermes(Role::Consume).await;
    let mut from = reader(&*session, HERMES, Position::Latest).await.unwrap();
    std::fs::rename(place.path(), place.path().with_extension("old")).unwrap();
    made(&place, 1);
    let error = tokio::time::timeout(PATIENCE, from.wait()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("was replaced or removed"), "{error}");
    assert!(error.way_out().is_some());
}

#[tokio::test]
async fn what_is_older_than_its_topic_keeps_goes() {
    let place = Place::new();
    let session = place.hermes(Role::Publish).await;
    declare(&*session, HERMES).await.unwrap();
    let mut old = message(HERMES, "", event("base", 1));
    old.properties.timestamp = Some(Timestamp::from_unix_us(1_000_000));
    send(&*session, vec![old, message(HERMES, "", event("base", 2))]).await.unwrap();
    let retention =
        Some(Retention { age_max: Some(Duration::from_secs(3600)), ..Retention::default() });
    let topics = vec![TopicSpec { retention, ..TopicSpec::new(topic(HERMES)) }];
    session.declare(&Topology { topics, ..Topology::default() }).await.unwrap();
    let mut from = reader(&*session, HERMES, Position::Earliest).await.unwrap();
    assert_eq!(numbers(&rest(&mut *from).await.unwrap()), [2]);
}

#[tokio::test]
async fn a_locked_bus_is_a_temporary_error_and_nothing_is_sent_later() {
    let place = Place::new();
    made(&place, 1);
    let session = place.session(Role::Publish, "layout=hermes&busy=30ms").await.unwrap();
    let other = place.sqlite();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let receipt =
        send(&*session, vec![message(HERMES, "", event("base", 2))]).await.unwrap().remove(0);
    let error = receipt.unwrap_err();
    assert!(error.error().is_temporary() && error.to_string().starts_with("not stored"), "{error}");
    assert!(error.to_string().contains("locked by another program"), "{error}");
    let read = reader(&*session, HERMES, Position::Earliest).await.unwrap_err();
    assert!(read.is_temporary() && read.to_string().contains("?busy=30s"), "{read}");
    other.execute_batch("COMMIT").unwrap();
    send(&*session, vec![message(HERMES, "", event("base", 3))]).await.unwrap().remove(0).unwrap();
    session.close(PATIENCE).await.unwrap();
    let sent = "SELECT group_concat(data ->> 'objpkey') FROM hermesmessages";
    assert_eq!(other.query_row(sent, [], |row| row.get::<_, String>(0)).unwrap(), "1,3");
}

/// A reader that stays in the way of a commit: the event is reported as not sent, and is not.
#[tokio::test]
async fn an_event_whose_commit_failed_is_not_sent_with_the_next_one() {
    let place = Place::new();
    made(&place, 1);
    let session = place.session(Role::Publish, "layout=hermes&busy=30ms").await.unwrap();
    let other = place.sqlite();
    other.execute_batch("BEGIN").unwrap();
    let count = "SELECT count(*) FROM hermesmessages";
    assert_eq!(other.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    let lost =
        send(&*session, vec![message(HERMES, "", event("base", 2))]).await.unwrap().remove(0);
    let error = lost.unwrap_err();
    assert!(error.error().is_temporary() && error.to_string().starts_with("not stored"), "{error}");
    other.execute_batch("COMMIT").unwrap();
    send(&*session, vec![message(HERMES, "", event("base", 3))]).await.unwrap().remove(0).unwrap();
    session.close(PATIENCE).await.unwrap();
    let sent = "SELECT group_concat(data ->> 'objpkey') FROM hermesmessages";
    assert_eq!(other.query_row(sent, [], |row| row.get::<_, String>(0)).unwrap(), "1,3");
}

#[tokio::test]
async fn what_is_published_in_the_same_process_is_seen_without_looking() {
    let place = Place::new();
    // Nobody looks within the time of this test.
    let slow = "layout=hermes&poll=1d";
    let publisher = place.session(Role::Publish, slow).await.unwrap();
    declare(&*publisher, HERMES).await.unwrap();
    let session = place.session(Role::Consume, slow).await.unwrap();
    let mut from = reader(&*session, HERMES, Position::Latest).await.unwrap();
    for number in 1..=20 {
        let send = send(&*publisher, vec![message(HERMES, "base", event("base", number))]);
        let (found, sent) = futures_util::future::join(follow(&mut *from, 1), send).await;
        assert_eq!((numbers(&found.unwrap()), sent.unwrap().len()), (vec![number], 1));
    }
}
