//! The embedded bus under fire: real processes that are killed, stopped and started, clocks that jump,
//! media that fail, and futures that are dropped half-way.
//!
//! Every random choice comes from a seed that is printed; `BUSLINE_SEED` repeats one.
//! `BUSLINE_LONG=1` runs the long form.

#![cfg(unix)]

#[cfg(test)]
mod examples;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod inside;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod log;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod python;
#[cfg(test)]
mod service;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(test)]
mod store;
