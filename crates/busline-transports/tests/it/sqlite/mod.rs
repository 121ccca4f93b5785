//! SQLite: the contract, bad files, and several programs on one database.

mod contract;
