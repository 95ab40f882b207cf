//! Pairs of files: looked at in the rhythm of the keeper, and published when they have changed.

use std::time::SystemTime;

use super::keeper::Keeper;
use crate::bundle::{Bundle, BundleError};
use crate::files::look;
use crate::order::with_sources;

impl Keeper {
    pub(super) async fn look_at_files(&mut self) {
        let pairs = self.files.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            let each = pairs.into_iter().map(|(pair, seen)| {
                let (seen, read) = look(&pair, seen, now);
                (pair, seen, read)
            });
            each.collect::<Vec<_>>()
        });
        // A panic there would be one of the certificate parser; the keyring goes on with what it has, and the files are
        // looked at again.
        let Ok(looked) = looked.await else {
            tracing::error!("reading certificates panicked, which is a bug; none is taken");
            return;
        };
        self.files.clear();
        for (pair, seen, read) in looked {
            self.found(&pair.host, read);
            self.files.push((pair, seen));
        }
    }

    fn found(&self, host: &str, read: Option<Result<Bundle, BundleError>>) {
        match read {
            None => {}
            Some(Ok(bundle)) => {
                tracing::info!(
                    site = host,
                    not_after = crate::text(bundle.not_after),
                    "the certificate was replaced"
                );
                self.parts.observe.served(host, bundle.not_after);
                self.parts.publish.publish(bundle);
            }
            Some(Err(error)) => {
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
