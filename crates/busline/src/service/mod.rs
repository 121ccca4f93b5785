//! Services: events, commands with results, configurations and logs.

pub mod wire;
