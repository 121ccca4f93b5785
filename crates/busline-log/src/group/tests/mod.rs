//! Tests of groups, from the state machine up to several members over one log.

mod codec;
mod driver;
mod durability;
mod faults;
mod keys;
mod lifecycle;
mod members;
mod model;
mod waiting;
mod world;
