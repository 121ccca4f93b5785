//! Which boot of the machine this is.

use std::io;

/// The kernel's random number of this boot.
#[cfg(target_os = "linux")]
pub(super) fn boot_id() -> io::Result<u128> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read {PATH} (is /proc mounted?): {error}"))
    })?;
    parse(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{PATH} holds no UUID")))
}

/// What the kernel says of this boot, by `sysctl`: its UUID on macOS, its time elsewhere.
#[cfg(not(target_os = "linux"))]
pub(super) fn boot_id() -> io::Result<u128> {
    use std::process::Command;
    use std::sync::OnceLock;

    static BOOT: OnceLock<u128> = OnceLock::new();
    if let Some(id) = BOOT.get() {
        return Ok(*id);
    }
    let output = Command::new("sysctl").args(["-n", NAME]).output()?;
    let id = parse(&String::from_utf8_lossy(&output.stdout)).filter(|_| output.status.success());
    let id = id.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("sysctl {NAME} does not name the boot"))
    })?;
    Ok(*BOOT.get_or_init(|| id))
}

#[cfg(target_vendor = "apple")]
const NAME: &str = "kern.bootsessionuuid";
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
const NAME: &str = "kern.boottime";

/// A UUID as text.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn parse(text: &str) -> Option<u128> {
    let hex: String = text.trim().chars().filter(|c| *c != '-').collect();
    if hex.len() == 32 { u128::from_str_radix(&hex, 16).ok() } else { None }
}

/// The first number of the text, for example the seconds of `{ sec = 1700000000, usec = 0 } ...`.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn parse(text: &str) -> Option<u128> {
    text.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty())?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_a_uuid() {
        assert_eq!(parse("00000000-0000-0000-0000-0000000000ff\n"), Some(255));
        assert_eq!(parse("00000000-0000-0000-0000-0000000000f"), None);
        assert_eq!(parse("not a uuid"), None);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_ne!(boot_id().unwrap(), 0);
    }
}
