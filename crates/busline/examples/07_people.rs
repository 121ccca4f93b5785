//! A directory of people, from a table into a log as events of Hermes, and from there into a file.
//!
//! The source compares the table with what it has sent; whoever begins to read gets everybody first. The reader keeps its place in
//! the very file that it writes, so that the two never differ, whenever it is killed.

mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use busline::log::hermes::{Changes, DataSchema, Event, EventType, Map, ObjectSchema};
use busline::log::{Consumer, Producer};
use busline::{Bus, Error, ErrorKind, Offset, Result};
use clap::{Parser, Subcommand};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use serde_json::json;
use support::{Signals, finish, line, ready};

/// The topic, and the type of its objects.
const TOPIC: &str = "people";
const PERSON: &str = "Person";

/// One side of the directory.
#[derive(Debug, Parser)]
struct Arguments {
    /// The bus.
    #[arg(long, global = true, value_name = "URL", default_value = "file:./busline-data")]
    bus: String,
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// Sends what changes in the table `people` of a database, which it creates where it is missing.
    Source {
        database: PathBuf,
        /// How often the table is looked at, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = 500)]
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        every: u64,
    },
    /// Writes everybody into a file, until nothing comes for so long, or else for ever.
    Reader {
        file: PathBuf,
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
}

/// A person as a row of the table, and as attributes of an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Person {
    id: i64,
    name: String,
    mail: Option<String>,
}

#[tokio::main]
#[allow(clippy::print_stderr, reason = "an example says why it does not start")]
async fn main() -> ExitCode {
    let signals = Signals::listen();
    let arguments = Arguments::parse();
    let work = async {
        let bus = Bus::open(&arguments.bus).await?;
        match &arguments.side {
            Side::Source { database, every } => source(&bus, database, *every).await,
            Side::Reader { file, timeout } => {
                read(&bus, file, timeout.map(Duration::from_secs)).await
            }
        }
    };
    // Whatever it is doing: what was sent and not noted is sent again, what was read and not written read again.
    let done = tokio::select! {
        done = work => done,
        () = signals.asked() => Ok(()),
    };
    finish();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.kind().exit_code())
        }
    }
}

async fn source(bus: &Bus, path: &Path, every: u64) -> Result<()> {
    let database = open(path)?;
    let producer = Producer::on(bus, TOPIC).await?;
    ready();
    let mut looks = tokio::time::interval(Duration::from_millis(every));
    loop {
        looks.tick().await;
        if table(&database, "SELECT 1 FROM sent_schema LIMIT 1", |_| Ok(()))?.is_empty() {
            send_everybody(&producer, &database).await?;
        }
        send_changes(&producer, &database).await?;
    }
}

/// The sequence that new readers begin with.
async fn send_everybody(producer: &Producer, database: &Connection) -> Result<()> {
    let person = ObjectSchema {
        attributes: ["id", "mail", "name"].map(str::to_owned).to_vec(),
        primary_key: vec!["id".to_owned()],
        ..ObjectSchema::default()
    };
    send(producer, Event::init_start(&DataSchema::new().with(PERSON, person))).await?;
    for person in people(database, "people")? {
        let event = Event::added(PERSON, person.id, Map::of(&person)?);
        send(producer, event.in_initsync()).await?;
        note(database, person.id, Some(&person))?;
    }
    send(producer, Event::init_stop()).await?;
    database.execute("INSERT INTO sent_schema VALUES (1)", []).map(drop).map_err(failed)
}

/// What is different from what was sent: each is noted when it is in the log, so that none is forgotten.
async fn send_changes(producer: &Producer, database: &Connection) -> Result<()> {
    let now = people(database, "people")?;
    let sent = people(database, "sent")?;
    for person in &now {
        let event = match sent.iter().find(|before| before.id == person.id) {
            None => Event::added(PERSON, person.id, Map::of(person)?),
            Some(before) if before != person => {
                Event::modified(PERSON, person.id, changes(&Map::of(before)?, &Map::of(person)?))
            }
            Some(_) => continue,
        };
        send(producer, event).await?;
        note(database, person.id, Some(person))?;
    }
    for before in sent.iter().filter(|before| !now.iter().any(|person| person.id == before.id)) {
        send(producer, Event::removed(PERSON, before.id)).await?;
        note(database, before.id, None)?;
    }
    Ok(())
}

