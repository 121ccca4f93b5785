//! What should be known to read figures: when and where they were measured, and of what.

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::log::failed;
use crate::measure::now_us;

/// A line each for people: date and commit, machine, medium.
pub(crate) fn lines(dir: &Path) -> Result<Vec<String>> {
    let [machine, medium] = machine(dir);
    Ok(vec![origin()?, machine, medium])
}

fn origin() -> Result<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        Some(text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    let changed = git(&["status", "--porcelain"]).is_some_and(|changed| !changed.is_empty());
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    let changed = if changed { ", with changes" } else { "" };
    let now = jiff::Timestamp::from_microsecond(now_us()).map_err(failed)?;
    let date = now.strftime("%Y-%m-%d %H:%M UTC");
    Ok(format!("date: {date}, commit {commit}{changed}"))
}

/// The machine, and the medium of a folder.
fn machine(dir: &Path) -> [String; 2] {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let os = std::env::consts::OS;
    let is_busy = load.split('.').next().and_then(|load| load.parse().ok()) >= Some(cpus);
    let busy =
        if is_busy { ": BUSY WITH OTHER WORK, trust no figure and ratios little" } else { "" };
    [
        format!(
            "machine: {cpus} x {model}, {os} {}, load {load} at the start{busy}",
            kernel.trim()
        ),
        format!("medium: {}", medium(&read("/proc/self/mounts"), &dir.to_string_lossy())),
    ]
}

/// The mount that holds a folder: device, place and file system.
fn medium(mounts: &str, dir: &str) -> String {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let holds = |place: &str| {
        let rest = dir.strip_prefix(place.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mount = mounts.filter(|(_, place, _)| holds(place)).max_by_key(|(_, place, _)| place.len());
    mount.map_or_else(
        || "unknown".to_owned(),
        |(device, place, kind)| format!("{device} on {place}, {kind}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw 0 0\n/dev/c /database xfs rw 0 0\n";
        assert_eq!(medium(mounts, "/data/bench"), "/dev/b on /data, xfs");
        assert_eq!(medium(mounts, "/var"), "/dev/a on /, ext4");
        assert_eq!(medium("", "/var"), "unknown");
    }
}
