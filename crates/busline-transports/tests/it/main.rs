//! The transports against the contract.

#[cfg(all(feature = "file", unix))]
mod file;
