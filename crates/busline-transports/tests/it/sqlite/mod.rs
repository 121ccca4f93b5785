//! SQLite: the contract, bad files, Hermes beside us, and several programs on one database.

mod contract;
mod files;
mod hermes;
mod python;
mod support;
