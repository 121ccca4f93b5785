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
use crate::storage::fork::ForkGuard;
use crate::storage::{Bell, Rope};

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

/// A writing end of somebody's FIFO. It keeps nothing alive: whether there is an owner, the reading ends say.
#[derive(Debug)]
pub(super) struct FsRope {
    writer: File,
    path: PathBuf,
}

impl FsRope {
    /// `None` when there is no FIFO, or none that anybody reads.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        Ok(open_writer(path)?.map(|writer| Self { writer, path: path.to_owned() }))
    }

    /// Writes one byte. A write without readers raises SIGPIPE, which ends a host program that does not
    /// ignore it, and the owner may die at any moment.
    fn write(&self) -> io::Result<usize> {
        match write_without_signal(&self.writer) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_guarded(),
            other => other,
        }
    }

    /// A reading end of our own makes the signal impossible. It is there no longer than the write, for it
    /// passes for the owner's.
    pub(super) fn write_guarded(&self) -> io::Result<usize> {
        if !wait::is_read(self.writer.as_fd())? {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let _reader = open_end(&self.path, false)?;
        (&self.writer).write(&[1])
    }
}

impl Rope for FsRope {
    fn ring(&self) -> io::Result<bool> {
        loop {
            return match self.write() {
                Ok(_) => Ok(true),
                // Full: it has been rung thousands of times already.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }
}

/// `Unsupported` by systems that cannot, as Linux before 6.18.
#[cfg(target_os = "linux")]
fn write_without_signal(writer: &File) -> io::Result<usize> {
    use rustix::io::{ReadWriteFlags, pwritev2};

    /// `RWF_NOSIGNAL` of `linux/fs.h`.
    const NO_SIGNAL: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x100);
    /// A pipe has no positions: this asks for none.
    const NO_POSITION: u64 = u64::MAX;

    match pwritev2(writer, &[io::IoSlice::new(&[1])], NO_POSITION, NO_SIGNAL) {
        // Whoever filters system calls may say so in other words.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn write_without_signal(_: &File) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
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
