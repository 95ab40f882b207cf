//! The reload: the configuration file read again, all of it or nothing.
//!
//! Owns what a reload reads and what it swaps beside the table. The table is the driver's: it calls
//! [`Reloader::prepare`], publishes, and then runs the commit.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use mana_certs::renew::Handle;
use mana_control::hooks::{Prepared, Reloader};

use crate::certificates::{load_bundles, work};
use crate::config::{Config, SiteConfig, needs_restart};
use crate::error_text::with_sources;
use crate::notify::Notifier;
use crate::run::{settings_of, site_settings};
use crate::worker::Shared;

/// Reads the configuration from the file that the daemon was started with.
pub struct FromFile {
    file: PathBuf,
    /// What is in force; what needs a restart stays as it was at the start.
    current: Arc<Mutex<Config>>,
    shared: Arc<Shared>,
    keeper: Handle,
    /// What the verbs about certificates are told by.
    sites: Arc<ArcSwap<Vec<SiteConfig>>>,
    notifier: Arc<Notifier>,
}

impl FromFile {
    /// `config` is what the daemon was started with.
    pub fn new(
        file: PathBuf,
        config: Config,
        shared: Arc<Shared>,
        keeper: Handle,
        sites: Arc<ArcSwap<Vec<SiteConfig>>>,
        notifier: Arc<Notifier>,
    ) -> FromFile {
        FromFile {
            file,
            keeper,
            sites,
            notifier,
            current: Arc::new(Mutex::new(config)),
            shared,
        }
    }
}

impl Reloader for FromFile {
    fn begins(&self) {
        self.notifier.reloading();
    }

    fn is_over(&self) {
        self.notifier.reloaded();
    }

    fn prepare(&self) -> Result<Prepared, String> {
        let config = Config::load(&self.file).map_err(|error| with_sources(&error))?;
        let loaded = load_bundles(
            &config,
            &self.shared.keyring,
            &self.shared.metrics,
            SystemTime::now(),
        )
        .map_err(|error| with_sources(&error))?;
        let work = work(&config).map_err(|error| with_sources(&error))?;
        let (keeper, sites) = (self.keeper.clone(), Arc::clone(&self.sites));
        let current = Arc::clone(&self.current);
        let (needs_restart, is_changed_beside) = {
            // A panic cannot leave a half-written configuration: it is replaced by one assignment.
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let is_changed = current.timeouts != config.timeouts
                || current.limits != config.limits
                || current.acme != config.acme
                || !self.shared.keyring.serves_all(&loaded.bundles);
            (needs_restart(&current, &config), is_changed)
        };
        let shared = Arc::clone(&self.shared);
        Ok(Prepared {
            sites: site_settings(&config.sites),
            needs_restart,
            is_changed_beside,
            commit: Box::new(move || {
                shared.settings.store(Arc::new(settings_of(&config)));
                shared.keyring.replace_all(loaded.bundles, loaded.bare);
                // After the keyring: what was obtained since the bundles were read is published again.
                keeper.take(work);
                sites.store(Arc::new(config.sites.clone()));
                let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
                current.timeouts = config.timeouts;
                current.limits = config.limits;
                current.client = config.client;
                current.acme = config.acme;
                current.sites = config.sites;
            }),
        })
    }
}
