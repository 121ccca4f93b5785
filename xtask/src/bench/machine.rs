//! What should be known to read figures: when and where they were measured, and of what.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::log::failed;
use crate::measure::{Samples, now_us};
use crate::report::with_spread;

/// A line each for people: date and commit, machine, medium.
pub(crate) fn lines(dir: &Path) -> Result<Vec<String>> {
    let [machine, medium] = machine(dir);
    Ok(vec![origin()?, machine, medium])
}

/// How long others are watched.
const LOOK: Duration = Duration::from_millis(500);
/// Others that use more of the processors than this spoil the figures.
const OTHERS_MAX: f64 = 0.25;

/// How many processors others use, which is seen while this program does nothing; not a number where nobody tells.
pub(crate) fn used_by_others() -> f64 {
    let used = || used_ticks(&std::fs::read_to_string("/proc/stat").ok()?);
    let before = used();
    #[allow(clippy::disallowed_methods, reason = "time passes in which this program does nothing")]
    std::thread::sleep(LOOK);
    before.zip(used()).map_or(f64::NAN, |(before, after)| {
        // A tick is a hundredth of a second.
        (after - before) / 100.0 / LOOK.as_secs_f64()
    })
}

/// Whether others used so much, as a rule, that the figures are spoilt; and a line that says how much it was.
pub(crate) fn busy(others: &Samples) -> (bool, String) {
    let is_busy = others.median() > OTHERS_MAX;
    let busy =
        if is_busy { ": BUSY WITH OTHER WORK, trust no figure and ratios little" } else { "" };
    (is_busy, format!("processors used by others: {}{busy}", with_spread(others)))
}

/// What all processors did since the start, apart from idling and waiting for disks.
fn used_ticks(stat: &str) -> Option<f64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Option<Vec<f64>> = fields.map(|field| field.parse().ok()).collect();
    match ticks?.as_slice() {
        [user, nice, system, _idle, _waiting, irq, softirq, stolen, ..] => {
            Some(user + nice + system + irq + softirq + stolen)
        }
        _ => None,
    }
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
    [
        format!("machine: {cpus} x {model}, {os} {}, load {load} at the start", kernel.trim()),
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
    fn a_machine_is_busy_when_others_use_it_as_a_rule() {
        assert_eq!(used_ticks("cpu  1 2 4 1000 1000 8 16 32 0 0\ncpu0 9 9 9"), Some(63.0));
        assert_eq!(used_ticks("cpu  1 2"), None);
        let mut others = Samples::default();
        assert!(!busy(&others).0);
        [1.5, 0.0, 0.1].into_iter().for_each(|used| others.add(used));
        assert!(!busy(&others).0);
        [2.0, 2.0].into_iter().for_each(|used| others.add(used));
        let (is_busy, line) = busy(&others);
        assert!(is_busy && line.contains("BUSY"), "{line}");
    }

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw 0 0\n/dev/c /database xfs rw 0 0\n";
        assert_eq!(medium(mounts, "/data/bench"), "/dev/b on /data, xfs");
        assert_eq!(medium(mounts, "/var"), "/dev/a on /, ext4");
        assert_eq!(medium("", "/var"), "unknown");
    }
}
