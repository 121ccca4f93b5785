//! Bells: a FIFO that its owner reads and that others write one byte into.
//!
//! The owner holds the reading end, so that `open` for writing without blocking fails with ENXIO as soon
//! as the owner is dead, by whatever cause. It also holds a writing end of its own: without it the FIFO
//! would report end-of-file (a hang-up, for ever readable) whenever the last one who rang had closed.
//! Both ends die with the process, whatever children it has.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::unshared::Unshared;
use super::wait;
use crate::storage::Bell;
use crate::storage::fork::ForkGuard;

/// The owner's ends of a FIFO. Dropping it removes the FIFO.
#[derive(Debug)]
pub(super) struct FsBell {
    reader: Unshared,
    /// Never written to; see the module's text.
    _writer: Unshared,
    path: PathBuf,
    guard: ForkGuard,
}

impl FsBell {
    /// Makes the FIFO; one that a dead owner left is replaced, `AlreadyExists` when its owner lives.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        match make_fifo(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if open_writer(path)?.is_some() {
                    return Err(error);
                }
                remove_if_there(path)?;
                make_fifo(path)?;
            }
            other => other?,
        }
        let reader = Unshared::open(|| open_end(path, false))?;
        let writer = Unshared::open(|| open_end(path, true))?;
        Ok(Self { reader, _writer: writer, path: path.to_owned(), guard: ForkGuard::new() })
    }
}

impl Drop for FsBell {
    fn drop(&mut self) {
        // In a forked child the FIFO is still the parent's.
        if !self.guard.is_forked() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Bell for FsBell {
    fn drain(&self) -> io::Result<bool> {
        let mut rung = false;
        let mut buf = [0_u8; 512];
        loop {
            match (&*self.reader).read(&mut buf) {
                Ok(0) => return Ok(rung),
                Ok(count) => {
                    rung = true;
                    if count < buf.len() {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(rung),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        wait::readable(self.reader.as_fd(), timeout)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.reader.as_fd())
    }

    fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

/// Writes one byte into the FIFO; false when there is none, or none that anybody reads.
pub(super) fn ring(path: &Path) -> io::Result<bool> {
    let Some(mut writer) = open_writer(path)? else { return Ok(false) };
    // The owner may die right here, and a write without readers raises SIGPIPE, which ends a host
    // program that does not ignore it. A reading end of our own makes that impossible.
    let _reader = match open_end(path, false) {
        Ok(reader) => reader,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    loop {
        return match writer.write(&[1]) {
            Ok(_) => Ok(true),
            // Full: it has been rung thousands of times already.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

#[cfg(not(target_vendor = "apple"))]
fn make_fifo(path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, Mode, mkfifoat};

    Ok(mkfifoat(CWD, path, Mode::from_raw_mode(0o666))?)
}

/// rustix has no `mkfifo` for this system; bells are made seldom enough for the command.
#[cfg(target_vendor = "apple")]
fn make_fifo(path: &Path) -> io::Result<()> {
    if fs::exists(path)? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let status = std::process::Command::new("mkfifo").arg(path).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("mkfifo: {status}"))) }
}

/// The writing end, if there is a FIFO with a reader.
fn open_writer(path: &Path) -> io::Result<Option<File>> {
    match open_end(path, true) {
        Ok(writer) => Ok(Some(writer)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens one end without waiting for the other; `InvalidData` when it is no FIFO.
fn open_end(path: &Path, write: bool) -> io::Result<File> {
    // The flags are small positive numbers on every system.
    #[allow(clippy::cast_possible_wrap, clippy::unnecessary_cast)]
    let nonblock = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(!write).write(write).custom_flags(nonblock).open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        return Ok(file);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{} is no FIFO; remove it", path.display()),
    ))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
