//! The command line as scripts see it: real processes, exit codes and JSON lines.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod amqp;
mod bounds;
mod bridge;
mod broken;
mod broker;
mod consume;
mod dead;
mod demo;
mod exits;
mod files;
mod groups;
#[cfg(feature = "kafka")]
mod kafka;
mod kills;
mod manual;
mod publish;
mod queues;
mod read;
mod services;
mod sqlite;
mod support;
