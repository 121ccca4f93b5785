//! LMDB: keys in order, appended; readers borrow from the map.

use std::fs::create_dir_all;
use std::ops::Range;

use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, PutFlags};

use crate::payload::{Count, KEY_LEN, Payload};
use crate::store::{Store, Sync, Target, on_threads};
use crate::{Result, failed};

/// An environment with one database, for as long as this process lives.
#[derive(Debug)]
pub(crate) struct Lmdb {
    env: &'static Env,
    database: Database<'static, U64<BigEndian>, Bytes>,
}

/// Of the library that is linked.
pub(crate) fn version() -> String {
    let version = heed::lmdb_version();
    format!("{}.{}.{}", version.major, version.minor, version.patch)
}

#[allow(unsafe_code, reason = "LMDB maps a file, which nobody else writes to here")]
fn open(target: &Target) -> Result<Env> {
    create_dir_all(&target.dir).map_err(failed)?;
    let mut options = EnvOpenOptions::new();
    options.map_size(8 << 30).max_readers(200);
    let flags = if target.sync == Sync::Power { EnvFlags::empty() } else { EnvFlags::NO_SYNC };
    // SAFETY: the folder is of this run alone, no other process changes its files, and it is opened
    // once. Without NO_SYNC only a loss of power could harm it.
    unsafe { options.flags(flags).open(&target.dir) }.map_err(failed)
}

impl Store for Lmdb {
    fn open(target: &Target) -> Result<Self> {
        // Databases borrow from it, and the process ends with its work.
        let env: &'static Env = Box::leak(Box::new(open(target)?));
        let transaction = env.write_txn().map_err(failed)?;
        let created = env.create_databases_and_commit(transaction, |opener, transaction| {
            let database = opener.create_database(transaction, None)?;
            heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(database))
        });
        Ok(Self { env, database: created.map_err(failed)?.unwrap_commit() })
    }

    fn publish(
        &mut self,
        payload: &mut Payload,
        numbers: Range<u64>,
        commit_len: u64,
    ) -> Result<()> {
        let mut value = Vec::new();
        let mut next = numbers.start;
        while next < numbers.end {
            let mut transaction = self.env.write_txn().map_err(failed)?;
            let end = numbers.end.min(next + commit_len);
            for number in next..end {
                join(payload, number, &mut value);
                self.database
                    .put_with_flags(&mut transaction, PutFlags::APPEND, &number, &value)
                    .map_err(failed)?;
            }
            transaction.commit().map_err(failed)?;
            next = end;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.env.force_sync().map_err(failed)
    }

    fn read(&mut self) -> Result<Count> {
        let transaction = self.env.read_txn().map_err(failed)?;
        let mut count = Count::default();
        for entry in self.database.iter(&transaction).map_err(failed)? {
            let (_, value) = entry.map_err(failed)?;
            let (key, body) = value.split_at_checked(KEY_LEN).ok_or("a value is too short")?;
            std::hint::black_box(key);
            count.add(body);
        }
        Ok(count)
    }

    /// Removing is all: there are no claims or leases.
    fn settle(&mut self, commit_len: u64) -> Result<Count> {
        let mut count = Count::default();
        loop {
            let mut transaction = self.env.write_txn().map_err(failed)?;
            let mut is_empty = false;
            for _ in 0..commit_len {
                let first = self.database.first(&transaction).map_err(failed)?;
                let Some((number, value)) = first else {
                    is_empty = true;
                    break;
                };
                count.add(value.get(KEY_LEN..).ok_or("a value is too short")?);
                self.database.delete(&mut transaction, &number).map_err(failed)?;
            }
            transaction.commit().map_err(failed)?;
            if is_empty {
                return Ok(count);
            }
        }
    }

    fn last(&mut self) -> Result<u64> {
        let transaction = self.env.read_txn().map_err(failed)?;
        let last = self.database.last(&transaction).map_err(failed)?;
        Ok(last.map_or(0, |(number, _)| number + 1))
    }

    fn publish_from_many(&mut self, publishers: u64, each: u64) -> Result<()> {
        on_threads(publishers, each, || {
            let (env, database) = (self.env, self.database);
            let mut value = Vec::new();
            Ok(move |number, payload: &mut Payload| {
                join(payload, number, &mut value);
                let mut transaction = env.write_txn().map_err(failed)?;
                database.put(&mut transaction, &number, &value).map_err(failed)?;
                transaction.commit().map_err(failed)
            })
        })
    }
}

/// Key and body as one value.
fn join(payload: &mut Payload, number: u64, value: &mut Vec<u8>) {
    let (key, body) = payload.message(number);
    value.clear();
    value.extend_from_slice(key);
    value.extend_from_slice(body);
}
