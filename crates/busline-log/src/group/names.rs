//! Where groups live: file names that any group name can be turned into and read back from.

use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Log, Result};

/// The longest file name that common file systems take, less room for a suffix.
const FILE_NAME_BYTES_MAX: usize = 240;

/// The directory of all groups of a log.
pub(super) fn groups_dir(log: &Log) -> PathBuf {
    log.dir().join("groups")
}

/// The lock that whoever makes or removes a group's directory holds.
pub(super) fn structure_lock(groups: &Path) -> PathBuf {
    groups.join(".lock")
}

/// A member's lock file in its group's directory.
pub(super) fn member_file(group: &Path, member: u64) -> PathBuf {
    members_dir(group).join(format!("{member:016x}"))
}

/// The directory of the members' lock files.
pub(super) fn members_dir(group: &Path) -> PathBuf {
    group.join("members")
}

/// The file name of a group: letters, digits, `-`, `_` and inner dots as they are, the rest `%XX`.
pub(super) fn encode(name: &str) -> Result<String> {
    let mut out = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        // A leading dot would hide the directory, and dots alone mean other directories.
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_')
            || (byte == b'.' && index != 0)
        {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(hex(byte >> 4));
            out.push(hex(byte & 15));
        }
    }
    if name.is_empty() || out.len() > FILE_NAME_BYTES_MAX {
        let message = if name.is_empty() {
            "a group needs a name of at least one character".to_owned()
        } else {
            format!(
                "the group's name takes {} bytes as a file name, more than {FILE_NAME_BYTES_MAX}; \
                 choose a shorter one (other than ASCII letters, digits, '-', '_' and '.', each \
                 byte counts three)",
                out.len()
            )
        };
        return Err(Error::new(ErrorKind::Limit, "group", message).with("group", name));
    }
    Ok(out)
}

/// The name behind a file name; nothing for files that are no groups.
pub(super) fn decode(file: &str) -> Option<String> {
    let mut bytes = file.bytes();
    let mut name = Vec::with_capacity(file.len());
    if file.starts_with('.') {
        return None;
    }
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            name.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            name.push(byte);
        }
    }
    let name = String::from_utf8(name).ok()?;
    // Only what encode writes: two files must never stand for one name.
    (encode(&name).ok()? == file).then_some(name)
}

fn hex(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0').to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_and_stay_in_their_directory() {
        for name in ["alerts", "a.b", ".", "..", "../x", "a/b", "Größe 7", "%41", "a%", "~x", "\0"]
        {
            let file = encode(name).unwrap();
            assert!(!file.starts_with('.') && !file.contains('/') && file.is_ascii(), "{file}");
            assert_eq!(decode(&file).as_deref(), Some(name));
        }
    }

    #[test]
    fn what_is_no_group_is_not_taken_for_one() {
        for file in ["", ".lock", ".gone-1", "%", "%4", "%zz", "%41", "a b", "%c3", "%e0"] {
            assert_eq!(decode(file), None, "{file}");
        }
    }

    #[test]
    fn bounds_are_said() {
        assert!(encode("").is_err());
        assert!(encode(&"a".repeat(240)).is_ok());
        let error = encode(&"a".repeat(241)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(encode(&"ü".repeat(41)).is_err());
    }
}
