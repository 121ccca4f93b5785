//! The files of a bus directory: a marker, and the settings of each topic beside its log.
//!
//! ```text
//! bus/
//!   BUSLINE               the marker: "busline bus 1\n"
//!   topics/NAME/          the topic's name, escaped
//!     topic.json          its settings; topic.deleted when it is being deleted
//!     log/                segments and groups, see FORMAT.md of busline-log
//!   store/                temporary values of services, see `temporary`
//! ```

use std::path::Path;
use std::time::Duration;

use busline_core::transport::Retention;
use busline_core::{Error, ErrorKind, Result, Topic};
use busline_log::storage::{OpenMode, Storage, make_dir};
use serde::{Deserialize, Serialize};

use super::config::FileConfig;
use super::error::of_io;

const MARKER: &str = "BUSLINE";
const MARKER_TEXT: &str = "busline bus 1\n";
pub(super) const SETTINGS: &str = "topic.json";

/// What `topic.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) name: Topic,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age_ms_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes_max: Option<u64>,
    #[serde(default)]
    ignore_groups: bool,
}

impl Settings {
    pub(super) fn new(name: Topic, retention: Retention) -> Self {
        let ms = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Self {
            name,
            age_ms_max: retention.age_max.map(ms),
            bytes_max: retention.bytes_max,
            ignore_groups: retention.ignore_groups,
        }
    }

    pub(super) fn retention(&self) -> Retention {
        Retention {
            age_max: self.age_ms_max.map(Duration::from_millis),
            bytes_max: self.bytes_max,
            ignore_groups: self.ignore_groups,
        }
    }
}

pub(super) fn check_marker(storage: &dyn Storage, config: &FileConfig) -> Result<()> {
    let root = &config.path;
    let marker = root.join(MARKER);
    let io = |e| of_io("open bus", root, e);
    let conflict = |what: String| Error::new(ErrorKind::Conflict, what);
    match read_small(storage, &marker) {
        Ok(text) if text == MARKER_TEXT.as_bytes() => return Ok(()),
        Ok(text) if is_of_other_version(&text) => {
            return Err(conflict(format!("the bus in {} has a newer format", root.display()))
                .hint("use the version of Busline that made it, or a newer one"));
        }
        Ok(_) => {
            return Err(conflict(format!("the marker {} is damaged", marker.display()))
                .hint("if the directory is a bus, write the line 'busline bus 1' into it"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(conflict(format!("{} is not a directory", root.display()))
                .hint("name an empty or a new directory"));
        }
        Err(error) => return Err(of_io("open bus", &marker, error)),
    }
    let found = match storage.list(root) {
        Ok(names) => Some(names),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(of_io("open bus", root, error)),
    };
    // A bus whose making was interrupted holds at most these.
    let ours = |name: &String| {
        name == "topics" || name == super::temporary::DIRECTORY || name.starts_with(MARKER)
    };
    if found.as_ref().is_some_and(|names| !names.iter().all(ours)) {
        return Err(conflict(format!("{} is not a bus: other files are in it", root.display()))
            .hint("name an empty or a new directory"));
    }
    if !config.create {
        return Err(conflict(format!("there is no bus in {}", root.display()))
            .hint("check the path; without create=false it would be made"));
    }
    let topics = root.join("topics");
    // Each name on the way is durable before the next: a marker without topics, or a bus whose parents are lost with the
    // power, would take receipts with it.
    make_dir(storage, &topics).map_err(io)?;
    write_atomic(storage, &marker, MARKER_TEXT.as_bytes()).map_err(io)
}

/// Whether a marker is whole, but for its number.
fn is_of_other_version(marker: &[u8]) -> bool {
    let number = marker.strip_prefix(b"busline bus ").and_then(|rest| rest.strip_suffix(b"\n"));
    number.is_some_and(|digits| {
        (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
    })
}

pub(super) fn read_settings(storage: &dyn Storage, directory: &Path) -> Result<Settings> {
    let path = directory.join(SETTINGS);
    let bytes = read_small(storage, &path).map_err(|e| of_io("open topic", &path, e))?;
    serde_json::from_slice(&bytes).map_err(|cause| {
        Error::new(ErrorKind::Damaged, format!("{} is damaged", path.display()))
            .source(cause)
            .hint("it holds {\"name\": \"the topic's name\"} at least: write it anew")
    })
}

pub(super) fn write_settings(
    storage: &dyn Storage,
    directory: &Path,
    settings: &Settings,
) -> Result<()> {
    let path = directory.join(SETTINGS);
    let text = serde_json::to_vec_pretty(settings).map_err(|cause| {
        Error::new(ErrorKind::Other, "the topic's settings cannot be written").source(cause)
    })?;
    write_atomic(storage, &path, &text).map_err(|e| of_io("declare topic", &path, e))
}

/// Reads a file that is small when it is what it should be.
fn read_small(storage: &dyn Storage, path: &Path) -> std::io::Result<Vec<u8>> {
    let file = storage.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; 64 << 10];
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, len as u64)? {
            0 => break,
            read => len += read,
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Whole or not at all, durable when it returns. The temporary name is of this process alone.
fn write_atomic(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    let temporary = path.with_file_name(name);
    let file = storage.open(&temporary, OpenMode::CreateNew)?;
    let written = file
        .write_all_at(bytes, 0)
        .and_then(|()| file.sync_all())
        .and_then(|()| storage.rename(&temporary, path));
    if written.is_err() {
        // It is only litter: the error of the writing is the one that counts.
        let _ = storage.remove(&temporary);
    }
    written?;
    path.parent().map_or(Ok(()), |parent| storage.sync_dir(parent))
}

/// A topic's name as the name of a directory: what is not plain is written as `%XX`, and a name
/// that gets too long ends in a digest of itself. Only `topic.json` tells the name.
pub(super) fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if plain && !(byte == b'.' && escaped.is_empty()) {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    if escaped.len() > 200 {
        let digest = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes());
        escaped.truncate(160);
        escaped.push('~');
        escaped.push_str(&digest.simple().to_string());
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories_are_plain_and_differ() {
        assert_eq!(escape("quakes"), "quakes");
        assert_eq!(escape("a.b-c_d"), "a.b-c_d");
        assert_eq!(escape("../x"), "%2E.%2Fx");
        assert_eq!(escape("ü"), "%C3%BC");
        assert_ne!(escape("a b"), escape("a%20b"));
        let (one, two) = ("x".repeat(254) + "1", "x".repeat(254) + "2");
        assert_ne!(escape(&one), escape(&two));
        assert!(escape(&"ü".repeat(127)).len() <= 200);
    }
}
