//! Certificates from files, watched for change.
//!
//! Owns the looking, not the rhythm: `renew.rs` calls [`Watched::look`] every [`LOOK_EVERY`]. Looking at the file's
//! inode, length and time of change finds every way in which a pair is replaced (a rename, a symbolic link of Certbot or
//! Kubernetes, a write in place, other permissions), on every file system; notifications of the kernel miss some. A pair
//! that does not hold together is refused whole, and looked at again when one of the files changes; one that may become
//! good without any change (it cannot be read, the clock is behind) is looked at each time.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::bundle::{Bundle, BundleError};
use crate::order::with_sources;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen([Option<Mark>; 2]);

/// Inode, length, and the time of its last change in seconds and nanoseconds.
type Mark = (u64, u64, i64, i64);

/// A pair, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The pair.
    pub pair: FilePair,
    /// How it looked when what is served was read; default if that is not known.
    pub seen: Seen,
    /// The look and the refusal that were said last, so that they are said once.
    refused: Option<(Seen, String)>,
}

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

// === impl Watched ===

impl Watched {
    /// What is served of this pair was read when it looked like `seen`.
    pub fn new(pair: FilePair, seen: Seen) -> Watched {
        Watched {
            pair,
            seen,
            refused: None,
        }
    }

    /// The pair, if it has changed since it was last read, or why it is refused, if that is new. Blocks on the disk.
    ///
    /// The look is taken before the files are read: what changes while they are read is found the next time.
    pub fn look(&mut self, now: SystemTime) -> Option<Result<Bundle, BundleError>> {
        let looks = self.pair.seen();
        if looks == self.seen {
            return None;
        }
        let read = self.pair.load(now);
        let may_pass = matches!(
            read,
            Err(BundleError::Unreadable { .. } | BundleError::NotYetValid { .. })
        );
        // Nothing of the files need change before it is good.
        self.seen = if may_pass { Seen::default() } else { looks };
        let refused = read
            .as_ref()
            .err()
            .map(|error| (looks, with_sources(error)));
        let is_said = refused.is_some() && refused == self.refused;
        self.refused = refused;
        (!is_said).then_some(read)
    }
}

fn mark(path: &Path) -> Option<Mark> {
    // A file that is not there for a moment, between two renames, is one more look. The time of change, not that of
    // modification: other permissions and an owner who keeps times (`cp -p`, `install -p`) count as well.
    let metadata = std::fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.len(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::pair_for;

    fn pair_in(dir: &Path) -> FilePair {
        FilePair {
            host: "a.so".to_owned(),
            names: vec!["a.so".to_owned()],
            chain: dir.join("chain.pem"),
            key: dir.join("key.pem"),
        }
    }

    fn put(path: &Path, text: &str) {
        let next = path.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, path).unwrap();
    }

    #[test]
    fn a_pair_is_read_when_it_changes_and_only_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let pair = pair_in(dir.path());
        let now = SystemTime::now();
        let (chain, key) = pair_for(&["a.so"]);
        put(&pair.chain, &chain);
        put(&pair.key, &key);
        let mut watched = Watched::new(pair.clone(), pair.seen());
        assert!(watched.look(now).is_none());

        let (chain, key) = pair_for(&["a.so"]);
        put(&pair.chain, &chain);
        let read = watched.look(now);
        assert!(matches!(read, Some(Err(BundleError::KeyMismatch { .. }))));
        assert!(watched.look(now).is_none(), "it is said once");

        put(&pair.key, &key);
        assert!(matches!(watched.look(now), Some(Ok(_))));
        assert!(watched.look(now).is_none());

        std::fs::remove_file(&pair.key).unwrap();
        let read = watched.look(now);
        assert!(matches!(read, Some(Err(BundleError::Unreadable { .. }))));
        assert!(watched.look(now).is_none(), "it is said once");
        put(&pair.key, &key);
        assert!(matches!(watched.look(now), Some(Ok(_))));
    }

    #[test]
    fn what_changed_between_the_reading_and_the_watching_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let pair = pair_in(dir.path());
        let (chain, key) = pair_for(&["a.so"]);
        put(&pair.chain, &chain);
        put(&pair.key, &key);
        let seen = pair.seen();
        let served = pair.load(SystemTime::now()).unwrap();
        let (chain, key) = pair_for(&["a.so"]);
        put(&pair.chain, &chain);
        put(&pair.key, &key);
        let mut watched = Watched::new(pair, seen);
        let read = watched.look(SystemTime::now()).unwrap().unwrap();
        assert_ne!(read.certified.cert, served.certified.cert);
    }

    #[test]
    fn a_pair_that_becomes_good_by_itself_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let pair = pair_in(dir.path());
        let now = SystemTime::now();
        let (chain, key) = pair_for(&["a.so"]);
        put(&pair.chain, &chain);
        put(&pair.key, &key);
        let mut watched = Watched::new(pair, Seen::default());
        let behind = now - Duration::from_secs(24 * 3600);
        let read = watched.look(behind);
        assert!(matches!(read, Some(Err(BundleError::NotYetValid { .. }))));
        assert!(watched.look(behind).is_none(), "it is said once");
        assert!(matches!(watched.look(now), Some(Ok(_))));
        assert!(watched.look(now).is_none());
    }

    #[test]
    fn other_permissions_are_a_change() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let pair = pair_in(dir.path());
        put(&pair.chain, "chain");
        put(&pair.key, "key");
        let before = pair.seen();
        let readable = std::fs::Permissions::from_mode(0o640);
        // Clocks of file systems tick in milliseconds.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while pair.seen() == before && std::time::Instant::now() < deadline {
            std::fs::set_permissions(&pair.key, readable.clone()).unwrap();
        }
        assert_ne!(pair.seen(), before);
    }
}
