//! Texts that Hermes wrote and read, in both directions, and whatever else there may be.

mod given;
mod invented;
