//! The reload: the configuration file read again, all of it or nothing.
//!
//! Owns what a reload reads and what it swaps beside the table. The table is the driver's: it calls
//! [`Reloader::prepare`], publishes, and then runs the commit.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use mana_control::hooks::{Prepared, Reloader};

use crate::certificates::load_bundles;
use crate::config::{Config, needs_restart};
use crate::run::{settings_of, site_settings};
use crate::worker::Shared;

/// Reads the configuration from the file that the daemon was started with.
pub struct FromFile {
    file: PathBuf,
    /// What is in force; what needs a restart stays as it was at the start.
    current: Arc<Mutex<Config>>,
    shared: Arc<Shared>,
}

impl FromFile {
    /// `config` is what the daemon was started with.
    pub fn new(file: PathBuf, config: Config, shared: Arc<Shared>) -> FromFile {
        FromFile {
            file,
            current: Arc::new(Mutex::new(config)),
            shared,
        }
    }
}

impl Reloader for FromFile {
    fn prepare(&self) -> Result<Prepared, String> {
        let config = Config::load(&self.file).map_err(|error| with_sources(&error))?;
        let bundles = load_bundles(
            &config.sites,
            &self.shared.keyring,
            &self.shared.metrics,
            SystemTime::now(),
        )
        .map_err(|error| with_sources(&error))?;
        let current = Arc::clone(&self.current);
        let (needs_restart, is_changed_beside) = {
            // A panic cannot leave a half-written configuration: it is replaced by one assignment.
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let is_changed = current.timeouts != config.timeouts
                || current.limits != config.limits
                || !self.shared.keyring.serves_all(&bundles);
            (needs_restart(&current, &config), is_changed)
        };
        let shared = Arc::clone(&self.shared);
        Ok(Prepared {
            sites: site_settings(&config.sites),
            needs_restart,
            is_changed_beside,
            commit: Box::new(move || {
                shared.settings.store(Arc::new(settings_of(&config)));
                shared.keyring.replace_all(bundles);
                let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
                current.timeouts = config.timeouts;
                current.limits = config.limits;
                current.client = config.client;
                current.sites = config.sites;
            }),
        })
    }
}

fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
