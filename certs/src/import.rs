//! Taking over the certificate of another client: the directory of Certbot, or any with a chain and a key.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::budget::Ledger;
use crate::bundle::{Bundle, BundleError, read_bounded};
use crate::owner::as_owner_of;
use crate::store::{KeyPem, Store, StoreError};

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The pair cannot be served.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A file is not text.
    #[error("{} is not text", .0.display())]
    NotText(PathBuf),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads `fullchain.pem` and `privkey.pem` of `from`, as Certbot names them, without looking at what names they are for.
///
/// # Errors
/// [`ImportError::Bundle`].
pub fn read(from: &Path) -> Result<Bundle, ImportError> {
    let (chain, key) = (from.join(CHAIN), from.join(KEY));
    Ok(Bundle::from_files("import", &chain, &key, &[])?)
}

/// Checks the pair of `from` and stores it for a site, so that no order is needed before it is due.
///
/// # Errors
/// See [`ImportError`]; nothing was stored then.
pub fn import(
    from: &Path,
    host: &str,
    names: &[&str],
    state_dir: &Path,
    now: SystemTime,
) -> Result<Bundle, ImportError> {
    let chain = text(&from.join(CHAIN))?;
    let key = KeyPem::of_combined(text(&from.join(KEY))?);
    let bundle = Bundle::from_pem(host, chain.as_bytes(), key.reveal().as_bytes(), names)?;
    bundle.check(now)?;
    let owner = |source| StoreError::Owner {
        path: state_dir.to_owned(),
        source,
    };
    as_owner_of(state_dir, || keep(state_dir, host, &chain, &key)).map_err(owner)??;
    Ok(bundle)
}

fn keep(state_dir: &Path, host: &str, chain: &str, key: &KeyPem) -> Result<(), ImportError> {
    let store = Store::open(state_dir)?;
    store.store_bundle(host, chain, key)?;
    // It is of another account, whoever issued the one before: an order cannot name it. What cannot be read is made anew
    // by the daemon.
    if let Ok(
        ledger @ Ledger {
            directory: Some(_), ..
        },
    ) = store.ledger(host)
    {
        let ledger = Ledger {
            directory: None,
            ..ledger
        };
        store.store_ledger(host, &ledger)?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<String, ImportError> {
    String::from_utf8(read_bounded(path)?).map_err(|_| ImportError::NotText(path.to_owned()))
}

const CHAIN: &str = "fullchain.pem";
const KEY: &str = "privkey.pem";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::pair_for;

    #[test]
    fn a_pair_is_stored_only_if_it_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let (from, state) = (dir.path().join("live"), dir.path().join("state"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&state).unwrap();
        let (chain, key) = pair_for(&["a.so"]);
        std::fs::write(from.join(CHAIN), &chain).unwrap();
        let now = SystemTime::now();
        let missing = import(&from, "a.so", &["a.so"], &state, now).unwrap_err();
        assert!(missing.to_string().contains("privkey.pem"), "{missing}");
        std::fs::write(from.join(KEY), &key).unwrap();
        let other = import(&from, "a.so", &["a.so", "b.so"], &state, now).unwrap_err();
        assert!(other.to_string().contains("does not cover b.so"), "{other}");
        assert!(
            Store::open(&state)
                .unwrap()
                .bundle("a.so")
                .unwrap()
                .is_none()
        );

        let bundle = import(&from, "a.so", &["a.so"], &state, now).unwrap();
        let stored = Store::open(&state)
            .unwrap()
            .bundle("a.so")
            .unwrap()
            .unwrap();
        assert_eq!(stored.certified.cert, bundle.certified.cert);
        assert_eq!(read(&from).unwrap().names, ["a.so"]);
    }

    #[test]
    fn a_key_among_certificates_is_stored_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (from, state) = (dir.path().join("live"), dir.path().join("state"));
        std::fs::create_dir(&from).unwrap();
        let (chain, key) = pair_for(&["a.so"]);
        let (other, _) = pair_for(&["b.so"]);
        std::fs::write(from.join(CHAIN), &chain).unwrap();
        for combined in [format!("{key}{other}"), format!("{other}{key}{chain}")] {
            std::fs::write(from.join(KEY), combined).unwrap();
            import(&from, "a.so", &["a.so"], &state, SystemTime::now()).unwrap();
            let stored = Store::at(&state).bundle("a.so").unwrap().unwrap();
            assert_eq!(stored.names, ["a.so"]);
        }
    }

    #[test]
    fn an_imported_certificate_is_of_no_ca_here() {
        let dir = tempfile::tempdir().unwrap();
        let (from, state) = (dir.path().join("live"), dir.path().join("state"));
        std::fs::create_dir(&from).unwrap();
        let (chain, key) = pair_for(&["a.so"]);
        std::fs::write(from.join(CHAIN), chain).unwrap();
        std::fs::write(from.join(KEY), key).unwrap();
        let store = Store::open(&state).unwrap();
        let mut ledger = Ledger::default();
        ledger.ordering(SystemTime::now());
        ledger.succeeded("https://ca.example/dir");
        store.store_ledger("a.so", &ledger).unwrap();
        import(&from, "a.so", &["a.so"], &state, SystemTime::now()).unwrap();
        let after = store.ledger("a.so").unwrap();
        assert_eq!((after.directory, after.tried), (None, ledger.tried));
    }
}
