//! The memory transport against the contract, and broken transports against the suite.

mod memory;
mod mutants;
