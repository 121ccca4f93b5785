//! The log from outside: a plain model beside it, faults and crashes in memory, and whole processes.
#![cfg(unix)]
#![allow(clippy::print_stdout, clippy::unwrap_used)] // helpers of tests are test code too

mod clone;
mod crash;
mod crash_points;
mod damage;
mod every_fault;
mod faults;
mod fleet;
mod flips;
mod fork;
mod group_flips;
mod helper;
mod keys;
mod media;
mod model;
mod processes;
mod races;
mod records;
mod rng;
mod schedules;
mod small_files;
mod stop;
mod support;
