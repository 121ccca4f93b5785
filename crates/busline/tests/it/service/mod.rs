//! Services on buses in memory and on files: what is handled, answered, tried again and given up.

mod handling;
pub(crate) mod harness;
pub(crate) mod processes;
mod states;
