//! Whole-process tests of the log: real processes, real signals, real file systems.
#![cfg(unix)]
#![allow(clippy::print_stdout, clippy::unwrap_used)] // helpers of tests are test code too

mod helper;
mod kill;
mod media;
mod processes;
mod records;
