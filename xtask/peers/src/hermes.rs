//! A stand-in for the SQLite bus of Hermes: what its two plugins do, without Python.
//!
//! One commit an event, a rollback journal, no index, the category inside of the JSON text, and a
//! consumer that looks every half a second. The real one has the cost of Python on top.

use std::ops::Range;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};
use serde_json::{Value, json};

use crate::measure::{Latencies, now_ns, now_us, timed};
use crate::payload::{Count, Payload};
use crate::store::{Store, Target};
use crate::{Result, failed};

/// How long its consumer sleeps when it found nothing.
const POLL: Duration = Duration::from_millis(500);

/// The producer, and where its file is.
pub(crate) struct Hermes {
    producer: Connection,
    target: Target,
}

impl Hermes {
    fn send(&self, category: &str, number: u64) -> Result<()> {
        let event = json!({
            "evcategory": category, "eventtype": "added", "objtype": "User", "objpkey": number,
            "objattrs": { "n": number, "pad": "x".repeat(70) }, "step": 0,
            "isPartiallyProcessed": false,
        });
        let data = serde_json::to_string_pretty(&event).map_err(failed)?;
        #[allow(clippy::cast_precision_loss, reason = "its column is a REAL of seconds")]
        let seconds = now_us() as f64 / 1e6;
        let insert = "INSERT INTO hermesmessages (data, timestamp) VALUES (?1, ?2)";
        let mut insert = self.producer.prepare_cached(insert).map_err(failed)?;
        insert.execute(params![data, seconds]).map_err(failed).map(|_| ())
    }

    fn consumer(&self) -> Result<Connection> {
        let path = self.target.dir.join("bus.sqlite");
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)
    }
}

/// All events from a number on, decoded, in memory: what a look of its consumer fetches.
fn look(consumer: &Connection, from: i64) -> Result<Vec<(i64, String)>> {
    let select =
        "SELECT msgid, data, timestamp FROM hermesmessages WHERE msgid >= ?1 ORDER BY msgid";
    let mut select = consumer.prepare_cached(select).map_err(failed)?;
    let rows = select.query_map([from], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
    rows.collect::<std::result::Result<_, _>>().map_err(failed)
}

fn number_of(event: &Value) -> Result<u64> {
    event["objattrs"]["n"].as_u64().ok_or_else(|| "an event has no number".to_owned())
}

impl Store for Hermes {
    fn open(target: &Target) -> Result<Self> {
        let producer = Connection::open(target.dir.join("bus.sqlite")).map_err(failed)?;
        let table = "CREATE TABLE IF NOT EXISTS hermesmessages (msgid INTEGER PRIMARY KEY \
                     AUTOINCREMENT, data TEXT NOT NULL, timestamp REAL NOT NULL)";
        producer.execute_batch(table).map_err(failed)?;
        Ok(Self { producer, target: target.clone() })
    }

    /// Each is a commit, whatever is asked.
    fn publish(&mut self, _: &mut Payload, numbers: Range<u64>, _: u64) -> Result<()> {
        numbers.into_iter().try_for_each(|number| self.send("base", number))
    }

    fn read(&mut self) -> Result<Count> {
        let mut count = Count::default();
        for (_, data) in look(&self.consumer()?, 1)? {
            let event: Value = serde_json::from_str(&data).map_err(failed)?;
            count.add(&number_of(&event)?.to_le_bytes());
        }
        Ok(count)
    }

    fn wake(&mut self, messages: u64) -> Result<Latencies> {
        let consumer = self.consumer()?;
        let consume = move || {
            let mut latencies = Latencies::default();
            let mut next = 1;
            let mut left = messages;
            while left > 0 {
                let found = look(&consumer, next)?;
                for (number, data) in &found {
                    let event: Value = serde_json::from_str(data).map_err(failed)?;
                    let sent = number_of(&event)?;
                    latencies.add(Duration::from_nanos(now_ns().saturating_sub(sent)));
                    next = number + 1;
                    left -= 1;
                }
                if found.is_empty() {
                    std::thread::park_timeout(POLL);
                }
            }
            Ok(latencies)
        };
        let consumer = std::thread::spawn(consume);
        for _ in 0..messages {
            // No multiple of its period, so that it is met at every phase.
            std::thread::park_timeout(Duration::from_millis(130));
            self.send("base", now_ns())?;
        }
        consumer.join().map_err(|_| "the consumer panicked")?
    }

    fn find(&mut self, messages: u64) -> Result<f64> {
        self.producer.execute_batch("BEGIN").map_err(failed)?;
        (1..messages).try_for_each(|number| self.send("base", number))?;
        self.send("rare", messages)?;
        self.producer.execute_batch("COMMIT").map_err(failed)?;
        let consumer = self.consumer()?;
        let (found, took) = timed(|| {
            for (_, data) in look(&consumer, 1)? {
                let event: Value = serde_json::from_str(&data).map_err(failed)?;
                if event["evcategory"] == "rare" {
                    return number_of(&event);
                }
            }
            Err("the event is not there".to_owned())
        });
        if found? == messages { Ok(took.as_secs_f64()) } else { Err("another event".to_owned()) }
    }
}
