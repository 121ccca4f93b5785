//! The arguments of the demo and of its processes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::args::duration;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep the bus in this directory, which must be empty or missing
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Earthquakes, one JSON object a line, instead of those built in
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// How long all of it may take
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) deadline: Duration,
}

/// Arguments of a process of the demo.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// What it does
    pub(crate) role: Role,
    /// As for `demo`
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
}

/// What a process of the demo does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Turns records into messages.
    Publisher,
    /// A member of the group for the strong ones.
    Alerts,
    /// The member of the group that takes everything.
    Statistics,
    /// A broadcast: sees everything, settles nothing.
    Ticker,
}
