//! What the tests on databases share: sessions, messages, and other programs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Connect, Read, Reader, Role, Session, TopicSpec, Topology};
use busline_core::{Key, Message, Position, PublishError, Receipt, Record, Result, Topic};
use rusqlite::Connection;

/// Nothing that must come takes longer, however loaded the machine is.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The table of a Hermes bus is its only topic.
pub(super) const HERMES: &str = "hermesmessages";

/// A file that is gone with the test.
pub(super) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("bus.db")
    }

    pub(super) fn url(&self, options: &str) -> String {
        format!("sqlite:{}?{options}", self.path().display())
    }

    /// A session as one more process would open it.
    pub(super) async fn session(&self, role: Role, options: &str) -> Result<Arc<dyn Session>> {
        busline_transports::open(&self.url(options))?.connect(Connect::new(role)).await
    }

    /// A session on the table of Hermes.
    pub(super) async fn hermes(&self, role: Role) -> Arc<dyn Session> {
        self.session(role, "layout=hermes").await.unwrap()
    }

    /// Another program's connection.
    pub(super) fn sqlite(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }
}

pub(super) fn topic(name: &str) -> Topic {
    Topic::new(name.to_owned()).unwrap()
}

/// A message of a topic with a key.
pub(super) fn message(name: &str, key: &str, payload: impl Into<bytes::Bytes>) -> Message {
    Message::new(topic(name), Key::new(key.to_owned()).unwrap(), payload)
}

/// Declares a topic.
pub(super) async fn declare(session: &dyn Session, name: &str) -> Result<()> {
    let topics = vec![TopicSpec::new(topic(name))];
    session.declare(&Topology { topics, ..Topology::default() }).await
}

/// Sends messages and waits for what became of them.
pub(super) async fn send(
    session: &dyn Session,
    messages: Vec<Message>,
) -> Result<Vec<Result<Receipt, PublishError>>> {
    let mut receipts = Vec::new();
    for receipt in session.send(messages.into()).await? {
        receipts.push(tokio::time::timeout(PATIENCE, receipt).await.expect("a receipt in time"));
    }
    Ok(receipts)
}

/// A reader of a topic.
pub(super) async fn reader(
    session: &dyn Session,
    name: &str,
    from: Position,
) -> Result<Box<dyn Reader>> {
    session.read(Read::new(topic(name), from)).await
}

/// Everything up to the end, or the first error.
pub(super) async fn rest(reader: &mut dyn Reader) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    loop {
        let chunk = reader.next().await?;
        if chunk.is_empty() {
            return Ok(all);
        }
        all.extend(chunk);
    }
}

/// This many records, waited for.
pub(super) async fn follow(reader: &mut dyn Reader, count: usize) -> Result<Vec<Record>> {
    let mut all: Vec<Record> = Vec::new();
    while all.len() < count {
        let chunk = reader.next().await?;
        if chunk.is_empty() {
            tokio::time::timeout(PATIENCE, reader.wait()).await.expect("more in time")?;
        }
        all.extend(chunk);
    }
    Ok(all)
}

pub(super) fn texts(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| String::from_utf8_lossy(&record.message.payload).into_owned())
        .collect()
}

/// Python, with the module that the peer needs; `None`, said aloud, where there is none and it is not required.
pub(super) fn python() -> Option<PathBuf> {
    let python =
        std::env::var_os("BUSLINE_TEST_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let has = std::process::Command::new(&python).args(["-c", "import sqlite3"]).output();
    if has.is_ok_and(|has| has.status.success()) {
        return Some(python);
    }
    let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
    assert!(!required, "there is no Python with sqlite3 at {}", python.display());
    println!(
        "skip: Hermes' side in Python: there is no Python with sqlite3 at {}",
        python.display()
    );
    None
}

/// The script of a peer.
pub(super) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}
