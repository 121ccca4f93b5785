//! SQLite: the contract, bad files, Hermes beside us, and several programs on one database.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod contract;
mod files;
mod hermes;
mod python;
mod support;
