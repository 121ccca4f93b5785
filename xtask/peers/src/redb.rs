//! redb: a copy-on-write tree in one file; every commit is on the medium. One process only.

use std::ops::Range;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::payload::{Count, KEY_LEN, Payload};
use crate::store::{Store, Sync, Target, on_threads};
use crate::{Result, failed};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// A database with one table.
pub(crate) struct Redb {
    database: Arc<Database>,
}

impl Store for Redb {
    fn open(target: &Target) -> Result<Self> {
        if target.sync != Sync::Power {
            return Err("redb keeps commits that it does not sync in its memory".to_owned());
        }
        let database = Database::create(target.dir.join("log.redb")).map_err(failed)?;
        Ok(Self { database: Arc::new(database) })
    }

    fn publish(
        &mut self,
        payload: &mut Payload,
        numbers: Range<u64>,
        commit_len: u64,
    ) -> Result<()> {
        let mut next = numbers.start;
        while next < numbers.end {
            let end = numbers.end.min(next + commit_len);
            commit(&self.database, payload, next..end)?;
            next = end;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Count> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let table = transaction.open_table(LOG).map_err(failed)?;
        let mut count = Count::default();
        for entry in table.iter().map_err(failed)? {
            let (_, value) = entry.map_err(failed)?;
            count.add(value.value().get(KEY_LEN..).ok_or("a value is too short")?);
        }
        Ok(count)
    }

    fn publish_from_many(&mut self, publishers: u64, each: u64) -> Result<()> {
        on_threads(publishers, each, || {
            let database = Arc::clone(&self.database);
            Ok(move |number, payload: &mut Payload| commit(&database, payload, number..number + 1))
        })
    }
}

fn commit(database: &Database, payload: &mut Payload, numbers: Range<u64>) -> Result<()> {
    let transaction = database.begin_write().map_err(failed)?;
    let mut table = transaction.open_table(LOG).map_err(failed)?;
    for number in numbers {
        let (key, body) = payload.message(number);
        let mut value = table.insert_reserve(number, key.len() + body.len()).map_err(failed)?;
        let (key_part, body_part) = value.as_mut().split_at_mut(key.len());
        key_part.copy_from_slice(key);
        body_part.copy_from_slice(body);
    }
    drop(table);
    transaction.commit().map_err(failed)
}