fn changes(before: &Map, after: &Map) -> Changes {
    let mut changes = Changes::default();
    for (name, value) in after.iter() {
        match before.iter().find(|(known, _)| *known == name) {
            None => drop(changes.added.insert(name.clone(), value.clone())),
            Some((_, old)) if old != value => {
                drop(changes.modified.insert(name.clone(), value.clone()));
            }
            Some(_) => {}
        }
    }
    for (name, _) in before.iter().filter(|(name, _)| !after.iter().any(|(n, _)| n == *name)) {
        changes.removed.insert(name.clone(), None::<bool>);
    }
    changes
}

async fn send(producer: &Producer, event: Event) -> Result<()> {
    producer.send_event(&event).await?;
    line(&json!({"kind": "sent", "event": event.to_string()}));
    Ok(())
}

/// What the reader knows: replaced as a whole, the place together with what was read up to it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Directory {
    next: Option<Offset>,
    people: std::collections::BTreeMap<i64, Person>,
}

async fn read(bus: &Bus, path: &Path, timeout: Option<Duration>) -> Result<()> {
    let mut directory = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(failed)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Directory::default(),
        Err(error) => return Err(failed(error)),
    };
    let mut consumer = Consumer::on(bus, TOPIC)?.timeout(timeout);
    if let Some(next) = &directory.next {
        consumer.seek(next).await?;
    }
    line(&json!({"kind": "ready", "next": directory.next}));
    while let Some(event) = consumer.next_event().await? {
        apply(&mut directory, &event)?;
        directory.next = consumer.position();
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(&directory).map_err(failed)?)
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(failed)?;
        let (offset, event) = (&event.offset, event.to_string());
        line(&json!({"kind": "applied", "offset": offset, "event": event}));
    }
    line(&json!({"kind": "summary", "people": directory.people.len()}));
    Ok(())
}

/// An event that is applied once more changes nothing.
fn apply(directory: &mut Directory, event: &Event) -> Result<()> {
    let people = &mut directory.people;
    let key = || event.key.as_i64().ok_or_else(|| failed("an event of no person"));
    match event.event_type() {
        Some(EventType::InitStart) => people.clear(),
        Some(EventType::Added) => {
            people.insert(key()?, event.attributes().cloned().unwrap_or_default().to()?);
        }
        Some(EventType::Modified) => {
            let known = people.get_mut(&key()?);
            let known = known.ok_or_else(|| failed("a person that nobody has added changed"))?;
            let mut attributes = Map::of(known)?;
            let Changes { added, modified, removed } = event.changes()?;
            for (name, value) in added.into_iter().chain(modified) {
                attributes.insert(name, value);
            }
            for (name, _) in removed {
                attributes.remove(&name.to_str_lossy());
            }
            *known = attributes.to()?;
        }
        Some(EventType::Removed) => drop(people.remove(&key()?)),
        _ => {}
    }
    Ok(())
}

/// The database, with the table of people and what was sent of it.
fn open(path: &Path) -> Result<Connection> {
    let database = Connection::open(path).map_err(failed)?;
    database.busy_timeout(Duration::from_secs(10)).map_err(failed)?;
    let person = "(id INTEGER PRIMARY KEY, name TEXT NOT NULL, mail TEXT)";
    let tables = format!(
        "CREATE TABLE IF NOT EXISTS people {person}; CREATE TABLE IF NOT EXISTS sent {person};
         CREATE TABLE IF NOT EXISTS sent_schema (sent INTEGER)"
    );
    database.execute_batch(&tables).map_err(failed)?;
    Ok(database)
}

fn people(database: &Connection, from: &str) -> Result<Vec<Person>> {
    let select = format!("SELECT id, name, mail FROM {from} ORDER BY id");
    let of = |row: &rusqlite::Row<'_>| {
        Ok(Person { id: row.get(0)?, name: row.get(1)?, mail: row.get(2)? })
    };
    table(database, &select, of)
}

fn table<T>(
    database: &Connection,
    select: &str,
    of: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut select = database.prepare(select).map_err(failed)?;
    let rows = select.query_map([], of).map_err(failed)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failed)
}

/// Notes what the log has of a person.
fn note(database: &Connection, id: i64, person: Option<&Person>) -> Result<()> {
    let noted = match person {
        Some(Person { name, mail, .. }) => database
            .execute("INSERT OR REPLACE INTO sent VALUES (?1, ?2, ?3)", params![id, name, mail]),
        None => database.execute("DELETE FROM sent WHERE id = ?1", [id]),
    };
    noted.map(drop).map_err(failed)
}

fn failed(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Other, why.to_string())
}
