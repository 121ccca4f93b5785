//! Whether a path lies on a network file system, where locks and mapped pages are not shared.

use std::io;
use std::path::{Path, PathBuf};

/// Whether the file system below the path, or below its nearest parent that exists, is remote.
pub(super) fn is_remote(path: &Path) -> io::Result<bool> {
    judge(&existing(path)?)
}

fn existing(path: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(path)?;
    while !std::fs::exists(&path)? {
        if !path.pop() {
            break;
        }
    }
    Ok(path)
}

/// By the magic number of statfs(2).
#[cfg(target_os = "linux")]
fn judge(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;

    // The field's type differs between architectures; magic numbers are 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
    let magic = rustix::fs::statfs(path)?.f_type as u32;
    if magic == FUSE {
        let device = std::fs::metadata(path)?.dev();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        return Ok(is_remote_fuse(&mounts, rustix::fs::major(device), rustix::fs::minor(device)));
    }
    Ok(REMOTE.contains(&magic))
}

/// File systems of the kernel that keep their files on another machine.
#[cfg(target_os = "linux")]
const REMOTE: [u32; 14] = [
    0x0000_6969, // NFS
    0x0000_517b, // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x0000_564c, // NCP
    0x5346_414f, // AFS (OpenAFS)
    0x6b41_4653, // AFS (kernel)
    0x7375_7245, // Coda
    0x00c3_6400, // Ceph
    0x0102_1997, // 9p
    0x0bd0_0bd0, // Lustre
    0x1983_0326, // BeeGFS
    0x4750_4653, // GPFS
    0xaad7_aaea, // PanFS
];

#[cfg(target_os = "linux")]
const FUSE: u32 = 0x6573_5546;

/// A FUSE file system says only in its mount's type what it is.
#[cfg(target_os = "linux")]
fn is_remote_fuse(mountinfo: &str, major: u32, minor: u32) -> bool {
    const NAMES: [&str; 12] = [
        "sshfs",
        "s3fs",
        "gcsfuse",
        "rclone",
        "glusterfs",
        "ceph",
        "ceph-fuse",
        "juicefs",
        "goofys",
        "mount-s3",
        "davfs",
        "smbnetfs",
    ];
    let device = format!("{major}:{minor}");
    mountinfo.lines().any(|line| {
        let Some((mount, kind)) = line.split_once(" - ") else { return false };
        let kind = kind.split(' ').next().unwrap_or_default();
        mount.split(' ').nth(2) == Some(device.as_str())
            && kind.strip_prefix("fuse.").is_some_and(|name| NAMES.contains(&name))
    })
}

/// By the flag of statfs(2) that says "local".
#[cfg(all(target_vendor = "apple", not(target_os = "linux")))]
fn judge(path: &Path) -> io::Result<bool> {
    const MNT_LOCAL: u32 = 0x1000;
    Ok(rustix::fs::statfs(path)?.f_flags & MNT_LOCAL == 0)
}

/// Other systems are not asked: nothing is known against them.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn judge(_path: &Path) -> io::Result<bool> {
    Ok(false)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_local_path_is_not_remote_even_before_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_remote(dir.path()).unwrap());
        assert!(!is_remote(&dir.path().join("not/yet/there")).unwrap());
        assert!(!is_remote(Path::new("relative/and/absent")).unwrap());
    }

    #[test]
    fn fuse_is_judged_by_the_type_of_its_mount() {
        let mounts = "36 25 0:42 / /mnt/a rw,relatime shared:1 - fuse.sshfs me@host:/ rw\n\
                      37 25 0:43 / /mnt/b rw - fuse.lxcfs lxcfs rw\n\
                      broken line\n";
        assert!(is_remote_fuse(mounts, 0, 42));
        assert!(!is_remote_fuse(mounts, 0, 43));
        assert!(!is_remote_fuse(mounts, 0, 44));
    }
}
