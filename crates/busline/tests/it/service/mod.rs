//! Services on buses in memory and on files: what is handled, answered, tried again and given up.

mod batches;
mod handling;
pub(crate) mod harness;
mod layers;
pub(crate) mod processes;
mod refused;
mod states;
mod testing;
