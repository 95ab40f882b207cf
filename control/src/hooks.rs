//! What the proxy supplies: the reading of its configuration, its certificates, and what else `status` should say.
//!
//! Owns three traits. They keep this crate ignorant of configuration files, listeners and TLS.

use std::pin::Pin;

use serde_json::{Map, Value};

use crate::host::Host;
use crate::reply::{Code, Reply};
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

/// Answers the verbs about certificates, of which this crate knows nothing.
pub trait Certificates: Send + Sync {
    /// All certificates, or the one of a site.
    fn list(&self, site: Option<Host>) -> Answer;
    /// Renews what is due, of all sites or of one; everything with `force`. May take minutes.
    fn renew(&self, site: Option<Host>, force: bool) -> Answer;
}

/// A reply that takes its time.
pub type Answer = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// No configuration to read and nothing to add: for tests, and for a daemon without a configuration file.
#[derive(Debug)]
pub struct NoHooks;

impl Reloader for NoHooks {
    fn prepare(&self) -> Result<Prepared, String> {
        Err("this daemon has no configuration file to read again".to_owned())
    }
}

impl Certificates for NoHooks {
    fn list(&self, _site: Option<Host>) -> Answer {
        no_certificates()
    }

    fn renew(&self, _site: Option<Host>, _force: bool) -> Answer {
        no_certificates()
    }
}

fn no_certificates() -> Answer {
    let reply = Reply::refusal(Code::Refused, "this daemon keeps no certificates");
    Box::pin(std::future::ready(reply))
}

impl StatusExtra for NoHooks {
    fn add(&self, _status: &mut Map<String, Value>) {}
}
