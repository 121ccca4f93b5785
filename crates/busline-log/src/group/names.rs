//! Where groups live: file names that any group name can be turned into and read back from.

use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Log, Result};

/// The longest encoded name: file systems take 255 bytes, and the incarnation follows.
const FILE_NAME_BYTES_MAX: usize = 230;
/// A dot and a random number, so that two groups that had one name never had one path: a handle of
/// the deleted one finds its files gone, not those of the other.
const INCARNATION_BYTES: usize = 17;

/// The directory of all groups of a log.
pub(super) fn groups_dir(log: &Log) -> PathBuf {
    log.dir().join("groups")
}

/// The groups of a log with their directories, sorted by name.
pub(super) fn list(log: &Log) -> Result<Vec<(String, PathBuf)>> {
    let dir = groups_dir(log);
    let files = match log.storage().list(&dir) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list groups", &dir, error)),
    };
    let mut groups: Vec<_> =
        files.iter().filter_map(|file| Some((decode(file)?, dir.join(file)))).collect();
    groups.sort_unstable();
    Ok(groups)
}

/// The directory of the group of this name, if there is one.
pub(super) fn find(log: &Log, name: &str) -> Result<Option<PathBuf>> {
    check(name)?;
    Ok(list(log)?.into_iter().find(|(found, _)| found == name).map(|(_, dir)| dir))
}

/// A directory for a new group of this name, which never was one before.
pub(super) fn fresh(log: &Log, name: &str, incarnation: u64) -> Result<PathBuf> {
    check(name)?;
    Ok(groups_dir(log).join(format!("{}.{incarnation:016x}", encode(name))))
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

/// Refuses names that make no file name.
pub(super) fn check(name: &str) -> Result<()> {
    let len = encode(name).len();
    let message = if name.is_empty() {
        "a group needs a name of at least one character".to_owned()
    } else if len > FILE_NAME_BYTES_MAX {
        format!(
            "the group's name takes {len} bytes as a file name, more than {FILE_NAME_BYTES_MAX}; \
             choose a shorter one (other than ASCII letters, digits, '-', '_' and '.', each \
             byte counts three)"
        )
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Limit, "group", message).with("group", name))
}

/// The name in a file name: letters, digits, `-`, `_` and inner dots as they are, the rest `%XX`.
fn encode(name: &str) -> String {
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
    out
}

/// The name behind a file name; nothing for files that are no groups.
fn decode(file: &str) -> Option<String> {
    let (encoded, incarnation) =
        file.split_at_checked(file.len().checked_sub(INCARNATION_BYTES)?)?;
    let digits = incarnation.strip_prefix('.')?;
    if encoded.starts_with('.') || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = encoded.bytes();
    let mut name = Vec::with_capacity(encoded.len());
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
    // Only what encode writes: two spellings must never stand for one name.
    (!name.is_empty() && encode(&name) == encoded).then_some(name)
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
            let file = format!("{}.00112233445566ff", encode(name));
            assert!(!file.starts_with('.') && !file.contains('/') && file.is_ascii(), "{file}");
            assert_eq!(decode(&file).as_deref(), Some(name));
        }
    }

    #[test]
    fn what_is_no_group_is_not_taken_for_one() {
        for name in ["", ".lock", "%", "%4", "%zz", "a b", "%c3", "%e0", "ü"] {
            let file = format!("{name}.00112233445566ff");
            assert_eq!(decode(&file), None, "{file}");
        }
        for file in
            ["", "a", ".gone-1", "a.00112233445566f", "a.00112233445566fg", "a-00112233445566ff"]
        {
            assert_eq!(decode(file), None, "{file}");
        }
    }

    #[test]
    fn bounds_are_said() {
        assert!(check("").is_err());
        assert!(check(&"a".repeat(230)).is_ok());
        let error = check(&"a".repeat(231)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(check(&"ü".repeat(39)).is_err());
    }
}
