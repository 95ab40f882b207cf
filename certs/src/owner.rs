//! Writing as somebody else: root imports into the store of a daemon that has a user of its own.
//!
//! Owns the change of the user and the way back. What lies in the store is in the hands of the daemon's user, who may
//! have put a link in the place of a file or a directory; root that follows it writes wherever it leads. Looking first
//! does not help, because it can be put there afterwards. Under the owner's own user a link leads nowhere that the owner
//! could not go alone.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{self, Gid, Uid};

/// Does something with the rights of the owner of `path`, if this is root and the owner is not.
///
/// The change holds for the whole process: only for a command that does nothing beside it.
///
/// # Errors
/// The owner cannot be found out, or the system does not let this process become it.
pub(crate) fn as_owner_of<T>(path: &Path, work: impl FnOnce() -> T) -> io::Result<T> {
    let owner = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        // It is made by the work, and then is this user's.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(work()),
        Err(error) => return Err(error),
    };
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    if !Uid::effective().is_root() || uid.is_root() {
        return Ok(work());
    }
    let _way_back = WayBack {
        uid: Uid::effective(),
        gid: Gid::effective(),
        groups: unistd::getgroups()?,
    };
    // Groups first: afterwards there is no right to change them.
    unistd::setgroups(&[gid])?;
    unistd::setegid(gid)?;
    unistd::seteuid(uid)?;
    Ok(work())
}

struct WayBack {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Drop for WayBack {
    fn drop(&mut self) {
        // The saved user is root still, so none of it fails; if it did, the process would have fewer rights, not more.
        unistd::seteuid(self.uid).ok();
        unistd::setegid(self.gid).ok();
        unistd::setgroups(&self.groups).ok();
    }
}
