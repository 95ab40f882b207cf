//! Files, directories and the disks below them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use crate::doctor::facts::{Disk, Permissions, Room, Seen};

/// When the file of this process was written: no clock should be before that.
pub(super) fn written_at_of_this_binary() -> Seen<SystemTime> {
    let written = std::env::current_exe()
        .and_then(fs::metadata)
        .and_then(|file| file.modified());
    written.map_err(|error| error.to_string())
}

/// Who owns it and who may write to it.
pub(super) fn permissions(path: &Path) -> Seen<Permissions> {
    let found = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Permissions {
        path: path.to_owned(),
        uid: found.uid(),
        mode: found.mode() & 0o7777,
    })
}

/// The room where `path` is, or will be: a directory that is not there yet is made on the disk of the one above.
pub(super) fn disk(path: &Path, holds: &'static str) -> Disk {
    let there = path.ancestors().find(|above| above.exists());
    let path = there.unwrap_or(Path::new("/")).to_owned();
    let room = rustix::fs::statvfs(&path)
        .map(|found| Room {
            bytes: found.f_bavail.saturating_mul(found.f_frsize),
            // Some file systems (btrfs) make inodes as they need them, and count none.
            inodes: (found.f_files > 0).then_some(found.f_favail),
        })
        .map_err(|error| error.to_string());
    Disk { path, holds, room }
}
