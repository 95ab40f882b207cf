//! Why something cannot be kept or found.

use std::io;
use std::path::PathBuf;

/// Why something cannot be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory cannot be made or looked at.
    #[error("cannot use the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file cannot be written; the one before it is still there.
    #[error("cannot write {}; is the disk full or read-only?", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The rights of the owner cannot be taken on.
    #[error("cannot write as the owner of {}", path.display())]
    Owner {
        /// The state directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A directory is a link: whatever it leads to is not the store's.
    #[error("{} is a link; a directory has to be there, move the link away", path.display())]
    Link {
        /// The directory.
        path: PathBuf,
    },
    /// A file is not what was written there.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}
