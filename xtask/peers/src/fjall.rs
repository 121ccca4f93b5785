//! fjall: a log-structured tree; numbers are its keys. One process only.

use std::ops::Range;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::payload::{Count, KEY_LEN, Payload};
use crate::store::{Store, Sync, Target, on_threads};
use crate::{Result, failed};

/// A database with one keyspace. A write is in the system's hands when it returns, as it is by default.
pub(crate) struct Fjall {
    database: Database,
    log: Keyspace,
    sync: Sync,
}

impl Store for Fjall {
    fn open(target: &Target) -> Result<Self> {
        let database = Database::builder(&target.dir).open().map_err(failed)?;
        let log = database.keyspace("log", KeyspaceCreateOptions::default).map_err(failed)?;
        Ok(Self { database, log, sync: target.sync })
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
            if commit_len == 1 {
                self.log.insert(next.to_be_bytes(), value(payload, next)).map_err(failed)?;
            } else {
                let mut batch = self.database.batch();
                for number in next..end {
                    batch.insert(&self.log, number.to_be_bytes(), value(payload, number));
                }
                batch.commit().map_err(failed)?;
            }
            if self.sync == Sync::Power {
                self.sync()?;
            }
            next = end;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.database.persist(PersistMode::SyncData).map_err(failed)
    }

    fn read(&mut self) -> Result<Count> {
        let mut count = Count::default();
        for entry in self.log.iter() {
            let value = entry.value().map_err(failed)?;
            count.add(value.get(KEY_LEN..).ok_or("a value is too short")?);
        }
        Ok(count)
    }

    /// Removing each is all: there are no claims or leases.
    fn settle(&mut self, _: u64) -> Result<Count> {
        let mut count = Count::default();
        for entry in self.log.iter() {
            let (key, value) = entry.into_inner().map_err(failed)?;
            count.add(value.get(KEY_LEN..).ok_or("a value is too short")?);
            self.log.remove(key).map_err(failed)?;
        }
        Ok(count)
    }

    fn last(&mut self) -> Result<u64> {
        let Some(last) = self.log.last_key_value() else { return Ok(0) };
        let key = last.key().map_err(failed)?;
        let key = key.as_ref().try_into().map_err(failed)?;
        Ok(u64::from_be_bytes(key) + 1)
    }

    fn publish_from_many(&mut self, publishers: u64, each: u64) -> Result<()> {
        on_threads(publishers, each, || {
            let (database, log) = (self.database.clone(), self.log.clone());
            Ok(move |number: u64, payload: &mut Payload| {
                log.insert(number.to_be_bytes(), value(payload, number)).map_err(failed)?;
                database.persist(PersistMode::SyncData).map_err(failed)
            })
        })
    }
}

/// Key and body as one value.
fn value(payload: &mut Payload, number: u64) -> Vec<u8> {
    let (key, body) = payload.message(number);
    [key, body].concat()
}
