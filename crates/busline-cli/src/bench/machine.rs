//! What the machine can do at best, in the same directory and the same run: write and fdatasync.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use super::{Of, Report};
use crate::app::App;
use crate::args::BenchArgs;
use crate::exit::{Failure, Outcome};

/// Written at a time.
const BLOCK_BYTES: usize = 256 << 10;

/// The limit is taken of at most this many bytes.
const BYTES_MAX: u64 = 1 << 30;

/// Writes the same payload bytes to a file and syncs once; then one payload and one sync at a time.
pub(super) fn measure(
    app: &App,
    args: &BenchArgs,
    directory: &Path,
    report: &mut Report,
) -> Outcome {
    let failed = |error: std::io::Error| Failure::file(directory, &error);
    let file = tempfile::Builder::new().prefix(".busline-bench-").tempfile_in(directory);
    let mut file = file.map_err(failed)?;
    let messages = sequential(app, args, file.as_file_mut()).map_err(failed)?;
    let (messages, took) = messages;
    report.add_rate(Of::Machine, "write all, one fdatasync", messages, took);
    let samples = one_by_one(app, args, file.as_file_mut()).map_err(failed)?;
    report.add_latency(Of::Machine, "overwrite one, fdatasync", samples);
    Ok(())
}

/// How many payloads were written in how long.
fn sequential(
    app: &App,
    args: &BenchArgs,
    file: &mut File,
) -> std::io::Result<(u64, std::time::Duration)> {
    let size = u64::from(args.size.max(1));
    let mut left = (args.messages * size).min(BYTES_MAX);
    let messages = left / size;
    let block = vec![b'x'; BLOCK_BYTES];
    let started = app.clock.monotonic();
    while left > 0 {
        let now = left.min(BLOCK_BYTES as u64);
        file.write_all(block.get(..now as usize).unwrap_or_default())?;
        left -= now;
    }
    file.sync_data()?;
    Ok((messages, app.clock.monotonic() - started))
}

fn one_by_one(
    app: &App,
    args: &BenchArgs,
    file: &mut File,
) -> std::io::Result<Vec<std::time::Duration>> {
    let payload = vec![b'x'; args.size.max(1) as usize];
    // Over what is allocated already: a sync that must grow the file costs more.
    file.rewind()?;
    let mut samples = Vec::with_capacity(args.samples as usize);
    for _ in 0..args.samples {
        let started = app.clock.monotonic();
        file.write_all(&payload)?;
        file.sync_data()?;
        samples.push(app.clock.monotonic() - started);
    }
    Ok(samples)
}
