//! The Redis server that tests of the temporary store start: installed from the distribution's packages.

use std::path::PathBuf;
use std::process::Command;

use crate::{Result, shell};

/// Tells tests where the server is.
pub(crate) const VARIABLE: &str = "BUSLINE_TEST_REDIS_SERVER";

/// The program of the server; installs it where it is missing.
pub(crate) fn ready() -> Result<PathBuf> {
    if let Some(program) = found() {
        return Ok(program);
    }
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends", "redis-tools", "redis-server"]);
    shell::run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
        .map_err(|error| format!("{error}; install Redis, so that redis-server is in the path"))?;
    found().ok_or_else(|| "redis-server is installed and not in the path".to_owned())
}

fn found() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|part| part.join("redis-server")).find(|file| file.is_file())
}
