//! What is stored comes back, is readable by nobody else, and is replaced as a whole.

#![allow(clippy::unwrap_used)]

use std::time::SystemTime;

use super::*;
use crate::testing::pair_for;

fn modes(dir: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().mode() & 0o777;
        found.push((entry.path().display().to_string(), mode));
        if entry.path().is_dir() {
            found.extend(modes(&entry.path()));
        }
    }
    found
}

fn pending() -> Pending {
    Pending {
        directory: "https://ca.example/dir".to_owned(),
        order: "https://ca.example/order/1".to_owned(),
        names: vec!["a.so".to_owned()],
        key: KeyPem::new("secret".to_owned()),
        noted: Some(SystemTime::UNIX_EPOCH),
    }
}

#[test]
fn everything_comes_back_and_nobody_else_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(store.bundle("a.so").unwrap().is_none());
    assert!(store.pending("a.so").unwrap().is_none());
    assert_eq!(store.ledger("a.so").unwrap(), Ledger::default());

    let (chain, key) = pair_for(&["a.so"]);
    store
        .store_bundle("a.so", &chain, &KeyPem::new(key))
        .unwrap();
    store.store_pending("a.so", &pending()).unwrap();
    let mut ledger = Ledger::default();
    ledger.failed("no".to_owned(), None, 0, SystemTime::now());
    store.store_ledger("a.so", &ledger).unwrap();

    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.bundle("a.so").unwrap().unwrap().names, ["a.so"]);
    assert_eq!(
        store.pending("a.so").unwrap().unwrap().order,
        pending().order
    );
    assert_eq!(store.ledger("a.so").unwrap(), ledger);
    store.forget_pending("a.so").unwrap();
    store.forget_pending("a.so").unwrap();
    assert!(store.pending("a.so").unwrap().is_none());
    for (path, mode) in modes(dir.path()) {
        let expected = if Path::new(&path).is_dir() {
            0o700
        } else {
            0o600
        };
        assert_eq!(mode, expected, "{path}");
        assert!(!path.ends_with(".tmp"), "{path}");
    }
}

#[test]
fn a_directory_that_was_open_to_others_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    std::fs::set_permissions(&certs, std::fs::Permissions::from_mode(0o755)).unwrap();
    Store::open(dir.path()).unwrap();
    assert_eq!(std::fs::metadata(&certs).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_failed_write_names_the_file_and_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.store_pending("a.so", &pending()).unwrap();
    // Nothing can be written to a directory; that holds for root too.
    std::fs::create_dir(dir.path().join("certs/a.so/order.json.tmp")).unwrap();
    let error = store.store_pending("a.so", &pending()).unwrap_err();
    assert!(error.to_string().contains("order.json"), "{error}");
    assert!(store.pending("a.so").unwrap().is_some());
}

#[test]
fn a_damaged_file_is_named_and_not_taken_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.store_ledger("a.so", &Ledger::default()).unwrap();
    std::fs::write(dir.path().join("certs/a.so/ledger.json"), "{").unwrap();
    let error = store.ledger("a.so").unwrap_err();
    assert!(
        error.to_string().contains("ledger.json is damaged"),
        "{error}"
    );
    std::fs::write(dir.path().join("certs/a.so/bundle.pem"), "").unwrap();
    assert!(store.bundle("a.so").is_err());
}

#[test]
fn a_damaged_order_or_account_is_moved_aside_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.store_pending("a.so", &pending()).unwrap();
    let order = dir.path().join("certs/a.so/order.json");
    let url = "https://ca.example/dir";
    let account = dir.path().join("certs/accounts").join(account_name(url));
    for path in [&order, &account] {
        std::fs::write(path, "{").unwrap();
    }
    assert!(store.pending("a.so").unwrap().is_none());
    assert!(store.account(url).unwrap().is_none());
    for path in [&order, &account] {
        assert!(!path.exists());
        let aside = format!("{}.damaged", path.display());
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "{");
    }
}

#[test]
fn nothing_is_written_through_a_link_or_into_a_file_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.store_ledger("a.so", &Ledger::default()).unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let temp = dir.path().join("certs/a.so/order.json.tmp");
    std::os::unix::fs::symlink(&victim, &temp).unwrap();
    store.store_pending("a.so", &pending()).unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    // Left open to others.
    std::fs::write(&temp, "").unwrap();
    std::fs::set_permissions(&temp, std::fs::Permissions::from_mode(0o644)).unwrap();
    store.store_pending("a.so", &pending()).unwrap();
    let order = dir.path().join("certs/a.so/order.json");
    assert_eq!(std::fs::metadata(order).unwrap().mode() & 0o777, 0o600);
    // The directory of a site.
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("certs/b.so")).unwrap();
    let error = store.store_pending("b.so", &pending()).unwrap_err();
    assert!(error.to_string().contains("b.so is a link"), "{error}");
    assert_eq!(std::fs::read_dir(elsewhere).unwrap().count(), 0);
}

#[test]
fn a_key_is_never_shown() {
    let shown = format!("{:?} {:?}", pending(), KeyPem::new("secret".to_owned()));
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn each_directory_has_an_account_of_its_own() {
    let names = [
        "https://a.example/dir",
        "https://a.example/dir2",
        "https://[::1]:14000/dir",
    ]
    .map(account_name);
    assert!(names[0].starts_with("a.example-") && names[0] != names[1]);
    assert!(
        names.iter().all(|name| !name.contains(['/', ':', '['])),
        "{names:?}"
    );
}

#[test]
fn two_writers_at_once_leave_one_whole_file_and_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let store = Store::open(dir.path()).unwrap();
            std::thread::spawn(move || {
                for _ in 0..25 {
                    store.store_ledger("a.so", &Ledger::default()).unwrap();
                    store.ledger("a.so").unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
}

#[test]
fn a_writer_that_does_not_end_is_waited_for_within_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.store_ledger("a.so", &Ledger::default()).unwrap();
    let site = dir.path().join("certs/a.so");
    let held = alone_in(&site, Duration::ZERO).unwrap();
    let error = alone_in(&site, Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    drop(held);
    store.store_ledger("a.so", &Ledger::default()).unwrap();
}
