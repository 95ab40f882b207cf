//! What the keeper survives: attempts that panic, and its own panics.

#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::bundle::Bundle;

/// Panics as often as it is told to, whenever it is told of a next attempt.
#[derive(Default)]
struct Fragile {
    panics_left: AtomicUsize,
    attempted: Mutex<Vec<bool>>,
}

impl Observe for Fragile {
    fn left(&self, _host: &str) {}

    fn served(&self, _host: &str, _not_after: SystemTime) {}

    fn next_attempt(&self, _host: &str, _at: SystemTime) {
        let left = &self.panics_left;
        let one_less = |left: usize| left.checked_sub(1);
        if left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
            .is_ok()
        {
            panic!("for the test");
        }
    }

    fn attempted(&self, _host: &str, is_issued: bool) {
        self.attempted.lock().unwrap().push(is_issued);
    }

    fn refused(&self, _host: &str) {}
}

impl Publish for Fragile {
    fn publish(&self, _bundle: Bundle) {}
}

/// A keeper of one site, whose attempts panic: there is no CA to choose.
fn keeper(
    dir: &std::path::Path,
    observe: &Arc<Fragile>,
) -> (Handle, impl Future<Output = ()> + Send + use<>) {
    let parts = Parts {
        store: Store::open(dir).unwrap(),
        challenges: Arc::default(),
        publish: observe.clone(),
        observe: observe.clone(),
    };
    let work = Work {
        acme: vec![AcmeSite {
            host: "a.so".to_owned(),
            names: vec!["a.so".to_owned()],
        }],
        files: Vec::new(),
        settings: Settings {
            cas: Vec::new(),
            key: KeyKind::P256,
            prefer: Prefer::Http01,
            preflight: Preflight::Off,
            preflight_via: None,
            budget: Budget {
                orders_per_week: 5,
                failures_per_hour: 4,
            },
        },
    };
    start(parts, work)
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_panics_is_a_failure_that_is_noted_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let observe = Arc::new(Fragile::default());
    let (handle, keeping) = keeper(dir.path(), &observe);
    let keeping = tokio::spawn(keeping);
    let renewed = handle.renew(None, false).await.unwrap();
    assert_eq!(renewed[0].outcome, "failed");
    assert!(
        renewed[0].reason.contains("internal error"),
        "{}",
        renewed[0].reason
    );
    let stored = Store::at(dir.path()).ledger("a.so").unwrap();
    assert!(stored.failures >= 1 && stored.backoff_until.is_some());
    // It goes on: the next one is made when its time has come, and is answered as well.
    let again = handle.renew(None, true).await.unwrap();
    assert_eq!(again[0].outcome, "failed");
    assert!(
        observe
            .attempted
            .lock()
            .unwrap()
            .iter()
            .all(|issued| !issued)
    );
    drop(handle);
    keeping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_panics_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let observe = Arc::new(Fragile::default());
    observe.panics_left.store(3, Ordering::SeqCst);
    let (handle, keeping) = keeper(dir.path(), &observe);
    let keeping = tokio::spawn(keeping);
    let listed = handle.list().await.unwrap();
    assert_eq!(listed[0].site, "a.so");
    assert_eq!(observe.panics_left.load(Ordering::SeqCst), 0);
    drop(handle);
    keeping.await.unwrap();
}
