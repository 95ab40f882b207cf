//! What the proxy supplies: the reading of its configuration, and what else `status` should say.
//!
//! Owns two traits. They keep this crate ignorant of configuration files, listeners and TLS.

use serde_json::{Map, Value};

use crate::table::SiteSettings;

/// Reads the configuration again.
pub trait Reloader: Send + Sync {
    /// Reads and checks everything, and changes nothing. Called on a blocking thread.
    ///
    /// # Errors
    /// All faults of the configuration, as the caller of `reload` should see them.
    fn prepare(&self) -> Result<Prepared, String>;
}

/// A configuration that was read and is sound.
pub struct Prepared {
    /// The sites. Not empty.
    pub sites: Vec<SiteSettings>,
    /// Keys that changed and are only looked at when the daemon starts.
    pub needs_restart: Vec<String>,
    /// Something that is not the table's differs from what is in force: limits, deadlines, certificates.
    pub is_changed_beside: bool,
    /// Takes over what is not the table's. Called after the table is published, on the control thread: it must not
    /// block.
    pub commit: Box<dyn FnOnce() + Send>,
}

/// Adds to the reply of `status`: version, uptime, listeners, connections.
pub trait StatusExtra: Send + Sync {
    /// Puts fields beside `sites`. Must not block.
    fn add(&self, status: &mut Map<String, Value>);
}

/// No configuration to read and nothing to add: for tests, and for a daemon without a configuration file.
#[derive(Debug)]
pub struct NoHooks;

impl Reloader for NoHooks {
    fn prepare(&self) -> Result<Prepared, String> {
        Err("this daemon has no configuration file to read again".to_owned())
    }
}

impl StatusExtra for NoHooks {
    fn add(&self, _status: &mut Map<String, Value>) {}
}
