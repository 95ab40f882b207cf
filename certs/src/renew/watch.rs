//! Pairs of files: looked at in the rhythm of the keeper, and published when they have changed.

use std::time::SystemTime;

use super::keeper::Keeper;
use crate::bundle::{Bundle, BundleError};
use crate::order::with_sources;

impl Keeper {
    pub(super) async fn look_at_files(&mut self) {
        let mut files = self.files.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            let found: Vec<_> = files.iter_mut().map(|watched| watched.look(now)).collect();
            (files, found)
        });
        // A panic there would be one of the certificate parser; the keyring goes on with what it has, and the files are
        // looked at again.
        let Ok((files, found)) = looked.await else {
            tracing::error!("reading certificates panicked, which is a bug; none is taken");
            return;
        };
        self.files = files;
        for (index, read) in found.into_iter().enumerate() {
            if let Some(read) = read {
                self.found(&self.files[index].pair.host, read);
            }
        }
    }

    fn found(&self, host: &str, read: Result<Bundle, BundleError>) {
        match read {
            Ok(bundle) => {
                tracing::info!(
                    site = host,
                    not_after = crate::text(bundle.not_after),
                    "the certificate was replaced"
                );
                self.parts.observe.served(host, bundle.not_after);
                self.parts.publish.publish(bundle);
            }
            Err(error) => {
                self.parts.observe.refused(host);
                let error = with_sources(&error);
                tracing::error!(
                    site = host,
                    error,
                    "the new certificate is refused; the one before is served on"
                );
            }
        }
    }
}
