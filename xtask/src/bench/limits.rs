//! What the machine does at best: the system calls that any log has to make, and nothing else.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use crate::measure::{Latencies, timed};
use crate::{Result, problem, remove};

/// Bytes of one write(2).
const WRITE_LEN: usize = 64 << 10;

/// Bytes of one read(2).
const READ_LEN: usize = 256 << 10;

fn create(path: &Path) -> Result<File> {
    let options = OpenOptions::new().append(true).create_new(true).open(path);
    options.map_err(|error| problem(path, &error))
}

/// How long it takes to append this many bytes by 64 KiB; without and with one fdatasync at the end.
pub(crate) fn write(dir: &Path, bytes: u64, sync: bool) -> Result<Duration> {
    let path = dir.join("limit-write");
    let mut file = create(&path)?;
    let buffer: Vec<u8> = (0..=u8::MAX).cycle().take(WRITE_LEN).collect();
    let (done, took) = timed(|| {
        let mut left = bytes;
        while left > 0 {
            let len = usize::try_from(left).map_or(WRITE_LEN, |left| left.min(WRITE_LEN));
            file.write_all(&buffer[..len])?;
            left -= len as u64;
        }
        if sync { file.sync_data() } else { Ok(()) }
    });
    // Whatever comes next must not pay for these pages.
    done.and_then(|()| file.sync_data()).map_err(|error| problem(&path, &error))?;
    std::fs::remove_file(&path).map_err(|error| problem(&path, &error))?;
    Ok(took)
}

/// How long it takes to read every file below a folder by 256 KiB, and how many bytes that were.
pub(crate) fn read(dir: &Path) -> Result<(u64, Duration)> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    let mut buffer = vec![0; READ_LEN];
    let (done, took) = timed(|| {
        let mut bytes = 0;
        for path in &files {
            let mut file = File::open(path).map_err(|error| problem(path, &error))?;
            loop {
                match file.read(&mut buffer).map_err(|error| problem(path, &error))? {
                    0 => break,
                    len => bytes += len as u64,
                }
            }
        }
        Ok::<_, String>(bytes)
    });
    Ok((done?, took))
}

/// The regular files below a folder; a bell (a FIFO) would block who reads it.
fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|error| problem(dir, &error))? {
        let entry = entry.map_err(|error| problem(dir, &error))?;
        let kind = entry.file_type().map_err(|error| problem(dir, &error))?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The bytes of every file below a folder.
pub(crate) fn size(dir: &Path) -> Result<u64> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    let len = |path: &std::path::PathBuf| {
        std::fs::metadata(path)
            .map(|metadata| metadata.len())
            .map_err(|error| problem(path, &error))
    };
    files.iter().map(len).sum()
}

/// How often in a second a small append can be synced: what the disk is worth at the moment.
pub(crate) fn syncs_per_second(dir: &Path) -> Result<f64> {
    let dir = dir.join("probe");
    std::fs::create_dir_all(&dir).map_err(|error| problem(&dir, &error))?;
    let mut latencies = Latencies::default();
    Appends::create(&dir, 168)?.append_synced(200, &mut latencies)?;
    remove(&dir)?;
    Ok(latencies.per_second())
}

/// A file that takes one small record at a time.
#[derive(Debug)]
pub(crate) struct Appends {
    file: File,
    record: Vec<u8>,
}

impl Appends {
    /// A new file for records of this many bytes.
    pub(crate) fn create(dir: &Path, record_len: usize) -> Result<Self> {
        let file = create(&dir.join("limit-appends"))?;
        Ok(Self { file, record: vec![7; record_len] })
    }

    /// A new file that has zeros on the medium where so many records will be: syncing them moves no end
    /// and takes no blocks.
    pub(crate) fn create_zeroed(dir: &Path, record_len: usize, count: u64) -> Result<Self> {
        let path = dir.join("limit-zeroed");
        let make = || {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            let zeros = vec![0; record_len];
            (0..count).try_for_each(|_| file.write_all(&zeros))?;
            file.sync_all()?;
            file.rewind()?;
            Ok(file)
        };
        let file = make().map_err(|error| problem(&path, &error))?;
        Ok(Self { file, record: vec![7; record_len] })
    }

    /// Appends and fdatasyncs records one by one.
    pub(crate) fn append_synced(&mut self, count: u64, latencies: &mut Latencies) -> Result<()> {
        for _ in 0..count {
            let done = latencies.time(|| {
                self.file.write_all(&self.record)?;
                self.file.sync_data()
            });
            done.map_err(|error| format!("raw append: {error}"))?;
        }
        Ok(())
    }

    /// Appends records, one write(2) each.
    pub(crate) fn append(&mut self, count: u64) -> Result<Duration> {
        let (done, took) = timed(|| (0..count).try_for_each(|_| self.file.write_all(&self.record)));
        done.map_err(|error| format!("raw append: {error}"))?;
        Ok(took)
    }
}
