//! Certificates from files, watched for change.
//!
//! Owns the looking, not the rhythm: `renew.rs` calls [`look`] every [`LOOK_EVERY`]. Looking at the file's inode, length
//! and time of change finds every way in which a pair is replaced (a rename, a symbolic link of Certbot or Kubernetes, a
//! write in place), on every file system; notifications of the kernel miss the last two. A pair that does not hold
//! together is refused whole, and looked at again when one of the files changes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::bundle::{Bundle, BundleError};

/// The pair of one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePair {
    /// The canonical host.
    pub host: String,
    /// The host and its aliases.
    pub names: Vec<String>,
    /// The chain, leaf first.
    pub chain: PathBuf,
    /// The key of the leaf.
    pub key: PathBuf,
}

/// How a pair looked when it was last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen([Option<(u64, u64, i64, i64)>; 2]);

/// How often the files are looked at. A pair is served at most this long after it was replaced, twice if the two files
/// are not replaced within one interval.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

// === impl FilePair ===

impl FilePair {
    /// How the files look now. Blocks on the disk.
    pub fn seen(&self) -> Seen {
        Seen([mark(&self.chain), mark(&self.key)])
    }

    /// Reads the pair, and checks that it holds together, covers all names and is valid now.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn load(&self, now: SystemTime) -> Result<Bundle, BundleError> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let bundle = Bundle::from_files(&self.host, &self.chain, &self.key, &names)?;
        bundle.check(now)?;
        Ok(bundle)
    }
}

/// The pair, if it has changed since it looked like `seen`; and how it looks now. Blocks on the disk.
///
/// The look is taken before the files are read: what changes while they are read is found the next time.
pub fn look(
    pair: &FilePair,
    seen: Seen,
    now: SystemTime,
) -> (Seen, Option<Result<Bundle, BundleError>>) {
    let looks = pair.seen();
    let read = (looks != seen).then(|| pair.load(now));
    (looks, read)
}

fn mark(path: &Path) -> Option<(u64, u64, i64, i64)> {
    // A file that is not there for a moment, between two renames, is one more look.
    let metadata = std::fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::pair_for;

    #[test]
    fn a_pair_is_read_when_it_changes_and_only_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let pair = FilePair {
            host: "a.so".to_owned(),
            names: vec!["a.so".to_owned()],
            chain: dir.path().join("chain.pem"),
            key: dir.path().join("key.pem"),
        };
        let now = SystemTime::now();
        let (chain, key) = pair_for(&["a.so"]);
        std::fs::write(&pair.chain, chain).unwrap();
        std::fs::write(&pair.key, key).unwrap();
        let seen = pair.seen();
        assert!(look(&pair, seen, now).1.is_none());

        let (chain, key) = pair_for(&["a.so"]);
        std::fs::write(dir.path().join("next"), chain).unwrap();
        std::fs::rename(dir.path().join("next"), &pair.chain).unwrap();
        let (seen, read) = look(&pair, seen, now);
        assert!(matches!(read, Some(Err(BundleError::KeyMismatch { .. }))));
        assert!(look(&pair, seen, now).1.is_none(), "it is said once");

        std::fs::write(dir.path().join("next"), key).unwrap();
        std::fs::rename(dir.path().join("next"), &pair.key).unwrap();
        let (seen, read) = look(&pair, seen, now);
        assert!(matches!(read, Some(Ok(_))));

        std::fs::remove_file(&pair.key).unwrap();
        let (_, read) = look(&pair, seen, now);
        assert!(matches!(read, Some(Err(BundleError::Unreadable { .. }))));
    }
}
