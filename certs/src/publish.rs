//! The seam between those who obtain bundles and those who serve them.

use crate::bundle::Bundle;

/// Where a checked bundle goes to be served.
///
/// Implemented by the keyring of the proxy. Called at start and at a reload for each site, and by whatever renews
/// certificates. A bundle that is obtained while running is stored first (file, fsync, rename) and published after
/// that: a crash between the two leaves a certificate that the next start finds, never one that only handshakes knew.
pub trait Publish: Send + Sync {
    /// From the next handshake on, `bundle` is served for its names in place of the bundle of the same
    /// [`name`](Bundle::name). Open connections are untouched. Does not block and does not fail.
    fn publish(&self, bundle: Bundle);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::time::SystemTime;

    use super::*;
    use crate::self_signed;

    #[derive(Default)]
    struct Keyring(Mutex<HashMap<String, Bundle>>);

    impl Publish for Keyring {
        fn publish(&self, bundle: Bundle) {
            self.0.lock().unwrap().insert(bundle.name.clone(), bundle);
        }
    }

    #[test]
    fn a_bundle_takes_the_place_of_the_one_of_its_name() {
        let keyring = Keyring::default();
        let now = SystemTime::now();
        let hosts: [&[&str]; 3] = [&["a.so"], &["b.so"], &["a.so", "www.a.so"]];
        for hosts in hosts {
            let publish: &dyn Publish = &keyring;
            publish.publish(self_signed(hosts, now).unwrap());
        }
        let bundles = keyring.0.lock().unwrap();
        assert_eq!(bundles.len(), 2);
        assert_eq!(bundles["a.so"].names, ["a.so", "www.a.so"]);
    }
}
