//! The same works by raw rusqlite: the same statements in the same transactions.

use rusqlite::{Connection, params};

use super::figures::{Figures, Meter, Who};
use super::{Layout, ONE_BY_ONE, Place, Result, Setup, payload, text};

/// The rows of one look.
const CHUNK: i64 = 1024;

/// A row as it is copied out: number, time, key, properties, payload.
type Row = (i64, f64, String, Vec<u8>, Vec<u8>);

struct Raw {
    connection: Connection,
    layout: Layout,
    /// The number of the next record.
    next: i64,
    slot: i64,
}

impl Raw {
    fn open(place: &Place) -> Result<Self> {
        let connection = Connection::open(&place.file).map_err(text)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(text)?;
        let (slot, next) = match place.layout {
            Layout::Busline => connection
                .query_row("SELECT slot, next FROM topics", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .map_err(text)?,
            Layout::Hermes => (0, 1),
        };
        Ok(Self { connection, layout: place.layout, next, slot })
    }

    /// One transaction, as Busline has it.
    fn transaction(&mut self, payloads: &[String]) -> Result<()> {
        self.execute("BEGIN IMMEDIATE")?;
        for payload in payloads {
            match self.layout {
                Layout::Busline => {
                    let sql = "INSERT INTO records (id, time, key, meta, payload) VALUES (?1, ?2, ?3, ?4, ?5)";
                    let mut insert = self.connection.prepare_cached(sql).map_err(text)?;
                    let id = (self.slot << 42) | self.next;
                    let row = params![
                        id,
                        1_795_221_606_000_000_i64,
                        "base",
                        &[] as &[u8],
                        payload.as_bytes()
                    ];
                    insert.execute(row).map_err(text)?;
                }
                Layout::Hermes => {
                    let sql = "INSERT INTO hermesmessages (data, timestamp) VALUES (?1, ?2)";
                    let mut insert = self.connection.prepare_cached(sql).map_err(text)?;
                    insert.execute(params![payload, 1_795_221_606.25]).map_err(text)?;
                }
            }
            self.next += 1;
        }
        if self.layout == Layout::Busline {
            let mut update = self
                .connection
                .prepare_cached("UPDATE topics SET next = ?1, bytes = ?1")
                .map_err(text)?;
            update.execute([self.next]).map_err(text)?;
        }
        self.execute("COMMIT")
    }

    fn execute(&self, sql: &str) -> Result<()> {
        let mut statement = self.connection.prepare_cached(sql).map_err(text)?;
        statement.execute([]).map(drop).map_err(text)
    }
}

/// Inserts in this many transactions.
pub(crate) fn publish(
    setup: &Setup,
    place: &Place,
    transactions: usize,
    figures: &mut Figures,
) -> Result<()> {
    let mut raw = Raw::open(place)?;
    let payloads: Vec<String> = (0..setup.messages).map(|number| payload(setup, number)).collect();
    let each = setup.messages.div_ceil(transactions);
    let meter = Meter::start();
    for payloads in payloads.chunks(each) {
        raw.transaction(payloads)?;
    }
    figures.add(place.layout, "publish, joined", Who::Raw, meter.rate(setup.messages));
    Ok(())
}

/// Selects everything, a chunk at a time, and copies it out.
pub(crate) fn read(setup: &Setup, place: &Place, figures: &mut Figures) -> Result<()> {
    let raw = Raw::open(place)?;
    let sql = match place.layout {
        Layout::Busline => {
            "SELECT id, time, key, meta, payload FROM records WHERE id >= ?1 ORDER BY id LIMIT ?2"
        }
        Layout::Hermes => {
            "SELECT msgid, timestamp, '', x'', data FROM hermesmessages WHERE msgid >= ?1 ORDER BY msgid LIMIT ?2"
        }
    };
    let meter = Meter::start();
    let (mut from, mut count) = (0_i64, 0);
    loop {
        let mut select = raw.connection.prepare_cached(sql).map_err(text)?;
        let mut rows = select.query([from, CHUNK]).map_err(text)?;
        let mut chunk: Vec<Row> = Vec::new();
        while let Some(row) = rows.next().map_err(text)? {
            let payload = row.get_ref(4).map_err(text)?.as_bytes().map_err(text)?.to_vec();
            let (key, meta) = (row.get(2).map_err(text)?, row.get(3).map_err(text)?);
            chunk.push((row.get(0).map_err(text)?, row.get(1).map_err(text)?, key, meta, payload));
        }
        let Some((last, ..)) = chunk.last() else { break };
        from = last + 1;
        count += chunk.len();
    }
    figures.add(place.layout, "read, chunks of 1024", Who::Raw, meter.rate(count));
    if count == setup.messages { Ok(()) } else { Err(format!("{count} rows were read")) }
}

/// A transaction a message.
pub(crate) fn one_by_one(place: &Place, figures: &mut Figures) -> Result<()> {
    let mut raw = Raw::open(place)?;
    let one = [r#"{"evcategory": "base"}"#.to_owned()];
    let meter = Meter::start();
    for _ in 0..ONE_BY_ONE {
        raw.transaction(&one)?;
    }
    figures.add(place.layout, "publish one, awaited", Who::Raw, meter.rate(ONE_BY_ONE));
    Ok(())
}
